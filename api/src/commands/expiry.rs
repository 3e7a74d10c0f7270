//! Ending what no device took in time.
//!
//! Owns the rule: past its end, and never acked, a command is expired. What a device has on disk
//! is never called expired here, only shown as overdue: how it ended only the device can say.

use std::time::Duration;

use serde_json::json;

use super::model::{Happening, Step, step};
use super::store;
use crate::app::App;
use crate::audit::Kind;
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;

/// Commands in one run.
const BATCH: i64 = 1000;
/// An ack that was on its way when the validity ended may still come in for this long.
const GRACE: Duration = Duration::from_secs(60);

/// Expires what is past its end.
pub(crate) async fn expire(app: App, lease: Lease) -> Result<Found, Problem> {
    let now = app.now();
    let found = store::past_their_end(&mut app.db.read().await?, now, GRACE, BATCH).await?;
    if found.is_empty() {
        return Ok(Found::Nothing);
    }
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == BATCH);
    let Some(mut tx) = lease.write(&app, now).await? else { return Ok(Found::Nothing) };
    // Read again inside the transaction: an ack may have come in between.
    for known in store::past_their_end(tx.conn(), now, GRACE, BATCH).await? {
        if let Step::To(state) = step(known.state, Happening::Expired) {
            store::end(&mut tx, known.id, state, "expired before a device took it").await?;
            let payload = json!({ "order_id": known.order, "device_id": known.device });
            tx.append(Kind::CommandExpired, known.id, payload);
        }
    }
    tx.commit().await?;
    Ok(if is_full { Found::More } else { Found::Nothing })
}
