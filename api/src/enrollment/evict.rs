//! The job that closes sessions of revoked devices which no hub was told of.
//!
//! Compares who may have no session with who is present. The word of a revocation is lost when the
//! broker or a hub is away at that moment, and a device that keeps its session need not say
//! anything for a quarter of an hour.

use std::collections::BTreeMap;

use broker::{BATCH, Downstream};
use protocol::id::{DeviceId, HubId};

use crate::app::App;
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;
use crate::{deliver, devices};

/// Looks at all of them once. A session ends with its certificate, so older ones need no look.
pub(crate) async fn evict(app: App, _lease: Lease) -> Result<Found, Problem> {
    let mut after = None;
    loop {
        let mut conn = app.db.read().await?;
        let revoked = devices::revoked_with_certificate(&mut conn, after, app.now(), BATCH).await?;
        drop(conn);
        let Some((last, _)) = revoked.last() else { return Ok(Found::Nothing) };
        after = Some(*last);
        let ids: Vec<DeviceId> = revoked.iter().map(|(device, _)| *device).collect();
        // While the broker is away this cannot be done, and the hubs say so.
        let Ok(places) = app.broker.locate(&ids).await else { return Ok(Found::Nothing) };
        let mut by_hub: BTreeMap<HubId, Vec<Downstream>> = BTreeMap::new();
        for ((device, through_generation), place) in revoked.into_iter().zip(places) {
            if let Some(presence) = place {
                tracing::warn!(device.id = %device, hub.id = %presence.hub, "revoked device is present");
                let word = Downstream::Revoke { device, through_generation };
                by_hub.entry(presence.hub).or_default().push(word);
            }
        }
        deliver::to_hubs(&app, by_hub).await;
    }
}
