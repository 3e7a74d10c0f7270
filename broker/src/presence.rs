//! Presence: which hub has a device's session. Read from leases, never the truth.

use protocol::id::{HubId, SessionId};
use serde::{Deserialize, Serialize};

/// A hub's timed claim to be alive. An incarnation that slept beyond it finds it lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubLease {
    /// The hub.
    pub hub: HubId,
    /// Drawn at each start of the hub, so that two incarnations never share a lease.
    pub incarnation: SessionId,
}

/// What a renewal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseGrant {
    /// Nobody held it: the broker knew nothing of this incarnation, or not any more.
    Taken,
    /// It was held without a break.
    Renewed,
}

/// Where a device's session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The hub.
    pub hub: HubId,
    /// The incarnation of the hub, so that entries of a former one do not come back to life with
    /// the next.
    pub incarnation: SessionId,
    /// The session. Comparison by session decides who may remove the entry.
    pub session: SessionId,
    /// The session's place among those of its device, as its agent numbers them; at most
    /// [`EPOCH_MAX`](protocol::limits::EPOCH_MAX). An entry gives way to a later one only.
    pub epoch: u64,
}

impl Presence {
    /// A session of the hub that holds that lease.
    pub fn new(lease: &HubLease, session: SessionId, epoch: u64) -> Self {
        Self { hub: lease.hub.clone(), incarnation: lease.incarnation, session, epoch }
    }

    /// The lease that the entry counts under.
    pub fn lease(&self) -> HubLease {
        HubLease { hub: self.hub.clone(), incarnation: self.incarnation }
    }
}

/// What became of an entry that a hub wanted to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// The entry stands.
    Written {
        /// The live session on another hub that it took the place of: that hub is to be told.
        replaced: Option<Presence>,
    },
    /// Another session of the device is live and keeps its place: this one is over.
    Stale,
}

impl Arrival {
    /// The entry stands, and nobody has to be told.
    pub const QUIET: Self = Self::Written { replaced: None };
}
