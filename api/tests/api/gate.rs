//! A broker between the control plane and the bus that holds calls back until it is told.
//!
//! Owns no messages: everything passes through to the bus, at once or later.

use std::sync::Arc;

use async_trait::async_trait;
use broker::{
    Arrival, Broker, BrokerError, Downstream, HubLease, LeaseGrant, MemoryBroker, Presence,
    Subscription, Upstream, UpstreamReader,
};
use protocol::frame::HubFrame;
use protocol::id::{DeviceId, HubId};
use protocol::state::Lane;
use tokio::sync::watch;

use super::bench::GUARD;

/// What may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// The answers of where devices are, so that they are old when they come.
    Locating,
    /// Publishing what carries a bulk command.
    PublishingBulk,
    /// Publishing to the hub of that name.
    PublishingTo(&'static str),
}

/// A bus whose calls can be held back.
#[derive(Debug)]
pub(crate) struct Gate {
    bus: Arc<MemoryBroker>,
    held: watch::Sender<Option<Held>>,
    /// Calls that wait now.
    waiting: watch::Sender<usize>,
    /// Questions where devices are that were answered.
    located: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn new(bus: Arc<MemoryBroker>) -> Self {
        Self {
            bus,
            held: watch::Sender::new(None),
            waiting: watch::Sender::new(0),
            located: watch::Sender::new(0),
        }
    }

    pub(crate) fn hold(&self, what: Held) {
        self.held.send_replace(Some(what));
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(None);
    }

    fn holds(&self) -> Option<Held> {
        *self.held.borrow()
    }

    /// Waits until a call is held back.
    pub(crate) async fn until_one_waits(&self) {
        reached(&self.waiting).await;
    }

    /// Waits until a question where devices are was answered.
    pub(crate) async fn until_one_was_located(&self) {
        reached(&self.located).await;
    }

    async fn pass(&self, what: Held) {
        let mut held = self.held.subscribe();
        if *held.borrow_and_update() != Some(what) {
            return;
        }
        self.waiting.send_modify(|count| *count += 1);
        held.wait_for(|held| *held != Some(what)).await.unwrap();
        self.waiting.send_modify(|count| *count -= 1);
    }
}

async fn reached(count: &watch::Sender<usize>) {
    let mut count = count.subscribe();
    tokio::time::timeout(GUARD, count.wait_for(|count| *count > 0)).await.unwrap().unwrap();
}

fn carries_bulk(part: &Downstream) -> bool {
    let Downstream::Deliver { frames, .. } = part else { return false };
    frames.iter().any(|frame| matches!(frame, HubFrame::Command(c) if c.lane == Lane::Bulk))
}

#[async_trait]
impl Broker for Gate {
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError> {
        self.bus.renew_lease(lease).await
    }

    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError> {
        self.bus.release_lease(lease).await
    }

    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError> {
        self.bus.hubs().await
    }

    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError> {
        self.bus.subscribe(lease).await
    }

    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError> {
        if batch.iter().any(carries_bulk) {
            self.pass(Held::PublishingBulk).await;
        }
        if let Some(Held::PublishingTo(name)) = self.holds()
            && name == hub.as_str()
        {
            self.pass(Held::PublishingTo(name)).await;
        }
        self.bus.publish(hub, batch).await
    }

    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        self.bus.send_upstream(batch).await
    }

    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError> {
        self.bus.read_upstream().await
    }

    async fn upstream_waiting(&self) -> Result<u64, BrokerError> {
        self.bus.upstream_waiting().await
    }

    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError> {
        self.bus.arrive(device, presence).await
    }

    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError> {
        self.bus.restore(entries).await
    }

    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError> {
        self.bus.depart(device, presence).await
    }

    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError> {
        let places = self.bus.locate(devices).await;
        self.pass(Held::Locating).await;
        self.located.send_modify(|count| *count += 1);
        places
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        self.bus.probe().await
    }
}
