//! The freeze that the brake owes: every enrolled device, some at a time.
//!
//! Owns giving it. What destroys and is on its way is withdrawn by the lockdown itself; this reaches
//! what devices have already, in an undo window or behind something else. How far it has come is a
//! row of the store, so that a restart or another node goes on from there.

use protocol::id::{OrderId, PersonName};
use protocol::limits;

use super::intake::{self, Asked};
use super::plan::Plan;
use crate::app::App;
use crate::db::DbError;
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;
use crate::{devices, lockdown};

/// The name of the job.
pub(crate) const FREEZE_JOB: &str = "freeze";
/// In whose name the order is listed.
const GIVER: &str = "automatic-brake";
/// Devices of one order: others write between two of them.
const PIECE: i64 = 200;

/// Gives the freeze that is owed to so many devices more.
pub(crate) async fn freeze(app: App, lease: Lease) -> Result<Found, Problem> {
    if lockdown::owed_freeze(&mut app.db.read().await?).await?.is_none() {
        return Ok(Found::Nothing);
    }
    let now = app.now();
    let Some(mut tx) = lease.write(&app, now).await? else { return Ok(Found::Nothing) };
    // The console may have ended the lockdown meanwhile.
    let Some(owed) = lockdown::owed_freeze(tx.conn()).await? else { return Ok(Found::Nothing) };
    let piece = devices::enrolled_after(tx.conn(), owed.after, PIECE).await?;
    let last = piece.last().map(|device| device.id).filter(|_| now < owed.until);
    lockdown::record_freeze(&mut tx, last).await?;
    let reason = format!("brake: {}", owed.reason).chars().take(limits::TEXT_CHARS).collect();
    let order_id = OrderId::new(now, app.random());
    let plan = last.and_then(|_| Plan::freeze(piece, (owed.until, reason), order_id));
    let Some(plan) = plan else {
        tx.commit().await?;
        return Ok(Found::Nothing);
    };
    let person: PersonName = GIVER.parse().map_err(|_| DbError::Unreadable("operator"))?;
    let asked = Asked { person, token: None, planned_at: now, claim: None, plan };
    let (_, deliveries) = intake::write_within(&app, &mut tx, &asked).await?;
    tx.commit().await?;
    app.outbox.push(deliveries);
    Ok(Found::More)
}
