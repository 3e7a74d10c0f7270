//! Handing things to hubs: locate or guess, group by hub, publish.
//!
//! Owns the way to the broker. Says who was reached; deciding what follows is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use broker::Downstream;
use futures_util::{StreamExt as _, stream};
use protocol::id::{DeviceId, HubId};

use crate::app::App;
use crate::metrics;

mod places;

pub(crate) use self::places::Places;

/// Hubs that are told something at once.
const HUBS_AT_ONCE: usize = 64;

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// Devices whose hub took their part.
    pub(crate) taken: BTreeSet<DeviceId>,
    /// Devices without a session.
    pub(crate) absent: BTreeSet<DeviceId>,
}

/// Whether a device's place may be a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Where it was a moment ago will do: what is lost is sent again.
    Guess,
    /// It is looked up.
    Sure,
}

/// Sends each part to the hub that has its device's session. Devices that are in neither set of
/// the answer could not be asked about: the broker failed.
pub(crate) async fn to_present(app: &App, batch: Vec<Downstream>, look: Look) -> Reached {
    let now = app.clock.now();
    let mut reached = Reached::default();
    let mut by_hub: BTreeMap<HubId, Vec<Downstream>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for part in batch {
        match app.places.get(part.device(), now).filter(|_| look == Look::Guess) {
            Some(hub) => by_hub.entry(hub).or_default().push(part),
            None => unknown.push(part),
        }
    }
    let mut missed = Vec::new();
    for (hub, parts) in by_hub {
        let again = parts.clone();
        let taken = to_hub(app, &hub, parts).await;
        missed.extend(again.into_iter().filter(|part| !taken.contains(&part.device())));
        reached.taken.extend(taken);
    }
    unknown.extend(missed);
    look_up(app, unknown, &mut reached).await;
    reached
}

/// Sends parts whose devices' places are not known, or were wrong.
async fn look_up(app: &App, parts: Vec<Downstream>, reached: &mut Reached) {
    if parts.is_empty() {
        return;
    }
    let devices: Vec<DeviceId> = parts.iter().map(Downstream::device).collect();
    let places = match app.broker.locate(&devices).await {
        Ok(places) => places,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "devices were not located");
            metrics::deliveries("broker_down", devices.len());
            return;
        }
    };
    let now = app.clock.now();
    let mut absent = BTreeSet::new();
    let mut by_hub: BTreeMap<HubId, Vec<Downstream>> = BTreeMap::new();
    for (part, place) in parts.into_iter().zip(places) {
        match place {
            Some(presence) => {
                app.places.note(part.device(), &presence.hub, now);
                by_hub.entry(presence.hub).or_default().push(part);
            }
            None => {
                app.places.forget(part.device());
                absent.insert(part.device());
            }
        }
    }
    metrics::deliveries("absent", absent.len());
    reached.absent.extend(absent);
    for (hub, parts) in by_hub {
        reached.taken.extend(to_hub(app, &hub, parts).await);
    }
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
            Ok(0) => {
                metrics::deliveries("no_receiver", devices.len());
                devices.into_iter().for_each(|device| app.places.forget(device));
            }
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

/// Tells every hub that a device's enrollment ended: all at once, so that none of them waits for
/// another that does not answer.
pub(crate) async fn revoke_everywhere(app: &App, device: DeviceId, through_generation: u32) {
    let hubs = match app.broker.hubs().await {
        Ok(hubs) => hubs,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(device.id = %device, error, "revocation was not pushed");
            return;
        }
    };
    let word = Downstream::Revoke { device, through_generation };
    to_hubs(app, hubs.into_iter().map(|lease| (lease.hub, vec![word.clone()]))).await;
}

/// Sends each hub its parts, to so many hubs at once.
pub(crate) async fn to_hubs(
    app: &App,
    batches: impl IntoIterator<Item = (HubId, Vec<Downstream>)>,
) {
    let send = |(hub, parts): (HubId, Vec<Downstream>)| async move {
        to_hub(app, &hub, parts).await;
    };
    stream::iter(batches).for_each_concurrent(HUBS_AT_ONCE, send).await;
}
