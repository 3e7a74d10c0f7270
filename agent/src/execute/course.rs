//! What binds a running step to the agent around it.
//!
//! Knows nothing of what the step does: an executor looks, from time to time, whether anybody still
//! waits for it here, and tells how far it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

type Tell = Box<dyn Fn(&str) + Send + Sync>;

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

    /// From now on words on how far it is go there. The first listener stays.
    pub fn listen(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.tell.get_or_init(|| Box::new(tell));
    }

    /// Tells how far it is. Nobody waits for such words: some may be lost.
    pub fn tell(&self, word: &str) {
        if let Some(tell) = self.tell.get() {
            tell(word);
        }
    }
}
