//! What an executor has put up and only a command may take down: quarantine and lock.
//!
//! Put up again at the start, before there is any connection, and looked at from then on: a
//! ruleset that somebody flushed, or that the kernel was not ready for, does not stay away. Must
//! not run beside an executor: the caller sees to that.

use crate::execute::{lock, quarantine};
use crate::host::Host;

/// The lock and the quarantine of a host.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The lock could not be put up again.
    is_lock_due: bool,
}

impl Standing {
    /// Puts up again what a reboot took down. A failure is told, is made good later, and does
    /// not keep the agent from asking for help.
    pub(crate) fn at_start(host: &Host) -> Self {
        match quarantine::reassert(host) {
            Ok(stands) => tracing::info!(stands, "quarantine looked at"),
            Err(failure) => tracing::error!(detail = failure.detail, "quarantine not re-asserted"),
        }
        let mut standing = Self { is_lock_due: true };
        standing.put_lock(host);
        standing
    }

    /// Puts up again what is gone. Blocks.
    pub(crate) fn uphold(&mut self, host: &Host) {
        match quarantine::uphold(host) {
            Ok(false) => {}
            Ok(true) => tracing::error!("quarantine was not as it should be, and stands again"),
            Err(failure) => tracing::error!(detail = failure.detail, "quarantine not upheld"),
        }
        if self.is_lock_due {
            self.put_lock(host);
        }
    }

    fn put_lock(&mut self, host: &Host) {
        match lock::reassert(host) {
            Ok(state) => {
                self.is_lock_due = false;
                tracing::info!(stands = state.is_some(), "lock looked at");
            }
            Err(failure) => tracing::error!(detail = failure.detail, "lock not re-asserted"),
        }
    }
}
