//! What binds a running step to the agent around it.
//!
//! Knows nothing of what the step does: an executor looks, from time to time, whether anybody still
//! waits for it here, and tells how far it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use protocol::advance::Advance;

type Tell = Box<dyn Fn(Advance) + Send + Sync>;

/// The course of one command's steps. Copies are the same course.
#[derive(Clone, Default)]
pub struct Course {
    is_left: Arc<AtomicBool>,
    tell: Arc<OnceLock<Tell>>,
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course").field("is_left", &self.is_left).finish_non_exhaustive()
    }
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

    /// From now on advances go there. The first listener stays.
    pub fn listen(&self, tell: impl Fn(Advance) + Send + Sync + 'static) {
        self.tell.get_or_init(|| Box::new(tell));
    }

    /// Tells how far it is. This never waits, and costs next to nothing: only the newest counts.
    pub fn tell(&self, advance: Advance) {
        if let Some(tell) = self.tell.get() {
            tell(advance);
        }
    }
}
