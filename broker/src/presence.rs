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

/// Where a device's session is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The hub.
    pub hub: HubId,
    /// The session. Comparison by session decides who may remove the entry.
    pub session: SessionId,
}
