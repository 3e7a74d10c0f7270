//! Telling the broker which sessions are here.
//!
//! Owns the order per device: one lane handles all news of a device, one after the other, so an
//! arrival never overtakes the departure before it. A device's sessions on different hubs are in the
//! order of their epochs, whatever order they are told in. An agent's request goes upstream only after
//! its arrival is written: a command stored in between finds the session.

use std::sync::{Arc, Mutex, PoisonError};

use broker::{Arrival, BATCH, BrokerError, Downstream, Presence};
use protocol::close::CloseCode;
use protocol::frame::AgentFrame;
use protocol::id::DeviceId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::core::Core;
use crate::handle::Handle;
use crate::link::CALL_TIMEOUT;

/// Calls to the broker under way at a time.
pub(crate) const LANES: usize = 16;
/// News that wait in one lane.
const LANE_CAPACITY: usize = 1024;

/// A session came or went.
#[derive(Debug)]
pub(crate) enum News {
    /// It came, and asks for what is pending.
    Arrived(Arc<Handle>, AgentFrame),
    /// It went.
    Departed(Arc<Handle>),
}

/// The senders of the lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    senders: Vec<mpsc::Sender<News>>,
    receivers: Mutex<Vec<mpsc::Receiver<News>>>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let (senders, receivers) = (0..LANES).map(|_| mpsc::channel(LANE_CAPACITY)).unzip();
        Self { senders, receivers: Mutex::new(receivers) }
    }

    /// The other ends; once.
    pub(crate) fn take_receivers(&self) -> Vec<mpsc::Receiver<News>> {
        std::mem::take(&mut self.receivers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Passes news on. When the lane is full, the next resync makes up for it.
    pub(crate) fn tell(&self, core: &Core, news: News) {
        let device = match &news {
            News::Arrived(handle, _) | News::Departed(handle) => handle.device,
        };
        if self.senders[lane(device)].try_send(news).is_err() {
            core.metrics.upstream_dropped.increment(1);
            core.link.ask_resync();
        }
    }
}

/// The last byte of a UUIDv7 is random.
fn lane(device: DeviceId) -> usize {
    usize::from(device.as_bytes()[15]) % LANES
}

/// Works one lane off until its senders are gone.
pub(crate) async fn run(core: Arc<Core>, mut lane: mpsc::Receiver<News>) {
    while let Some(news) = lane.recv().await {
        match news {
            News::Arrived(handle, request) => arrive(&core, &handle, request).await,
            News::Departed(handle) => depart(&core, &handle).await,
        }
    }
}

async fn arrive(core: &Core, handle: &Handle, request: AgentFrame) {
    if !core.registry.is_current(handle) {
        return;
    }
    let call = core.broker.arrive(handle.device, core.presence(handle));
    match timeout(CALL_TIMEOUT, call).await.unwrap_or(Err(BrokerError::Unavailable)) {
        Ok(Arrival::Stale) => return handle.close(CloseCode::Replaced),
        Ok(Arrival::Written { replaced }) => tell_replaced(core, handle, replaced).await,
        Err(error) => {
            tracing::debug!(
                device.id = %handle.device,
                error = &error as &dyn std::error::Error,
                "arrival was not written"
            );
            core.link.ask_resync();
            core.link.suspect();
        }
    }
    // Kept there while the broker is away: the answer needs no presence.
    if core.upstream.send(core.address(handle, request)).await.is_err() {
        core.metrics.upstream_dropped.increment(1);
    }
}

/// Writes the entries of sessions again, where they are missing or older than the session. What
/// turns out to be over is closed.
pub(crate) async fn restore(core: &Core, sessions: &[Arc<Handle>]) -> Result<(), BrokerError> {
    for some in sessions.chunks(BATCH) {
        let entries: Vec<_> =
            some.iter().map(|handle| (handle.device, core.presence(handle))).collect();
        let restored = timeout(CALL_TIMEOUT, core.broker.restore(&entries)).await;
        let restored = restored.unwrap_or(Err(BrokerError::Unavailable))?;
        for (handle, arrival) in some.iter().zip(restored) {
            match arrival {
                Arrival::Stale => handle.close(CloseCode::Replaced),
                Arrival::Written { replaced } => tell_replaced(core, handle, replaced).await,
            }
            // It may have gone, and its departure been told, before its entry was written again.
            if !core.registry.is_current(handle) {
                depart(core, handle).await;
            }
        }
    }
    Ok(())
}

/// Tells the hub of an older session that it is over. When the word is lost, that hub finds out
/// as it restores its entries.
async fn tell_replaced(core: &Core, newer: &Handle, older: Option<Presence>) {
    let Some(Presence { hub, session, .. }) = older else { return };
    let device = newer.device;
    let word = vec![Downstream::Replaced { device, session }];
    let told = timeout(CALL_TIMEOUT, core.broker.publish(&hub, word)).await;
    if !matches!(told, Ok(Ok(1..))) {
        tracing::debug!(device.id = %device, hub.id = %hub, "hub was not told of a later session");
    }
}

/// An entry that stays behind misleads nobody for long: deliveries for it are counted as absent,
/// and the device's next session replaces it.
async fn depart(core: &Core, handle: &Handle) {
    let presence = core.presence(handle);
    let call = core.broker.depart(handle.device, &presence);
    let outcome = timeout(CALL_TIMEOUT, call).await.unwrap_or(Err(BrokerError::Unavailable));
    if outcome.is_err() {
        core.link.suspect();
    }
}
