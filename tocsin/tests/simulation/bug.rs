//! Mistakes that an implementation could make, planted to see whether the simulation finds them.
//!
//! Those in the code of the product are planted there, behind the feature `planted-bugs`; the
//! others live in the shells of this simulation, which stand for shells of the product.

use protocol::planted::{self, Bug as InProduct};
use runtime::backoff::planted::jitter_before_cap;

/// Every mistake that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    NoSync,
    AckBeforeJournal,
    SkipExpiry,
    NoFencing,
    UnconditionalUnregister,
    JitterBeforeCap,
    /// A resumed TLS session is let in without a look at the revocations.
    ResumeWithoutRevocationCheck,
    /// What is pending is asked for before the session can be found.
    BacklogBeforeRegister,
    ApprovalsPerKey,
    LaneStarvation,
    /// The store confirms a receipt that it then loses.
    ConfirmBeforeCommit,
    LeaseWithoutCompare,
    /// The effect begins without an intent on disk.
    NoIntent,
    /// After a crash the effect is repeated without looking.
    NoProbe,
    /// A gap in the lane is not noticed.
    IgnoreGap,
    /// The agent forgets its receipt when it is sent, not when it is confirmed.
    ForgetOnSend,
}

/// Plants that bug on this thread, or none.
pub(crate) fn plant(bug: Option<Bug>) {
    jitter_before_cap(bug == Some(Bug::JitterBeforeCap));
    planted::plant(bug.and_then(in_product));
}

fn in_product(bug: Bug) -> Option<InProduct> {
    match bug {
        Bug::NoSync => Some(InProduct::NoSync),
        Bug::SkipExpiry => Some(InProduct::SkipExpiry),
        Bug::ApprovalsPerKey => Some(InProduct::ApprovalsPerKey),
        Bug::LaneStarvation => Some(InProduct::LaneStarvation),
        Bug::UnconditionalUnregister => Some(InProduct::UnconditionalUnregister),
        Bug::LeaseWithoutCompare => Some(InProduct::LeaseWithoutCompare),
        Bug::NoFencing => Some(InProduct::NoFencing),
        Bug::AckBeforeJournal
        | Bug::JitterBeforeCap
        | Bug::ResumeWithoutRevocationCheck
        | Bug::BacklogBeforeRegister
        | Bug::ConfirmBeforeCommit
        | Bug::NoIntent
        | Bug::NoProbe
        | Bug::IgnoreGap
        | Bug::ForgetOnSend => None,
    }
}
