//! What another process costs, read from `/proc` (`proc(5)`).
//!
//! Only looks. Works for processes of the same user, or for root.

use std::io;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The file is not there or not ours to read.
    #[error("process {pid} cannot be looked at")]
    Read {
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not look as `proc(5)` says.
    #[error("{0} of the process is not understood")]
    Content(&'static str),
}

/// What a process has used up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Proportional set size, in KiB: what is shared counts in parts.
    pub pss_kib: u64,
    /// Time on a processor, all threads, in milliseconds.
    pub cpu_ms: u64,
}

/// Looks at a process.
///
/// # Errors
/// [`ProbeError`].
pub fn usage(pid: u32) -> Result<Usage, ProbeError> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(path).map_err(|source| ProbeError::Read { pid, source })
    };
    let pss_kib = pss(&read("smaps_rollup")?).ok_or(ProbeError::Content("smaps_rollup"))?;
    let per_sec = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let per_sec = per_sec.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100).max(1);
    let ticks = ticks(&read("stat")?).ok_or(ProbeError::Content("stat"))?;
    Ok(Usage { pss_kib, cpu_ms: ticks * 1000 / per_sec })
}

impl Usage {
    /// How much processor time went by since `earlier`.
    pub const fn cpu_since(&self, earlier: &Self) -> Duration {
        Duration::from_millis(self.cpu_ms.saturating_sub(earlier.cpu_ms))
    }
}

/// The `Pss` line of `smaps_rollup`.
fn pss(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// `utime` and `stime` of `stat`. The name before them may hold anything, even parentheses.
fn ticks(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}
