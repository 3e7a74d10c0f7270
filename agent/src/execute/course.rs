//! What binds a running step to the agent around it.
//!
//! Knows nothing of what the step does: an executor looks, from time to time, whether anybody still
//! waits for it here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The course of one command's steps. Copies are the same course.
#[derive(Debug, Clone, Default)]
pub struct Course {
    is_left: Arc<AtomicBool>,
}

impl Course {
    /// The agent stops: whatever goes on without it is left to the next one.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::SeqCst);
    }

    /// Whether the agent stops.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }
}
