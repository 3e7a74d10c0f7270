//! Mistakes in the product's own code, planted to prove that the simulation finds them.
//!
//! Compiled only with the feature `planted-bugs`, which nothing but the simulation's test target
//! asks for; a tidy test holds that. A bug is planted on one thread and on no other.

use std::cell::Cell;
use std::time::Duration;

/// Longer than any run.
const ENDLESS: Duration = Duration::from_secs(365 * 86_400);

/// A mistake that the code of a crate makes while it is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The journal does not sync what it appended.
    NoSync,
    /// The device does not look at the end of an envelope's validity.
    SkipExpiry,
    /// Approvals are counted by key, not by person.
    ApprovalsPerKey,
    /// A session sends bulk frames before urgent ones.
    LaneStarvation,
    /// A session that ends takes its device's entry out of the registry, whosever it is.
    UnconditionalUnregister,
    /// A hub's lease is taken without a look at who holds it.
    LeaseWithoutCompare,
    /// An arrival replaces whatever entry there is, however new.
    NoFencing,
    /// A hub waits for the end of a TLS handshake as long as it takes.
    EndlessHandshake,
    /// A hub goes on waiting for a peer that takes no byte.
    EndlessWrite,
    /// A hub waits for the end of a close as long as it takes.
    EndlessClose,
    /// A session does not flush what it wrote.
    NoFlush,
    /// A certificate that a resumed TLS session brings is held against no revocation.
    ResumedUnchecked,
    /// An agent waits for a hub's end of a TLS handshake as long as it takes.
    EndlessDial,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants that bug on this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// That limit, or none to speak of while that bug is planted on this thread.
pub fn limit(bug: Bug, limit: Duration) -> Duration {
    if has(bug) { ENDLESS } else { limit }
}

/// Whether that bug is planted on this thread.
pub fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
