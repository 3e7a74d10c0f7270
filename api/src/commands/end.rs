//! What becomes of a device's commands when its enrollment ends.
//!
//! Owns the one rule by which the control plane itself calls a command in doubt: it was out, and
//! the enrollment whose key could prove its end is gone.

use protocol::id::DeviceId;
use protocol::state::CommandState;
use serde_json::json;

use super::model::{Happening, Step, step};
use super::store::{self, Standing};
use crate::audit::Kind;
use crate::db::{DbError, Tx};

/// Ends every open command of a device, because of `why`.
pub(crate) async fn end_enrollment(
    tx: &mut Tx,
    device: DeviceId,
    why: &'static str,
) -> Result<(), DbError> {
    let mut open = store::open_of_device(tx.conn(), device).await?;
    for known in &mut open {
        end(tx, known, why);
    }
    store::save(tx, &open).await
}

/// Ends a command that its device was heard of late: nothing more can be proven of it.
pub(super) fn end_if_over(tx: &mut Tx, known: &mut Standing) {
    if known.is_enrollment_over {
        end(tx, known, "its enrollment had ended");
    }
}

fn end(tx: &mut Tx, known: &mut Standing, why: &'static str) {
    let Step::To(state) = step(known.state, Happening::EnrollmentEnded) else { return };
    known.end(state, why, tx.now());
    let is_in_doubt = state == CommandState::InDoubt;
    let kind = if is_in_doubt { Kind::CommandInDoubt } else { Kind::CommandCancelled };
    let payload = json!({ "order_id": known.order, "device_id": known.device, "why": why });
    tx.append(kind, known.id, payload);
}
