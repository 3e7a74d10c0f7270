//! Handing things to hubs: locate, group by hub, publish.
//!
//! Owns the way to the broker. Says who was reached; deciding what follows is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use broker::Downstream;
use protocol::id::{DeviceId, HubId};

use crate::app::App;
use crate::metrics;

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// Devices whose hub took their part.
    pub(crate) taken: BTreeSet<DeviceId>,
    /// Devices without a session.
    pub(crate) absent: BTreeSet<DeviceId>,
}

/// Sends each part to the hub that has its device's session. Devices that are in neither set of
/// the answer could not be asked about: the broker failed.
pub(crate) async fn to_present(app: &App, batch: Vec<Downstream>) -> Reached {
    let mut reached = Reached::default();
    let devices: Vec<DeviceId> = batch.iter().map(Downstream::device).collect();
    let places = match app.broker.locate(&devices).await {
        Ok(places) => places,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "devices were not located");
            metrics::deliveries("broker_down", devices.len());
            return reached;
        }
    };
    let mut by_hub: BTreeMap<HubId, Vec<Downstream>> = BTreeMap::new();
    for ((part, device), place) in batch.into_iter().zip(devices).zip(places) {
        match place {
            Some(presence) => by_hub.entry(presence.hub).or_default().push(part),
            None => {
                reached.absent.insert(device);
            }
        }
    }
    metrics::deliveries("absent", reached.absent.len());
    for (hub, parts) in by_hub {
        reached.taken.extend(to_hub(app, &hub, parts).await);
    }
    reached
}

/// Sends parts to one hub, and says whose parts were taken.
pub(crate) async fn to_hub(
    app: &App,
    hub: &HubId,
    mut parts: Vec<Downstream>,
) -> BTreeSet<DeviceId> {
    let mut taken = BTreeSet::new();
    while !parts.is_empty() {
        let rest = parts.split_off(parts.len().min(broker::BATCH));
        let devices: Vec<_> = parts.iter().map(Downstream::device).collect();
        match app.broker.publish(hub, parts).await {
            Ok(0) => metrics::deliveries("no_receiver", devices.len()),
            Ok(_) => {
                metrics::deliveries("taken", devices.len());
                taken.extend(devices);
            }
            Err(error) => {
                metrics::deliveries("broker_down", devices.len());
                let error = &error as &dyn std::error::Error;
                tracing::warn!(hub.id = %hub, error, "publishing failed");
            }
        }
        parts = rest;
    }
    taken
}

/// Tells every hub that a device's enrollment ended.
pub(crate) async fn revoke_everywhere(app: &App, device: DeviceId, through_generation: u32) {
    let hubs = match app.broker.hubs().await {
        Ok(hubs) => hubs,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(device.id = %device, error, "revocation was not pushed");
            return;
        }
    };
    for lease in hubs {
        let part = Downstream::Revoke { device, through_generation };
        to_hub(app, &lease.hub, vec![part]).await;
    }
}
