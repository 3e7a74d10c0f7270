//! Running executors off the event loop: one step of one command per lane at a time.
//!
//! Owns the blocking threads. Knows no journal and no network: what
//! must be on disk between two steps is the caller's part.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use protocol::action::Action;
use protocol::advance::Advance;
use protocol::envelope::Envelope;
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::state::{EffectClass, Lane, PerLane};
use protocol::time::Timestamp;
use runtime::Blocking;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::execute::course::Course;
use crate::execute::rotate::Escrowing;
use crate::execute::{self, Executor, Plan, Recovery, Task, failure};
use crate::host::{Arming, Host};
use crate::peers::Peers;

/// A command on its way through an executor.
#[derive(Debug)]
pub(crate) struct Job {
    /// What was ordered.
    pub(crate) envelope: Envelope,
    /// What the executor is told.
    pub(crate) task: Task,
    /// SHA-256 of the envelope's text.
    pub(crate) envelope_sha256: String,
    /// What was proved before `finish`: it stands whatever becomes of the rest.
    pub(crate) proved: OnceLock<Evidence>,
    /// It counts as begun, and may have been waiting: only what it left behind shows that it began.
    pub(crate) is_unsure: bool,
    /// What there is to say of it although it failed.
    pub(crate) remains: OnceLock<Evidence>,
    executor: Box<dyn Executor>,
    host: Arc<Host>,
    /// Hubs and control plane, which a quarantine leaves open.
    peers: Peers,
}

/// One step of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Plan,
    Recover,
    Apply,
    Prove,
    Finish,
    /// Takes back what was not escrowed.
    Withdraw,
}

impl Step {
    /// The step as progress and receipts name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Recover => "recover",
            Self::Apply => "apply",
            Self::Prove => "prove",
            Self::Finish => "finish",
            Self::Withdraw => "withdraw",
        }
    }
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum Report {
    Planned(Result<(), Failure>),
    /// It goes on without this process, and the next one finds it.
    Left,
    /// What would be done is not what was approved.
    Differs(&'static str),
    Recovered(Recovery),
    Applied(Result<(), Failure>),
    Proved(Result<Evidence, Failure>),
    /// Proved, and the rest waits until the control plane holds this.
    ToEscrow(Escrowing),
    /// Proved, and the rest is still to be done.
    ProvedFirst(Evidence),
    Finished(Result<(), Failure>),
}

impl Job {
    pub(crate) fn new(
        envelope: Envelope,
        (text, envelope_sha256): (String, String),
        host: Arc<Host>,
        peers: Peers,
        started_at: Timestamp,
    ) -> Self {
        let executor = execute::executor(envelope.action(), host.arming);
        let script = envelope.script.clone();
        let (command_id, course) = (envelope.jti, Course::default());
        let host = Arc::new(Host { course: course.clone(), ..(*host).clone() });
        let task = Task { command_id, envelope: text, started_at, script, course };
        let (proved, remains) = (OnceLock::new(), OnceLock::new());
        let is_unsure = false;
        Self { envelope, task, envelope_sha256, proved, is_unsure, remains, executor, host, peers }
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
            Step::Plan => match self.executor.plan(host, task) {
                Ok(plan) => match self.differs(&plan) {
                    Some(how) => Report::Differs(how),
                    None => Report::Planned(Ok(())),
                },
                Err(failure) => Report::Planned(Err(failure)),
            },
            Step::Recover => match self.executor.recover(host, task) {
                Recovery::Apply if self.is_unsure && !self.executor.has_begun(host, task) => {
                    Report::Recovered(Recovery::InDoubt)
                }
                recovery @ (Recovery::Apply | Recovery::Applied | Recovery::InDoubt) => {
                    Report::Recovered(recovery)
                }
            },
            Step::Apply => match self.executor.apply(host, task) {
                Err(_) if self.executor.outlives_the_agent() && task.course.is_left() => {
                    Report::Left
                }
                Err(failure) if self.is_lost(&failure) => Report::Recovered(Recovery::InDoubt),
                applied => Report::Applied(applied.inspect_err(|_| self.keep_remains(host))),
            },
            Step::Prove => match self.executor.prove(host, task) {
                Ok(evidence) if self.executor.has_remainder(host, task) => {
                    match self.executor.escrow(host, task) {
                        Some(escrowing) => Report::ToEscrow(escrowing),
                        None => Report::ProvedFirst(evidence),
                    }
                }
                proved => Report::Proved(proved.inspect_err(|_| self.keep_remains(host))),
            },
            Step::Finish => Report::Finished(self.executor.finish(host, task)),
            Step::Withdraw => Report::Finished(Err(self.executor.withdraw(host, task))),
        }
    }

    /// Whether an effect was begun of which nothing can be found out any more: nobody may call that
    /// a failure.
    fn is_lost(&self, failure: &Failure) -> bool {
        match self.envelope.action().verb().effect_class() {
            EffectClass::NotProbeable => failure.kind == FailureKind::NotProven,
            EffectClass::Convergent | EffectClass::Probeable | EffectClass::Terminal => false,
        }
    }

    fn keep_remains(&self, host: &Host) {
        self.remains.get_or_init(|| self.executor.remains(host, &self.task));
    }

    /// How what would be done differs from what was approved, where an approval is bound to that.
    fn differs(&self, plan: &Plan) -> Option<&'static str> {
        let plans = &self.envelope.manifest.plans;
        match plans.get(&self.envelope.aud) {
            Some(approved) if *approved == plan.hash() => None,
            Some(_) => Some("this device would do something else now than what was approved"),
            None if plans.is_empty() => None,
            None => Some("plans were approved, and none of this device"),
        }
    }

    /// The host of this command. A quarantine and its plan need the addresses behind the peers' names,
    /// and only this blocking thread may ask for them.
    fn host(&self) -> Arc<Host> {
        let ordered = self.envelope.action();
        let plan = if let Action::Plan(plan) = ordered { Some(&*plan.of) } else { None };
        let addresses = if plan.is_some() { Peers::addresses } else { Peers::left_open };
        match plan.unwrap_or(ordered) {
            // Where nothing is cut, nobody is asked for.
            Action::Quarantine(_) if self.host.arming == Arming::Simulated => self.host.clone(),
            Action::Quarantine(_) => {
                let mut host = (*self.host).clone();
                host.control_plane.extend(addresses(&self.peers));
                host.control_plane.sort_unstable();
                host.control_plane.dedup();
                Arc::new(host)
            }
            Action::Lock(_)
            | Action::Unlock(_)
            | Action::Release(_)
            | Action::Wipe(_)
            | Action::SelectiveWipe(_)
            | Action::Plan(_)
            | Action::Reboot(_)
            | Action::RunScript(_)
            | Action::CollectEvidence(_)
            | Action::RotateCredentials(_)
            | Action::CryptoLock(_)
            | Action::Refresh(_)
            | Action::Cancel(_)
            | Action::Freeze(_)
            | Action::Thaw(_) => self.host.clone(),
        }
    }
}

/// What the blocking threads tell.
#[derive(Debug)]
pub(crate) enum Word {
    /// A step of the command in that lane came to its end.
    Ended(Lane, Step, Report),
    /// A command has come so far with the step that it is in.
    Told(CommandId, Advance),
}

/// The blocking threads at work, at most one per lane.
#[derive(Debug)]
pub(crate) struct Workers {
    blocking: Blocking,
    steps: JoinSet<(CommandId, Lane, Step, Report)>,
    /// Commands whose step was given up and still hangs: nobody waits for it.
    given_up: BTreeSet<CommandId>,
    /// The newest advance in each lane that nobody has heard yet.
    told: PerLane<watch::Sender<Option<(CommandId, Advance)>>>,
    heard: PerLane<watch::Receiver<Option<(CommandId, Advance)>>>,
}

impl Workers {
    pub(crate) fn new(blocking: Blocking) -> Self {
        let (urgent, bulk) = (watch::Sender::new(None), watch::Sender::new(None));
        let heard = PerLane { urgent: urgent.subscribe(), bulk: bulk.subscribe() };
        let told = PerLane { urgent, bulk };
        Self { blocking, steps: JoinSet::new(), given_up: BTreeSet::new(), told, heard }
    }

    /// Begins a step. A panic of an executor becomes a failure of that step.
    pub(crate) fn begin(&mut self, job: Arc<Job>, step: Step) {
        // What was told of the former step is not about this one.
        self.told.get(job.lane()).send_replace(None);
        let (command_id, told) = (job.task.command_id, self.told.get(job.lane()).clone());
        job.task.course.listen(move |advance| {
            told.send_replace(Some((command_id, advance)));
        });
        self.blocking.spawn_in(&mut self.steps, move || {
            let (command_id, lane) = (job.task.command_id, job.lane());
            let report = catch_unwind(AssertUnwindSafe(|| job.run(step)));
            (command_id, lane, step, report.unwrap_or_else(|_| panicked(step)))
        });
    }

    /// Waits no longer for the step that this command is in. Its thread cannot be ended: it is told
    /// to leave off, and what it comes to is nobody's.
    pub(crate) fn give_up(&mut self, job: &Job) {
        job.task.course.give_up();
        self.given_up.insert(job.task.command_id);
    }

    /// The next word; never, while nothing runs.
    pub(crate) async fn next(&mut self) -> Word {
        loop {
            if self.steps.is_empty() {
                return std::future::pending().await;
            }
            let PerLane { urgent, bulk } = &mut self.heard;
            let ended = tokio::select! {
                biased;
                Ok(()) = urgent.changed() => match urgent.borrow_and_update().clone() {
                    Some((command_id, advance)) => return Word::Told(command_id, advance),
                    None => continue,
                },
                Ok(()) = bulk.changed() => match bulk.borrow_and_update().clone() {
                    Some((command_id, advance)) => return Word::Told(command_id, advance),
                    None => continue,
                },
                ended = self.steps.join_next() => ended,
            };
            // A blocking step is cancelled only before it began, when the runtime ends.
            if let Some(Ok((command_id, lane, step, report))) = ended
                && !self.given_up.remove(&command_id)
            {
                return Word::Ended(lane, step, report);
            }
        }
    }

    /// Whether nothing runs that anybody waits for.
    pub(crate) fn is_idle(&self) -> bool {
        self.steps.len() == self.given_up.len()
    }
}

fn panicked(step: Step) -> Report {
    let fault = || failure(FailureKind::Internal, step.as_str(), "the executor panicked");
    match step {
        Step::Plan => Report::Planned(Err(fault())),
        Step::Recover => Report::Recovered(Recovery::InDoubt),
        Step::Apply => Report::Applied(Err(fault())),
        Step::Prove => Report::Proved(Err(fault())),
        Step::Finish | Step::Withdraw => Report::Finished(Err(fault())),
    }
}
