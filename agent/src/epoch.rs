//! The numbers that order the sessions of a device.
//!
//! Owns the promise that each is above every earlier one: in one run by counting, across runs by
//! the clock and the lower bound of time. Must not be asked for anything else than an order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::limits::EPOCH_MAX;
use protocol::time::Timestamp;

#[cfg(test)]
mod tests;

/// Session epochs of this run. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Epochs {
    last: Arc<AtomicU64>,
}

impl Epochs {
    /// Nothing below that lower bound of time is given out.
    pub(crate) fn new(floor: Timestamp) -> Self {
        let epochs = Self { last: Arc::default() };
        epochs.raise(floor);
        epochs
    }

    /// The lower bound of time has risen.
    pub(crate) fn raise(&self, floor: Timestamp) {
        let below = floor.as_millis().min(EPOCH_MAX).saturating_sub(1);
        self.last.fetch_max(below, Ordering::SeqCst);
    }

    /// The epoch of the next session. A clock that was set back does not lower it.
    pub(crate) fn next(&self, wall: Timestamp) -> u64 {
        let after = |last: u64| wall.as_millis().max(last.saturating_add(1)).min(EPOCH_MAX);
        after(self.last.update(Ordering::SeqCst, Ordering::SeqCst, after))
    }
}
