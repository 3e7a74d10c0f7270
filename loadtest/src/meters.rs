//! The meters of a run: what every process that takes part has used.
//!
//! Owns the list of those processes by role, also across restarts: what a role used before it was
//! started again stays counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::probe::{self, Gone, Usage};

#[cfg(test)]
mod tests;

/// The role of the harness itself, and the beginning of those of its workers.
pub const HARNESS: &str = "harness";

const UNKNOWN: Usage = Usage { pss_kib: None, cpu: None, written_kib: None };

#[derive(Debug, Clone, Copy)]
struct Meter {
    pid: u32,
    /// What earlier processes of the role used.
    carried: Usage,
    last: Usage,
}

impl Meter {
    /// Nothing is known of a process before it is seen: it may not be there at all.
    const fn new(pid: u32) -> Self {
        Self { pid, carried: Usage::NOTHING, last: UNKNOWN }
    }

    fn usage(&self) -> Usage {
        self.carried.plus(self.last)
    }
}

/// The meters.
#[derive(Debug, Default)]
pub struct Meters {
    roles: Mutex<BTreeMap<String, Meter>>,
}

/// What each role has used up to a moment.
pub type Readings = BTreeMap<String, Usage>;

/// Whether a role has hubs in it.
pub fn is_hub(role: &str) -> bool {
    role == "up" || role.starts_with("hub")
}

/// Whether a role is the harness or a part of it.
pub fn is_harness(role: &str) -> bool {
    role.starts_with(HARNESS)
}

impl Meters {
    fn roles(&self) -> MutexGuard<'_, BTreeMap<String, Meter>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these processes have those roles.
    pub fn follow(&self, processes: impl IntoIterator<Item = (String, u32)>) {
        let mut roles = self.roles();
        for (role, pid) in processes {
            let meter = roles.entry(role).or_insert(Meter::new(pid));
            if meter.pid != pid {
                let carried = Usage { pss_kib: Some(0), ..meter.usage() };
                *meter = Meter { pid, carried, last: Usage::NOTHING };
            }
        }
    }

    /// Reads all of them. A process that is gone shows what it last did, and no memory; one that was
    /// never there shows nothing.
    pub fn read(&self) -> Readings {
        let mut roles = self.roles();
        for (role, meter) in roles.iter_mut() {
            let look = if is_harness(role) { probe::alone } else { probe::family };
            match look(meter.pid) {
                Ok(usage) => meter.last = usage,
                Err(Gone(_)) if meter.last == UNKNOWN => {}
                // Nothing is known of memory that could not be read while it was there.
                Err(Gone(_)) => meter.last.pss_kib = meter.last.pss_kib.map(|_| 0),
            }
        }
        roles.iter().map(|(role, meter)| (role.clone(), meter.usage())).collect()
    }
}

/// The sum over the roles that are meant: known where that of each is.
pub fn sum(readings: &Readings, is_meant: impl Fn(&str) -> bool) -> Usage {
    let meant = readings.iter().filter(|(role, _)| is_meant(role));
    meant.fold(Usage::NOTHING, |sum, (_, usage)| sum.plus(*usage))
}

/// What cannot be read of whom, in a sentence each.
pub fn unknown(readings: &Readings) -> Vec<String> {
    let of = |(role, usage): (&String, &Usage)| {
        let parts = [
            ("memory", usage.pss_kib.is_none()),
            ("processor time", usage.cpu.is_none()),
            ("what it writes to disks", usage.written_kib.is_none()),
        ];
        let parts: Vec<_> =
            parts.iter().filter(|(_, lacks)| *lacks).map(|(part, _)| *part).collect();
        let why = if *usage == UNKNOWN { "no such process" } else { "root may read it" };
        (!parts.is_empty()).then(|| format!("left out of {role}: {} ({why})", parts.join(", ")))
    };
    readings.iter().filter_map(of).collect()
}
