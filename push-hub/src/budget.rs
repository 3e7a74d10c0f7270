//! How much memory and how many descriptors the process may take before further sessions are
//! turned away.
//!
//! Owns the sampling. Must not close anybody: sessions that are here stay.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::core::Core;

#[cfg(test)]
mod tests;

/// Where Linux publishes what a process takes (`proc_pid_status(5)`); in kB, whatever the size of
/// a page.
const STATUS: &str = "/proc/self/status";
/// Where it publishes the limits of a process (`proc_pid_limits(5)`).
const LIMITS: &str = "/proc/self/limits";
/// Descriptors that are not for sessions: the broker, files, the admin port, and connections that
/// are on their way to a session or are told that there is no room.
const OTHER_DESCRIPTORS: usize = 128;
/// How often it is looked at. Within that time a hub takes in about a thousand sessions.
const EVERY: Duration = Duration::from_secs(1);

/// What was found last.
#[derive(Debug)]
pub(crate) struct Budget {
    resident_bytes: AtomicU64,
    max_sessions: AtomicUsize,
}

impl Budget {
    /// Nothing was found yet.
    pub(crate) const fn new() -> Self {
        let (resident_bytes, max_sessions) = (AtomicU64::new(0), AtomicUsize::new(usize::MAX));
        Self { resident_bytes, max_sessions }
    }

    /// Whether it is more than so many bytes; 0: no limit.
    pub(crate) fn is_over(&self, max_bytes: u64) -> bool {
        max_bytes > 0 && self.resident_bytes.load(Ordering::Relaxed) > max_bytes
    }

    /// As many sessions as there are descriptors for: beyond, agents must still be told so.
    pub(crate) fn max_sessions(&self) -> usize {
        self.max_sessions.load(Ordering::Relaxed)
    }

    fn found(&self, resident_bytes: u64) {
        self.resident_bytes.store(resident_bytes, Ordering::Relaxed);
    }
}

/// Looks until `stop`.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    loop {
        look(&core);
        if tokio::time::timeout(EVERY, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Looks once; where there is nothing to be seen, nobody is turned away.
pub(crate) fn look(core: &Core) {
    if let Some(descriptors) = max_descriptors(Path::new(LIMITS)) {
        let sessions = descriptors.saturating_sub(OTHER_DESCRIPTORS);
        let before = core.budget.max_sessions.swap(sessions, Ordering::Relaxed);
        let wanted = usize::try_from(core.config().admission.max_sessions).unwrap_or(usize::MAX);
        if sessions != before && sessions < wanted {
            tracing::warn!(descriptors, sessions, "fewer sessions than wanted have a descriptor");
        }
    }
    let Some(bytes) = resident_bytes(Path::new(STATUS)) else { return };
    core.budget.found(bytes);
    #[expect(clippy::cast_precision_loss, reason = "no machine has 2^52 bytes")]
    core.metrics.memory.set(bytes as f64);
}

/// A file of the kernel's own is read without waiting for a disk.
fn resident_bytes(path: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit of open files; `None` when there is none, or nobody says it.
fn max_descriptors(path: &Path) -> Option<usize> {
    let limits = std::fs::read_to_string(path).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
