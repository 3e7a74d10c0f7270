//! Reading what hubs pass on, and answering through them.
//!
//! Owns the loop: read a batch, commit, answer, acknowledge. A batch that could not be committed
//! is not acknowledged, so that it comes again, here or at another node.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use broker::{BrokerError, Downstream, Upstream, UpstreamReader};
use protocol::enrollment::DeviceIdentity;
use protocol::frame::Frame as _;
use protocol::id::{DeviceId, HubId};
use runtime::Backoff;
use tokio::time::MissedTickBehavior;

use super::exchange::{Inbound, exchange};
use crate::app::App;
use crate::db::DbError;
use crate::deliver;

/// Batches begin this far apart: what comes meanwhile is in the next one. Nobody waits for it but
/// the device that has acted already.
const PACE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
enum UpstreamError {
    #[error("the broker failed")]
    Broker(#[from] BrokerError),
    #[error("the store failed")]
    Store(#[from] DbError),
}

/// Reads until the drain begins.
pub(crate) async fn read_upstream(app: App) -> Result<(), Infallible> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let failed = tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            outcome = read(&app, &mut backoff) => outcome,
        };
        if let Err(error) = failed {
            tracing::warn!(error = &error as &dyn std::error::Error, "upstream was interrupted");
        }
        let pause = backoff.next(app.entropy.next_u64());
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn read(app: &App, backoff: &mut Backoff) -> Result<(), UpstreamError> {
    let mut reader: Box<dyn UpstreamReader> = app.broker.read_upstream().await?;
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let batch = reader.next().await?;
        answer(app, batch).await?;
        reader.acknowledge().await?;
        backoff.reset();
    }
}

/// Answers one batch.
async fn answer(app: &App, batch: Vec<Upstream>) -> Result<(), DbError> {
    let mut hubs: BTreeMap<DeviceId, HubId> = BTreeMap::new();
    let mut inbound = Vec::with_capacity(batch.len());
    for Upstream { device, generation, hub, frame, .. } in batch {
        // What comes from the bus is as hostile as what comes from the network.
        if let Err(error) = frame.check() {
            tracing::debug!(device.id = %device, error = %error, "frame out of bounds");
            continue;
        }
        // What a device says comes from where it is.
        app.places.note(device, &hub, app.clock.now());
        hubs.insert(device, hub);
        inbound.push(Inbound { identity: DeviceIdentity { device, generation }, frame });
    }
    let mut by_hub: BTreeMap<HubId, Vec<Downstream>> = BTreeMap::new();
    let mut commands = BTreeMap::new();
    for (device, answer) in exchange(app, inbound).await? {
        let Some(hub) = hubs.get(&device) else { continue };
        let parts = by_hub.entry(hub.clone()).or_default();
        if let Some(through_generation) = answer.refused_through {
            parts.push(Downstream::Revoke { device, through_generation });
        } else if !answer.frames.is_empty() {
            commands.insert(device, answer.commands);
            parts.push(Downstream::Deliver { device, frames: answer.frames });
        }
    }
    for (hub, parts) in by_hub {
        for device in deliver::to_hub(app, &hub, parts).await {
            app.sent.note(app.now(), commands.remove(&device).unwrap_or_default());
        }
    }
    Ok(())
}
