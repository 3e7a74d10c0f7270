//! What an executor has put up and only a command may take down: quarantine and lock.
//!
//! Put up again at the start, before there is any connection, and looked at from then on: a
//! ruleset that somebody flushed, or that the kernel was not ready for, does not stay away. Must
//! not run beside an executor: the caller sees to that.

use protocol::receipt::Failure;

use crate::execute::quarantine::{Upheld, Watch};
use crate::execute::{lock, quarantine};
use crate::host::Host;

/// Puts up again what a reboot took down. What went wrong with one does not keep the other down.
pub(crate) fn put_up(host: &Host) -> Vec<Failure> {
    let mut failures = Vec::new();
    match quarantine::reassert(host) {
        Ok(stands) => tracing::info!(stands, "quarantine looked at"),
        Err(failure) => failures.push(failure),
    }
    match lock::reassert(host) {
        Ok(state) => tracing::info!(stands = state.is_some(), "lock looked at"),
        Err(failure) => failures.push(failure),
    }
    for failure in &failures {
        tracing::error!(stage = failure.stage, detail = failure.detail, "not re-asserted");
    }
    failures
}

/// The lock and the quarantine of a host.
#[derive(Debug)]
pub(crate) struct Standing;

impl Standing {
    /// Puts up again what a reboot took down. A failure is told, is made good later, and does
    /// not keep the agent from asking for help.
    pub(crate) fn at_start(host: &Host) -> Self {
        put_up(host);
        Self
    }

    /// Watches over the quarantine, be there one now or later. Without a watch it is looked at from
    /// time to time only.
    pub(crate) fn watch(&self, host: &Host) -> Option<Watch> {
        Watch::start(host.clone(), |_| {})
            .inspect_err(|failure| {
                tracing::error!(detail = failure.detail, "quarantine not watched");
            })
            .ok()
    }

    /// Puts up again what is gone. Blocks.
    pub(crate) fn uphold(&self, host: &Host) {
        match quarantine::uphold(host) {
            Ok(Upheld::NotQuarantined | Upheld::Stands | Upheld::Covered) => {}
            Ok(Upheld::Mended(tampering)) => {
                let what = tampering.as_str();
                tracing::error!(what, "quarantine was tampered with, and stands again");
            }
            Ok(Upheld::Confirmed) => tracing::warn!("quarantine without an end is confirmed"),
            Ok(Upheld::RolledBack) => {
                tracing::error!("quarantine without an end and without an answer rolled back");
            }
            Err(failure) => tracing::error!(detail = failure.detail, "quarantine not upheld"),
        }
        match lock::uphold(host) {
            Ok(false) => {}
            Ok(true) => tracing::error!("lock was not as it should be, and stands again"),
            Err(failure) => tracing::error!(detail = failure.detail, "lock not upheld"),
        }
    }
}
