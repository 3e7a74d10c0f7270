//! Where a `hello` stands in the run of the agent that says it: by this two agents are told apart that both say
//! they are one device.
//!
//! A run is one start of an agent's process to its end, and a device has one at a time. Times are those of the
//! clock that goes on while the machine sleeps and that nobody sets, within one boot (`CLOCK_BOOTTIME`), so
//! that no delay, loss, repetition or order of arrival can make one agent's hellos contradict each other: a run
//! begins after the one before it has spoken last, and between a hello and the one that it names as its
//! former one the run has said none.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::limits::RUN_MICROS_MAX;

#[cfg(test)]
mod tests;

/// The place of a hello, in microseconds since the boot that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When the agent's process began.
    pub started_us: u64,
    /// When it said its former hello; `started_us` at the first one.
    pub previous_us: u64,
    /// When it says this one: after every earlier one of the run.
    pub at_us: u64,
}

impl Run {
    /// Whether the times are in their order and within their bound.
    pub const fn is_sound(&self) -> bool {
        self.started_us <= self.previous_us
            && self.previous_us < self.at_us
            && self.at_us <= RUN_MICROS_MAX
    }
}

/// What is remembered of a device's hellos in one boot: one of them, of the latest run that was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// When its process began.
    pub started_us: u64,
    /// When it was said.
    pub at_us: u64,
}

impl From<Run> for Heard {
    fn from(run: Run) -> Self {
        Self { started_us: run.started_us, at_us: run.at_us }
    }
}

impl Heard {
    /// Whether the agent that said what is remembered cannot have said this as well: there are two, or one that
    /// was put back to what it was before.
    pub fn is_contradicted_by(&self, said: Run) -> bool {
        match said.started_us.cmp(&self.started_us) {
            // It says that it was silent where it was heard.
            Ordering::Equal => said.previous_us < self.at_us && self.at_us < said.at_us,
            // It spoke when a later run had begun.
            Ordering::Less => said.at_us > self.started_us,
            // An earlier run spoke when it had begun.
            Ordering::Greater => self.at_us > said.started_us,
        }
    }

    /// What is to be remembered after this.
    #[must_use]
    pub fn and(self, said: Run) -> Self {
        match said.started_us.cmp(&self.started_us) {
            Ordering::Greater => said.into(),
            Ordering::Equal => Self { at_us: self.at_us.max(said.at_us), ..self },
            Ordering::Less => self,
        }
    }
}
