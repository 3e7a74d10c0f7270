//! The life of a process: draining in two steps, and tasks that have an owner.
//!
//! Must not know what is being drained: whoever holds a [`Drain`] decides what its soft and its
//! hard token mean to it.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};

pub use tokio_util::sync::CancellationToken;
pub use tokio_util::task::TaskTracker;

#[cfg(test)]
mod tests;

/// How long tasks may tidy up between the hard token and being aborted.
const ABORT_AFTER: Duration = Duration::from_secs(1);

/// The two tokens of an orderly end. Cloning is cheap, and clones are the same drain.
///
/// *Soft*: accept nothing new, finish what is there. *Hard*: stop now; it comes at the deadline,
/// at a second signal, or by [`abort`](Self::abort).
#[derive(Clone, Debug, Default)]
pub struct Drain {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Drain {
    /// A drain that nothing begins but [`begin`](Self::begin).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A drain that SIGTERM or SIGINT begins, with `grace` until the hard token; a second signal
    /// brings the hard token at once. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    #[expect(clippy::disallowed_methods, reason = "the watcher lives as long as the process")]
    pub fn on_signals(grace: Duration) -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let drain = Self::new();
        tokio::spawn(watch_signals(drain.clone(), terminate, interrupt, grace));
        Ok(drain)
    }

    /// A drain of its own that also follows this one: one role of several in a process.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { soft: self.soft.child_token(), hard: self.hard.child_token() }
    }

    /// A drain whose both steps are this one's hard token: for what must serve until the very
    /// end, such as the admin port.
    #[must_use]
    pub fn last(&self) -> Self {
        Self { soft: self.hard.child_token(), hard: self.hard.child_token() }
    }

    /// Cancelled when nothing new may be accepted.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when everything must stop now.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Whether the soft token has been cancelled.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Cancels the soft token now and the hard one after `grace`. When called again, the earliest
    /// deadline wins. Must be called within a Tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "the timer ends with the hard token")]
    pub fn begin(&self, grace: Duration) {
        self.soft.cancel();
        let hard = self.hard.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(grace, hard.cancelled()).await.is_err() {
                hard.cancel();
            }
        });
    }

    /// Cancels both tokens now.
    pub fn abort(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

async fn watch_signals(
    drain: Drain,
    mut terminate: Signal,
    mut interrupt: Signal,
    grace: Duration,
) {
    loop {
        let name = tokio::select! {
            biased;
            () = drain.hard.cancelled() => return,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if drain.is_draining() {
            tracing::warn!(signal = name, "second signal, stopping now");
            drain.abort();
        } else {
            tracing::info!(signal = name, grace_secs = grace.as_secs(), "draining");
            drain.begin(grace);
        }
    }
}

/// Each SIGHUP, by which a service manager asks for the configuration to be read again. Without one that
/// listens, SIGHUP ends the process.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Listens from now on. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// The next one.
    pub async fn next(&mut self) {
        // The stream of a signal never ends.
        let _ = self.0.recv().await;
    }
}

/// Why [`Tasks::wait`] did not end well. The first failure counts; later ones are logged.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task answered an error.
    #[error("task {name} failed")]
    Failed {
        /// The name it was spawned with.
        name: &'static str,
        /// What it answered.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The task panicked.
    #[error("task {name} panicked")]
    Panicked {
        /// The name it was spawned with.
        name: &'static str,
        /// What the runtime tells of it.
        source: JoinError,
    },
}

/// What a task answers, whatever its own error type.
type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// The few long tasks of a process or role, by name. The first that fails begins the drain.
///
/// Dropping it aborts them. For many short-lived tasks, such as sessions, use [`TaskTracker`].
#[derive(Debug)]
pub struct Tasks {
    drain: Drain,
    grace: Duration,
    set: JoinSet<Outcome>,
    names: HashMap<tokio::task::Id, &'static str>,
}

impl Tasks {
    /// No tasks yet; a failure begins `drain` with `grace`.
    #[must_use]
    pub fn new(drain: Drain, grace: Duration) -> Self {
        Self { drain, grace, set: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts a task. Must be called within a Tokio runtime.
    pub fn spawn<E>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let handle = self.set.spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Waits until every task has ended. After the hard token they are aborted within a second.
    ///
    /// # Errors
    /// The first failure or panic.
    pub async fn wait(mut self) -> Result<(), TaskError> {
        let mut outcome = Ok(());
        let hard = self.drain.hard().clone();
        let overdue = async {
            hard.cancelled().await;
            tokio::time::sleep(ABORT_AFTER).await;
        };
        tokio::pin!(overdue);
        let mut aborted = false;
        loop {
            let ended = tokio::select! {
                biased;
                () = &mut overdue, if !aborted => {
                    aborted = true;
                    self.set.abort_all();
                    continue;
                }
                ended = self.set.join_next_with_id() => ended,
            };
            let Some(ended) = ended else { return outcome };
            if let Err(error) = self.judge(ended) {
                tracing::error!(error = &error as &dyn Error, "task failed, draining");
                self.drain.begin(self.grace);
                outcome = outcome.and(Err(error));
            }
        }
    }

    fn judge(&self, ended: Result<(tokio::task::Id, Outcome), JoinError>) -> Result<(), TaskError> {
        let name = |id| self.names.get(&id).copied().unwrap_or("unnamed");
        match ended {
            Ok((_, Ok(()))) => Ok(()),
            Ok((id, Err(source))) => Err(TaskError::Failed { name: name(id), source }),
            Err(source) if source.is_cancelled() => Ok(()),
            Err(source) => Err(TaskError::Panicked { name: name(source.id()), source }),
        }
    }
}
