//! Sending again what no device has confirmed to have on disk.
//!
//! Owns the pace: 2 s after the first sending, then 4 s, 8 s and so on. A device without a
//! session is left alone for a while: its next hello or check-in brings everything anyway.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::app::App;
use crate::deliver::Look;
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;

use super::dispatch::publish;
use super::sent;
use super::store::delivery;

/// Commands in one run.
const BATCH: usize = broker::BATCH;
/// How long a device without a session is left alone.
const ABSENT: Duration = Duration::from_secs(5 * 60);
/// How long to wait when a hub did not take it, or the broker failed.
const FAILED: Duration = Duration::from_secs(2);

/// Sends what is due.
pub(crate) async fn redeliver(app: App, lease: Lease) -> Result<Found, Problem> {
    let now = app.now();
    let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
    let due = delivery::due(&mut app.db.read().await?, now, limit).await?;
    if due.is_empty() {
        return Ok(Found::Nothing);
    }
    let is_full = due.len() == BATCH;
    let ids: Vec<_> = due.iter().map(|part| (part.device, part.frame.command_id)).collect();
    let deliveries = due.into_iter().map(Into::into).collect();
    let (reached, taken) = publish(&app, deliveries, Look::Sure).await;
    let put_off = |devices: &dyn Fn(&protocol::id::DeviceId) -> bool| -> Vec<_> {
        ids.iter().filter(|(device, _)| devices(device)).map(|(_, command)| *command).collect()
    };
    let absent: BTreeSet<_> = reached.absent;
    let absent_ids = put_off(&|device| absent.contains(device));
    let failed_ids = put_off(&|device| !absent.contains(device) && !reached.taken.contains(device));
    let has_failed = !failed_ids.is_empty();
    let Some(mut tx) = lease.write(&app, now).await? else { return Ok(Found::Nothing) };
    sent::record(&mut tx, now, &taken).await?;
    delivery::put_off(&mut tx, &absent_ids, now.plus(ABSENT)).await?;
    delivery::put_off(&mut tx, &failed_ids, now.plus(FAILED)).await?;
    tx.commit().await?;
    Ok(if is_full && !has_failed { Found::More } else { Found::Nothing })
}
