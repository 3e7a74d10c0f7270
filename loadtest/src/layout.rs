//! How a swarm is laid out: over how many processes, and from which addresses.
//!
//! Owns the arithmetic of two limits of the system: open files of a process, and ephemeral ports
//! between a pair of addresses. On loopback both are met by the harness itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::open_files::{self, OpenFilesError};

#[cfg(test)]
mod tests;

/// Where Linux says which ports are ephemeral (`ip(7)`).
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Of the ports of an address, in percent, that are planned with: a socket that was closed holds
/// its port for a minute, and a storm opens all of them once more.
const PORT_SHARE: u64 = 45;
/// Sessions of one process, unless the limit of open files allows fewer.
const PER_WORKER: u64 = 10_000;
/// Loopback addresses at most: 127.0.0.2 to 127.0.0.254.
const LOOPBACKS: u64 = 253;

/// Why a swarm cannot be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The limit of open files.
    #[error("there are not enough open files")]
    OpenFiles(#[from] OpenFilesError),
    /// More processes than that are not started.
    #[error("{connections} connections from {workers} processes of {per_worker} are too many")]
    Workers {
        /// Connections that are wanted.
        connections: u64,
        /// Processes that were asked for.
        workers: u64,
        /// Connections that each can hold.
        per_worker: u64,
    },
    /// Too few addresses.
    #[error(
        "{connections} connections need {needed} source addresses for their ports, and there are \
         {given}; name more with --source"
    )]
    Sources {
        /// Connections that are wanted.
        connections: u64,
        /// Addresses that they need.
        needed: u64,
        /// Addresses that there are.
        given: u64,
    },
}

/// What the system allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open files of a process.
    pub files: u64,
    /// Ephemeral ports of an address.
    pub ports: u64,
}

impl Limits {
    /// Those of this machine; raises the soft limit of open files to the hard one.
    ///
    /// # Errors
    /// [`OpenFilesError::System`].
    pub fn of_machine() -> Result<Self, OpenFilesError> {
        let files = open_files::raise()?;
        let range = std::fs::read_to_string(PORT_RANGE).unwrap_or_default();
        let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u64>().ok());
        let ports = match (ends.next(), ends.next()) {
            (Some(first), Some(last)) => last.saturating_sub(first) + 1,
            // What Linux has when nobody changes it.
            _ => 28_232,
        };
        Ok(Self { files, ports })
    }
}

/// What the caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Sessions in all.
    pub connections: u64,
    /// Processes; `None`: as many as are needed.
    pub workers: Option<u64>,
    /// Source addresses; empty: as many of loopback as are needed, where that is possible.
    pub sources: Vec<IpAddr>,
    /// Whether the hubs are on loopback, which has addresses to spare.
    pub is_loopback: bool,
}

/// How a swarm is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Sessions of each process. One process: the harness itself.
    pub shares: Vec<u64>,
    /// The addresses that connections are bound to in turn; empty: whatever the system picks.
    pub sources: Vec<IpAddr>,
    /// Ports that each pair of addresses has.
    pub ports: u64,
}

impl Layout {
    /// Lays `wanted` out within `limits`.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn plan(wanted: &Wanted, limits: Limits) -> Result<Self, LayoutError> {
        let connections = wanted.connections;
        let per_worker = limits.files.saturating_sub(open_files::OTHERS).clamp(1, PER_WORKER);
        let workers = wanted.workers.unwrap_or_else(|| connections.div_ceil(per_worker)).max(1);
        let most = limits.files.saturating_sub(open_files::OTHERS);
        if connections.div_ceil(workers) > most {
            return Err(LayoutError::Workers { connections, workers, per_worker: most });
        }
        let (share, more) = (connections / workers, connections % workers);
        let shares = (0..workers).map(|worker| share + u64::from(worker < more)).collect();
        let needed = connections.div_ceil((limits.ports * PORT_SHARE / 100).max(1)).max(1);
        let sources = match (&wanted.sources[..], wanted.is_loopback) {
            ([], true) => loopbacks(needed.min(LOOPBACKS)),
            ([], false) => Vec::new(),
            (given, _) => given.to_vec(),
        };
        let given = u64::try_from(sources.len()).unwrap_or(u64::MAX).max(1);
        if given < needed {
            return Err(LayoutError::Sources { connections, needed, given });
        }
        Ok(Self { shares, sources, ports: limits.ports })
    }
}

/// One address is the one that everybody uses: nothing needs to be bound then.
fn loopbacks(count: u64) -> Vec<IpAddr> {
    if count <= 1 {
        return Vec::new();
    }
    let last = u8::try_from(count + 1).unwrap_or(u8::MAX);
    (2..=last).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect()
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.shares.iter().sum();
        match self.shares.len() {
            1 => write!(f, "{total} connections from this process")?,
            workers => write!(f, "{total} connections from {workers} worker processes")?,
        }
        match (self.sources.first(), self.sources.last()) {
            (Some(first), Some(last)) => {
                let (count, ports) = (self.sources.len(), self.ports);
                write!(f, ", bound to {count} addresses {first} to {last} with {ports} ports each")
            }
            _ => Ok(()),
        }
    }
}
