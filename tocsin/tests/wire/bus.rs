//! The way of one process to the broker, which a test can cut.
//!
//! The broker is the real one in memory; it has no network here. A way that is cut refuses at once,
//! or does what was asked and keeps the answer.

use std::sync::Arc;

use async_trait::async_trait;
use broker::memory::MemoryBroker;
use broker::{
    Arrival, Broker, BrokerError, Downstream, HubLease, LeaseGrant, Presence, Subscription,
    Upstream, UpstreamReader,
};
use protocol::id::{DeviceId, HubId};
use tokio::sync::watch;

use crate::fleet::device_name;
use crate::scene::Scene;

/// How a process stands to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Every call fails, and channels end.
    Refusing,
    /// Calls arrive, answers do not; channels say nothing, and end when that is over.
    Mute,
}

/// How it stands, and how often it was cut.
type State = (Way, u64);

/// One process's way to the broker.
#[derive(Debug)]
pub(crate) struct Bus {
    who: String,
    inner: Arc<MemoryBroker>,
    state: watch::Sender<State>,
    scene: Arc<Scene>,
}

impl Bus {
    pub(crate) fn new(who: &str, inner: &Arc<MemoryBroker>, scene: &Arc<Scene>) -> Self {
        let state = watch::Sender::new((Way::Open, 0));
        Self { who: who.to_owned(), inner: inner.clone(), state, scene: scene.clone() }
    }

    pub(crate) fn set(&self, way: Way) {
        self.state.send_modify(|(now, cuts)| {
            *cuts += u64::from(way != Way::Open);
            *now = way;
        });
    }

    async fn through<T>(
        &self,
        call: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let (way, _) = *self.state.borrow();
        match way {
            Way::Open => call.await,
            Way::Refusing => Err(BrokerError::Unavailable),
            Way::Mute => {
                drop(call.await);
                std::future::pending().await
            }
        }
    }

    fn note_arrival(&self, device: DeviceId, arrival: &Arrival) {
        let (who, device) = (&self.who, device_name(device));
        match arrival {
            Arrival::Written { replaced: None } => {}
            Arrival::Written { replaced: Some(older) } => {
                self.scene.note(format_args!("{who}: {device} was on {} before", older.hub));
            }
            Arrival::Stale => self.scene.note(format_args!("{who}: {device} is late")),
        }
    }
}

#[async_trait]
impl Broker for Bus {
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError> {
        let outcome = self.through(self.inner.renew_lease(lease)).await;
        match &outcome {
            Ok(LeaseGrant::Renewed) => {}
            other => self.scene.note(format_args!("{} asks for its lease: {other:?}", self.who)),
        }
        outcome
    }

    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError> {
        self.through(self.inner.release_lease(lease)).await
    }

    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError> {
        self.through(self.inner.hubs()).await
    }

    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError> {
        let state = self.state.subscribe();
        let (_, cuts) = *state.borrow();
        let inner = self.through(self.inner.subscribe(lease)).await?;
        Ok(Box::new(Channel { inner, state, cuts }))
    }

    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError> {
        self.through(self.inner.publish(hub, batch)).await
    }

    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        self.through(self.inner.send_upstream(batch)).await
    }

    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError> {
        let inner = self.through(self.inner.read_upstream()).await?;
        Ok(Box::new(Reader { inner, state: self.state.subscribe() }))
    }

    async fn upstream_waiting(&self) -> Result<u64, BrokerError> {
        self.through(self.inner.upstream_waiting()).await
    }

    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError> {
        let outcome = self.through(self.inner.arrive(device, presence)).await;
        outcome.inspect(|arrival| self.note_arrival(device, arrival))
    }

    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError> {
        let outcome = self.through(self.inner.restore(entries)).await?;
        for ((device, _), arrival) in entries.iter().zip(&outcome) {
            self.note_arrival(*device, arrival);
        }
        Ok(outcome)
    }

    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError> {
        self.through(self.inner.depart(device, presence)).await
    }

    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError> {
        self.through(self.inner.locate(devices)).await
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.through(self.inner.probe()).await
    }
}

#[derive(Debug)]
struct Channel {
    inner: Box<dyn Subscription>,
    state: watch::Receiver<State>,
    cuts: u64,
}

#[async_trait]
impl Subscription for Channel {
    async fn next(&mut self) -> Option<Downstream> {
        loop {
            let (way, cuts) = *self.state.borrow_and_update();
            if cuts != self.cuts && way != Way::Mute {
                return None;
            }
            tokio::select! {
                biased;
                changed = self.state.changed() => changed.ok()?,
                message = self.inner.next(), if way == Way::Open => return message,
            }
        }
    }
}

#[derive(Debug)]
struct Reader {
    inner: Box<dyn UpstreamReader>,
    state: watch::Receiver<State>,
}

#[async_trait]
impl UpstreamReader for Reader {
    async fn next(&mut self) -> Result<Vec<Upstream>, BrokerError> {
        loop {
            let (way, _) = *self.state.borrow_and_update();
            if way == Way::Refusing {
                return Err(BrokerError::Unavailable);
            }
            tokio::select! {
                biased;
                changed = self.state.changed() => {
                    changed.map_err(|_| BrokerError::Unavailable)?;
                }
                batch = self.inner.next(), if way == Way::Open => return batch,
            }
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        let (way, _) = *self.state.borrow();
        match way {
            Way::Open => self.inner.acknowledge().await,
            Way::Refusing | Way::Mute => Err(BrokerError::Unavailable),
        }
    }
}
