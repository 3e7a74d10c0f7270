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
}

impl Presence {
    /// A session of the hub that holds that lease.
    pub fn new(lease: &HubLease, session: SessionId) -> Self {
        Self { hub: lease.hub.clone(), incarnation: lease.incarnation, session }
    }

    /// The lease that the entry counts under.
    pub fn lease(&self) -> HubLease {
        HubLease { hub: self.hub.clone(), incarnation: self.incarnation }
    }
}
