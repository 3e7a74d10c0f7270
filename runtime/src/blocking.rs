//! Where work runs that would hold a runtime up: on threads, or on the runtime all the same.
//!
//! Threads end when they end; a test that wants the same run again takes them away. Must not know
//! what the work is.

use tokio::task::{JoinError, JoinSet};

#[cfg(test)]
mod tests;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On threads of their own.
    #[default]
    Threads,
    /// On the runtime, one after the other: nothing else runs meanwhile, and the order is the same
    /// each time. For tests alone.
    Inline,
}

impl Blocking {
    /// Runs `work`, and waits for its end. On threads it goes on when nobody waits any more.
    ///
    /// # Errors
    /// When the work panics.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await,
            Self::Inline => {
                let mut alone = JoinSet::new();
                alone.spawn(async { work() });
                alone.join_next().await.expect("what was just spawned is there to be joined")
            }
        }
    }

    /// Begins `work` among the tasks of `set`.
    pub fn spawn_in<T: Send + 'static>(
        self,
        set: &mut JoinSet<T>,
        work: impl FnOnce() -> T + Send + 'static,
    ) {
        match self {
            Self::Threads => set.spawn_blocking(work),
            Self::Inline => set.spawn(async { work() }),
        };
    }
}
