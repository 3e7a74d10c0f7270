//! What becomes of a device's commands when its enrollment ends.
//!
//! Owns the one rule by which the control plane itself calls a command in doubt: it was out, and
//! the enrollment whose key could prove its end is gone.

use protocol::id::DeviceId;
use protocol::state::CommandState;
use serde_json::json;

use super::model::{Happening, Step, step};
use super::store;
use crate::audit::Kind;
use crate::db::{DbError, Tx};

/// Ends every open command of a device, because of `why`.
pub(crate) async fn end_enrollment(
    tx: &mut Tx,
    device: DeviceId,
    why: &'static str,
) -> Result<(), DbError> {
    for known in store::open_of_device(tx.conn(), device).await? {
        if let Step::To(state) = step(known.state, Happening::EnrollmentEnded) {
            store::end(tx, known.id, state, why).await?;
            let is_in_doubt = state == CommandState::InDoubt;
            let kind = if is_in_doubt { Kind::CommandInDoubt } else { Kind::CommandCancelled };
            let payload = json!({ "order_id": known.order, "device_id": device, "why": why });
            tx.append(kind, known.id, payload);
        }
    }
    Ok(())
}
