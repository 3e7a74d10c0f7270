//! The bus between the control plane and the hubs: wake-ups and envelopes, never the truth.
//!
//! Whatever a broker loses costs delay and nothing else: the store holds every command, and
//! agents ask for what they miss. So nothing here retries for ever, and everything is bounded.
#![warn(missing_docs)]

#[cfg(feature = "contract")]
pub mod contract;
#[cfg(feature = "fixture")]
pub mod fixture;
pub mod memory;
pub mod message;
#[cfg(feature = "redis")]
mod metrics;
pub mod presence;
#[cfg(feature = "redis")]
pub mod redis;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use protocol::id::{DeviceId, HubId};

pub use memory::{MemoryBroker, MemoryLimits};
pub use message::{Downstream, Upstream};
pub use presence::{Arrival, HubLease, LeaseGrant, Presence};
#[cfg(feature = "redis")]
pub use redis::{RedisBroker, RedisConfig};

/// How long a hub's lease lasts without renewal.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often a hub renews its lease.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(3);
/// Deliveries in one batch to a hub, and messages in one batch from hubs.
pub const BATCH: usize = 1000;

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be reached, or answers too late.
    #[error("the broker is not available")]
    Unavailable,
    /// A bounded queue is full.
    #[error("the broker's queue is full")]
    Full,
    /// The hub's lease is held by somebody else, or was lost.
    #[error("the lease of this hub is not ours")]
    LeaseLost,
    /// The caller gave more than one batch may hold.
    #[error("a batch holds at most {BATCH} messages")]
    BatchTooBig,
}

impl BrokerError {
    /// Whether the same call may succeed later without anything else changing.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable | Self::Full => true,
            Self::LeaseLost | Self::BatchTooBig => false,
        }
    }
}

/// The bus. One value per process; cheap calls, safe from many tasks.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync {
    /// Takes or renews a hub's lease, and says which of the two it was. `LeaseLost` when another
    /// incarnation holds it.
    ///
    /// After [`LeaseGrant::Taken`] the hub subscribes anew and [restores](Self::restore) its
    /// sessions: it was away for longer than [`LEASE`], or the broker forgot.
    async fn renew_lease(&self, lease: &HubLease) -> Result<LeaseGrant, BrokerError>;

    /// Gives the lease back; presence of its sessions ends with it. Harmless when nobody holds
    /// it, `LeaseLost` when another incarnation does.
    async fn release_lease(&self, lease: &HubLease) -> Result<(), BrokerError>;

    /// The hubs that hold a lease.
    async fn hubs(&self) -> Result<Vec<HubLease>, BrokerError>;

    /// Subscribes a hub to its channel; `LeaseLost` unless it holds that lease. The newest
    /// subscription of a hub replaces older ones, which end.
    async fn subscribe(&self, lease: &HubLease) -> Result<Box<dyn Subscription>, BrokerError>;

    /// Publishes a batch (at most [`BATCH`]) to a hub's channel, and says how many subscribers
    /// took it. Zero means: not delivered. A subscriber that does not keep up is ended.
    async fn publish(&self, hub: &HubId, batch: Vec<Downstream>) -> Result<usize, BrokerError>;

    /// Appends a batch (at most [`BATCH`]) for the control plane, all of it or nothing. `Full`
    /// when too much waits to be read or acknowledged.
    async fn send_upstream(&self, batch: Vec<Upstream>) -> Result<(), BrokerError>;

    /// Joins the readers of the upstream. Each message goes to one reader, and to another one
    /// when the first drops it unacknowledged.
    async fn read_upstream(&self) -> Result<Box<dyn UpstreamReader>, BrokerError>;

    /// How much of hubs nobody has acknowledged yet, in batches or parts of them; zero when there is nothing.
    async fn upstream_waiting(&self) -> Result<u64, BrokerError>;

    /// Writes that a device has opened a session, unless a live one has a later epoch.
    async fn arrive(&self, device: DeviceId, presence: Presence) -> Result<Arrival, BrokerError>;

    /// Writes the entries (at most [`BATCH`]) of sessions that a hub still has, because it lost
    /// its lease or the broker its memory, or to be sure. As [`arrive`](Self::arrive), in the
    /// order asked, but a live session of the same epoch keeps its place too.
    async fn restore(&self, entries: &[(DeviceId, Presence)]) -> Result<Vec<Arrival>, BrokerError>;

    /// Removes the entry if it is still of that session, in one step. Says whether it was.
    async fn depart(&self, device: DeviceId, presence: &Presence) -> Result<bool, BrokerError>;

    /// Where those devices are, in the order asked; `None` where a device has no session under
    /// a lease that is held.
    async fn locate(&self, devices: &[DeviceId]) -> Result<Vec<Option<Presence>>, BrokerError>;

    /// Goes through the normal path once, to find out whether the bus delivers.
    async fn probe(&self) -> Result<(), BrokerError>;
}

/// A hub's channel.
#[async_trait]
pub trait Subscription: fmt::Debug + Send {
    /// The next delivery. `None` when the channel ended: subscribe again and resync. Cancel safe.
    async fn next(&mut self) -> Option<Downstream>;
}

/// One reader of the upstream.
#[async_trait]
pub trait UpstreamReader: fmt::Debug + Send {
    /// Waits for at least one message and takes up to [`BATCH`]. Cancel safe. Messages that were
    /// taken before and not acknowledged are lost only with the broker.
    async fn next(&mut self) -> Result<Vec<Upstream>, BrokerError>;

    /// Acknowledges everything taken so far: it is in the store.
    async fn acknowledge(&mut self) -> Result<(), BrokerError>;
}

fn check_batch(len: usize) -> Result<(), BrokerError> {
    if len > BATCH { Err(BrokerError::BatchTooBig) } else { Ok(()) }
}
