//! Running executors off the event loop: one step of one command per lane at a time.
//!
//! Owns the choice of executor and the blocking threads. Knows no journal and no network: what
//! must be on disk between two steps is the caller's part.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use protocol::action::Action;
use protocol::envelope::Envelope;
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::state::Lane;
use protocol::time::Timestamp;
use runtime::Blocking;
use tokio::task::JoinSet;

use crate::execute::lock::{LockExecutor, UnlockExecutor};
use crate::execute::quarantine::{Quarantine, Release};
use crate::execute::refresh::Refresh;
use crate::execute::simulated::Simulated;
use crate::execute::wipe::Wipe;
use crate::execute::{Executor, Recovery, Task, failure};
use crate::host::{Arming, Host};
use crate::http::bare;

/// A command on its way through an executor.
#[derive(Debug)]
pub(crate) struct Job {
    /// What was ordered.
    pub(crate) envelope: Envelope,
    /// What the executor is told.
    pub(crate) task: Task,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_sha256: String,
    executor: Box<dyn Executor>,
    host: Arc<Host>,
    /// Names or addresses of hubs and control plane, which a quarantine leaves open.
    peers: Vec<String>,
}

/// One step of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Plan,
    Recover,
    Apply,
    Prove,
}

impl Step {
    /// The step as progress and receipts name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Recover => "recover",
            Self::Apply => "apply",
            Self::Prove => "prove",
        }
    }
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Report {
    Planned(Result<(), Failure>),
    Recovered(Recovery),
    Applied(Result<(), Failure>),
    Proved(Result<Evidence, Failure>),
}

impl Job {
    pub(crate) fn new(
        envelope: Envelope,
        (text, envelope_sha256): (String, String),
        host: Arc<Host>,
        peers: Vec<String>,
        started_at: Timestamp,
    ) -> Self {
        let executor = executor(envelope.action(), host.arming);
        let task = Task { command_id: envelope.jti, envelope: text, started_at };
        Self { envelope, task, envelope_sha256, executor, host, peers }
    }

    pub(crate) fn lane(&self) -> Lane {
        self.envelope.lane
    }

    pub(crate) fn executor(&self) -> &dyn Executor {
        &*self.executor
    }

    fn run(&self, step: Step) -> Report {
        let host = self.host();
        let (host, task) = (&*host, &self.task);
        match step {
            Step::Plan => Report::Planned(self.executor.plan(host, task).map(drop)),
            Step::Recover => Report::Recovered(self.executor.recover(host, task)),
            Step::Apply => Report::Applied(self.executor.apply(host, task)),
            Step::Prove => Report::Proved(self.executor.prove(host, task)),
        }
    }

    /// The host of this command. A quarantine needs the addresses behind the peers' names, and
    /// only this blocking thread may ask for them.
    fn host(&self) -> Arc<Host> {
        match self.envelope.action() {
            Action::Quarantine(_) => {
                let mut host = (*self.host).clone();
                host.control_plane.extend(resolve(&self.peers));
                host.control_plane.sort_unstable();
                host.control_plane.dedup();
                Arc::new(host)
            }
            Action::Lock(_)
            | Action::Unlock(_)
            | Action::Release(_)
            | Action::Wipe(_)
            | Action::Refresh(_) => self.host.clone(),
        }
    }
}

/// The addresses behind `host:port` texts; what cannot be resolved is left out.
fn resolve(peers: &[String]) -> Vec<SocketAddr> {
    let resolve = |peer: &String| bare(peer).to_socket_addrs().ok();
    peers.iter().filter_map(resolve).flatten().collect()
}

fn executor(action: &Action, arming: Arming) -> Box<dyn Executor> {
    match arming {
        Arming::Simulated => Box::new(Simulated::new(action.verb())),
        Arming::Armed | Arming::Sandboxed => match action.clone() {
            Action::Lock(params) => Box::new(LockExecutor::new(params)),
            Action::Unlock(params) => Box::new(UnlockExecutor::new(params)),
            Action::Quarantine(params) => Box::new(Quarantine::new(params)),
            Action::Release(_) => Box::new(Release),
            Action::Wipe(params) => Box::new(Wipe::new(params)),
            Action::Refresh(_) => Box::new(Refresh),
        },
    }
}

/// The blocking threads at work, at most one per lane.
#[derive(Debug)]
pub(crate) struct Workers {
    blocking: Blocking,
    steps: JoinSet<(Lane, Step, Report)>,
}

impl Workers {
    pub(crate) fn new(blocking: Blocking) -> Self {
        Self { blocking, steps: JoinSet::new() }
    }

    /// Begins a step. A panic of an executor becomes a failure of that step.
    pub(crate) fn begin(&mut self, job: Arc<Job>, step: Step) {
        self.blocking.spawn_in(&mut self.steps, move || {
            let lane = job.lane();
            let report = catch_unwind(AssertUnwindSafe(|| job.run(step)));
            (lane, step, report.unwrap_or_else(|_| panicked(step)))
        });
    }

    /// The next step that ends; never, while nothing runs.
    pub(crate) async fn next(&mut self) -> (Lane, Step, Report) {
        loop {
            match self.steps.join_next().await {
                Some(Ok(ended)) => return ended,
                // A blocking step is cancelled only before it began, when the runtime ends.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Whether nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }
}

fn panicked(step: Step) -> Report {
    let fault = || failure(FailureKind::Internal, step.as_str(), "the executor panicked");
    match step {
        Step::Plan => Report::Planned(Err(fault())),
        Step::Recover => Report::Recovered(Recovery::InDoubt),
        Step::Apply => Report::Applied(Err(fault())),
        Step::Prove => Report::Proved(Err(fault())),
    }
}
