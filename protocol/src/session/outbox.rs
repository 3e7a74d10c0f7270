//! Frames that wait for one session: urgent before bulk, bounded, and free of memory when empty.

use std::collections::VecDeque;

use crate::limits;
use crate::state::Lane;

/// Encoded frames in two lanes. Thousands of sessions are idle: an empty outbox owns no heap.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    urgent: VecDeque<String>,
    bulk: VecDeque<String>,
    bytes: usize,
}

/// The peer takes less than it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl Outbox {
    pub(super) fn push(&mut self, lane: Lane, text: String) -> Result<(), Overflow> {
        let is_full = self.urgent.len() + self.bulk.len() >= limits::OUTBOX_FRAMES
            || self.bytes + text.len() > limits::OUTBOX_BYTES;
        if is_full {
            return Err(Overflow);
        }
        self.bytes += text.len();
        match lane {
            Lane::Urgent => self.urgent.push_back(text),
            Lane::Bulk => self.bulk.push_back(text),
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<String> {
        let text = self.next()?;
        self.bytes -= text.len();
        if self.bytes == 0 {
            *self = Self::default();
        }
        Some(text)
    }

    fn next(&mut self) -> Option<String> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::has(crate::planted::Bug::LaneStarvation) {
            return self.bulk.pop_front().or_else(|| self.urgent.pop_front());
        }
        self.urgent.pop_front().or_else(|| self.bulk.pop_front())
    }
}
