//! The bus inside one process: what `tocsin up` and tests run on.
//!
//! Passes the same contract as the broker between processes. Must not outlive its process in any
//! way: there is nothing on disk, and nothing here is the truth.

use std::time::Instant;

use async_trait::async_trait;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use protocol::id::{DeviceId, HubId, SessionId};
#[cfg(feature = "planted-bugs")]
use protocol::planted;
use runtime::Clock;
use tokio::sync::mpsc;

use crate::{
    Arrival, BATCH, Broker, BrokerError, Downstream, HubLease, LEASE, LeaseGrant, Presence,
    Subscription, Upstream, UpstreamReader, check_batch,
};

use self::pipe::Pipe;

mod pipe;

/// How much waits inside the broker before it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Messages that wait for one hub before its subscription is ended.
    pub subscription: usize,
    /// Messages of hubs that wait to be read and acknowledged.
    pub upstream: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { subscription: 8 * BATCH, upstream: 16 * BATCH }
    }
}

/// The bus inside one process. Share it in an `Arc`.
#[derive(Debug)]
pub struct MemoryBroker {
    clock: Clock,
    limits: MemoryLimits,
    leases: DashMap<HubId, HeldLease>,
    channels: DashMap<HubId, mpsc::Sender<Downstream>>,
    presence: DashMap<DeviceId, Presence>,
    upstream: Pipe,
}

#[derive(Debug)]
struct HeldLease {
    incarnation: SessionId,
    until: Instant,
}

impl MemoryBroker {
    /// An empty bus; `clock` judges its leases.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self::with_limits(clock, MemoryLimits::default())
    }

    /// An empty bus with bounds of its own, each at least [`BATCH`].
    #[must_use]
    pub fn with_limits(clock: Clock, limits: MemoryLimits) -> Self {
        let limits = MemoryLimits {
            subscription: limits.subscription.max(BATCH),
            upstream: limits.upstream.max(BATCH),
        };
        Self {
            clock,
            limits,
            leases: DashMap::new(),
            channels: DashMap::new(),
            presence: DashMap::new(),
            upstream: Pipe::new(limits.upstream),
        }
    }

    /// Who holds the hub's lease now.
    fn holder(&self, hub: &HubId) -> Option<SessionId> {
        let held = self.leases.get(hub)?;
        (held.until > self.clock.now()).then_some(held.incarnation)
    }

    fn is_live(&self, presence: &Presence) -> bool {
        self.holder(&presence.hub) == Some(presence.incarnation)
    }

    /// Writes the entry unless a live one keeps its place: one of a later epoch, or for which
    /// `keeps` says so.
    fn write(
        &self,
        device: DeviceId,
        presence: &Presence,
        keeps: impl FnOnce(&Presence) -> bool,
    ) -> Arrival {
        match self.presence.entry(device) {
            Entry::Occupied(mut known) => {
                let entry = known.get();
                let is_live = entry.session != presence.session && self.is_live(entry);
                #[cfg(feature = "planted-bugs")]
                let is_live = is_live && !planted::has(planted::Bug::NoFencing);
                if is_live && (entry.epoch > presence.epoch || keeps(entry)) {
                    return Arrival::Stale;
                }
                let former = known.insert(presence.clone());
                let is_elsewhere = is_live && former.hub != presence.hub;
                Arrival::Written { replaced: is_elsewhere.then_some(former) }
            }
            Entry::Vacant(free) => {
                free.insert(presence.clone());
                Arrival::QUIET
            }
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError> {
        let now = self.clock.now();
        let renewed = HeldLease { incarnation: lease.incarnation, until: now + LEASE };
        match self.leases.entry(lease.hub.clone()) {
            Entry::Occupied(mut held) => {
                let is_ours = held.get().incarnation == lease.incarnation;
                let is_held = held.get().until > now;
                #[cfg(feature = "planted-bugs")]
                let is_ours = is_ours || planted::has(planted::Bug::LeaseWithoutCompare);
                if is_held && !is_ours {
                    return Err(BrokerError::LeaseLost);
                }
                held.insert(renewed);
                Ok(if is_held { LeaseGrant::Renewed } else { LeaseGrant::Taken })
            }
            Entry::Vacant(free) => {
                free.insert(renewed);
                Ok(LeaseGrant::Taken)
            }
        }
    }

    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError> {
        let ours = |_: &HubId, held: &HeldLease| held.incarnation == lease.incarnation;
        if self.leases.remove_if(&lease.hub, ours).is_some() {
            self.presence.retain(|_, presence| presence.lease() != *lease);
            return Ok(());
        }
        match self.holder(&lease.hub) {
            Some(_) => Err(BrokerError::LeaseLost),
            None => Ok(()),
        }
    }

    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError> {
        let now = self.clock.now();
        let held = self.leases.iter().filter(|lease| lease.until > now);
        let mut hubs: Vec<_> = held
            .map(|lease| HubLease { hub: lease.key().clone(), incarnation: lease.incarnation })
            .collect();
        hubs.sort_unstable_by(|a, b| a.hub.cmp(&b.hub));
        Ok(hubs)
    }

    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError> {
        if self.holder(&lease.hub) != Some(lease.incarnation) {
            return Err(BrokerError::LeaseLost);
        }
        let (sender, receiver) = mpsc::channel(self.limits.subscription);
        // Dropping the sender of the older subscription ends it.
        self.channels.insert(lease.hub.clone(), sender);
        Ok(Box::new(MemorySubscription { receiver }))
    }

    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError> {
        check_batch(batch.len())?;
        let Entry::Occupied(channel) = self.channels.entry(hub.clone()) else { return Ok(0) };
        match channel.get().try_reserve_many(batch.len()) {
            Ok(permits) => {
                for (permit, message) in permits.zip(batch) {
                    permit.send(message);
                }
                return Ok(1);
            }
            Err(mpsc::error::TrySendError::Closed(())) => {}
            Err(mpsc::error::TrySendError::Full(())) => {
                tracing::warn!(hub.id = %hub, "hub does not keep up, subscription ended");
            }
        }
        channel.remove();
        Ok(0)
    }

    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        check_batch(batch.len())?;
        self.upstream.send(batch)
    }

    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError> {
        Ok(Box::new(self.upstream.reader()))
    }

    async fn upstream_waiting(&self) -> Result<u64, BrokerError> {
        Ok(u64::try_from(self.upstream.len()).unwrap_or(u64::MAX))
    }

    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError> {
        Ok(self.write(device, &presence, |_| false))
    }

    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError> {
        check_batch(entries.len())?;
        let restore = |(device, here): &(DeviceId, Presence)| {
            self.write(*device, here, |known| known.epoch == here.epoch)
        };
        Ok(entries.iter().map(restore).collect())
    }

    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError> {
        let same = |_: &DeviceId, known: &Presence| known.session == presence.session;
        Ok(self.presence.remove_if(&device, same).is_some())
    }

    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError> {
        let known = |device| self.presence.get(device).map(|entry| entry.value().clone());
        let live = |presence: &Presence| self.is_live(presence);
        Ok(devices.iter().map(|device| known(device).filter(live)).collect())
    }

    async fn probe(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemorySubscription {
    receiver: mpsc::Receiver<Downstream>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Option<Downstream> {
        self.receiver.recv().await
    }
}

#[async_trait]
impl UpstreamReader for pipe::Reader {
    async fn next(&mut self) -> Result<Vec<Upstream>, BrokerError> {
        Ok(self.take().await)
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        self.forget_taken();
        Ok(())
    }
}
