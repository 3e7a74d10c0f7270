//! Commands that are carried out: one at a time in each lane, step by step.
//!
//! Between two steps stands the record that the next one needs: the intent before the effect,
//! the outcome before the receipt. A record that cannot be written stops its lane until it can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::envelope::{Envelope, Refusal, Verifying};
use protocol::frame::AgentFrame;
use protocol::id::CommandId;
use protocol::jws::CompactJws;
use protocol::ledger::{Record, Work};
use protocol::receipt::{Evidence, FailureKind, Outcome, RefusalReason};
use protocol::state::{Lane, VerbClass};
use protocol::trust::Authority;

use super::Reconcile;
use super::deliveries::claims;
use super::escrow::Escrowing;
use super::outcome::{About, Times, has_effect};
use crate::execute::{Afterwards, Recovery, failure};
use crate::peers::Peers;
use crate::worker::{Job, Report, Step};

/// What a lane is at.
#[derive(Debug)]
pub(super) enum Running {
    /// A step is on its thread.
    Stepping(Arc<Job>, Step),
    /// The effect is asked for, and the next boot will show it; until then in this one.
    AwaitingBoot(Arc<Job>, Instant),
    /// Its undo window has to be written down, and the lane is free.
    Holding(Arc<Job>, Duration),
    /// The intent has to be written before the effect.
    Intending(Arc<Job>),
    /// The proof has to be safe before the rest is done.
    Proving(Proving),
    /// The control plane has to hold this before the rest is done.
    Escrowing(Escrowing),
    /// The outcome has to be written before the receipt leaves.
    Ending(Ending),
}

/// A proof on its way to the store.
#[derive(Debug)]
pub(super) struct Proving {
    job: Arc<Job>,
    proof: CompactJws,
    is_confirmed: bool,
    /// The longest that the rest waits: who destroys must not be held up by a dead link.
    deadline: Instant,
    /// When it is sent next.
    send_at: Instant,
}

/// An outcome on its way to the disk.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    command_id: CommandId,
    receipt: CompactJws,
    afterwards: Afterwards,
}

impl Running {
    pub(super) fn command_id(&self) -> CommandId {
        match self {
            Self::Stepping(job, _)
            | Self::AwaitingBoot(job, _)
            | Self::Holding(job, _)
            | Self::Intending(job)
            | Self::Escrowing(Escrowing { job, .. })
            | Self::Proving(Proving { job, .. }) => job.task.command_id,
            Self::Ending(ending) => ending.command_id,
        }
    }

    /// The receipt of one that has ended.
    pub(super) fn receipt(&self) -> Option<&CompactJws> {
        match self {
            Self::Ending(ending) => Some(&ending.receipt),
            Self::Stepping(..)
            | Self::AwaitingBoot(..)
            | Self::Holding(..)
            | Self::Intending(_)
            | Self::Escrowing(_)
            | Self::Proving(_) => None,
        }
    }

    /// When something is due by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Proving(proving) => Some(proving.deadline.min(proving.send_at)),
            Self::Escrowing(escrowing) => Some(escrowing.deadline),
            Self::AwaitingBoot(_, until) => Some(*until),
            Self::Stepping(..) | Self::Holding(..) | Self::Intending(_) | Self::Ending(_) => None,
        }
    }

    /// The step that it has come to, for people.
    pub(super) const fn step(&self) -> &'static str {
        match self {
            Self::Stepping(_, step) => step.as_str(),
            Self::AwaitingBoot(..) | Self::Proving(_) => Step::Prove.as_str(),
            Self::Holding(..) | Self::Intending(_) => Step::Plan.as_str(),
            Self::Escrowing(_) => "escrow",
            Self::Ending(_) => "ended",
        }
    }
}

impl Reconcile {
    /// Brings a lane forward: writes what waits to be written, begins what waits to begin.
    pub(super) async fn advance(&mut self, lane: Lane) {
        loop {
            match self.running.get_mut(lane).take() {
                None => {
                    let Some(work) = self.ledger.next_work(lane) else { return };
                    if self.is_deaf() && !work.is_begun {
                        return;
                    }
                    let Some(running) = self.begin(work) else { return };
                    *self.running.get_mut(lane) = Some(running);
                }
                busy
                @ Some(Running::Stepping(..) | Running::Proving(_) | Running::Escrowing(_)) => {
                    *self.running.get_mut(lane) = busy;
                    return;
                }
                Some(Running::AwaitingBoot(job, until)) => {
                    *self.running.get_mut(lane) = self.await_boot(job, until);
                    if let Some(Running::AwaitingBoot(..)) = self.running.get(lane) {
                        return;
                    }
                }
                Some(Running::Holding(job, _) | Running::Intending(job))
                    if !self.ledger.is_open(job.task.command_id) => {}
                Some(Running::Holding(job, window)) => {
                    if !self.hold(&job, window).await {
                        *self.running.get_mut(lane) = Some(Running::Holding(job, window));
                        return;
                    }
                }
                Some(Running::Intending(job)) => {
                    if self.ledger.next_about_orders().is_some() {
                        *self.running.get_mut(lane) = Some(Running::Intending(job));
                        return;
                    }
                    let intent = Record::Intent { command_id: job.task.command_id };
                    if self.commit(vec![intent]).await.is_err() {
                        *self.running.get_mut(lane) = Some(Running::Intending(job));
                        return;
                    }
                    *self.running.get_mut(lane) = Some(self.step(job, Step::Apply));
                }
                Some(Running::Ending(ending)) if !self.ledger.is_open(ending.command_id) => {}
                Some(Running::Ending(ending)) => {
                    if !self.end(ending.clone()).await {
                        *self.running.get_mut(lane) = Some(Running::Ending(ending));
                        return;
                    }
                }
            }
        }
    }

    /// Verifies a command again, at this moment, and begins it; one that was begun before is
    /// recovered, whatever the clock says now.
    fn begin(&mut self, work: Work) -> Option<Running> {
        let verified = if work.is_begun {
            let unreadable = || Refusal::new(RefusalReason::Malformed, "unreadable envelope");
            claims(&work.envelope).ok_or_else(unreadable)
        } else {
            self.verify_now(&work)
        };
        let envelope = match verified {
            Ok(envelope) => envelope,
            Err(refusal) => return self.refuse(&work, refusal),
        };
        let text = (work.envelope.as_str().to_owned(), work.envelope.sha256());
        let places = self.core.places.borrow().clone();
        let names = places.hubs.into_iter().chain(places.api).collect();
        let peers = Peers::new(names, self.core.host.book.clone());
        let is_unsure = self.is_unsure(&work, &envelope);
        let mut job = Job::new(envelope, text, self.core.host.clone(), peers, self.wall());
        job.is_unsure = is_unsure;
        let step = if work.is_begun { Step::Recover } else { Step::Plan };
        Some(self.step(Arc::new(job), step))
    }

    /// Whether a command counts as begun that may still have been waiting for the end of its undo
    /// window, have been called back in it, or have been refused: the journal lost what came after.
    fn is_unsure(&self, work: &Work, envelope: &Envelope) -> bool {
        let window = self.storage().trust.in_force().undo_window(&envelope.manifest);
        let was_held = work.held.map_or(!window.is_zero(), |held| held.left_ms > 0);
        let destroys = envelope.manifest.action.verb().class() == VerbClass::Destructive;
        // Or have ended in any other way: of what destroys, only its own record says that it began.
        let is_older = self.storage().floor.distrust_before().is_some_and(|at| envelope.iat < at);
        work.is_begun && (was_held || destroys && is_older)
    }

    /// Verifies a command as of now; one that was held in its undo window, as of the time when it
    /// was accepted.
    pub(super) fn verify_now(&self, work: &Work) -> Result<Envelope, Refusal> {
        let now = self.verifying();
        let verifying = Verifying { now: work.held.map_or(now.now, |held| held.since), ..now };
        let verified = verifying.verify(&work.envelope)?;
        let envelope = verified.envelope();
        if verified.authority() == Authority::BreakGlass {
            tracing::warn!(command.id = %envelope.jti, "break-glass stands in for the approvers");
        }
        if let Some(refusal) = self.stopped(envelope) {
            return Err(refusal);
        }
        if envelope.action().verb().is_about_orders() {
            return Ok(envelope.clone());
        }
        match envelope.action().verb().class() {
            VerbClass::Disruptive | VerbClass::Destructive if !self.core.is_armed => {
                let detail = "executors are not armed on this device";
                Err(Refusal::new(RefusalReason::NotArmed, detail).of(envelope))
            }
            VerbClass::Routine
            | VerbClass::Disruptive
            | VerbClass::Destructive
            | VerbClass::Stop => Ok(envelope.clone()),
        }
    }

    fn refuse(&mut self, work: &Work, refusal: Refusal) -> Option<Running> {
        let about = About::of(work.command_id, &work.envelope);
        let outcome = Outcome::Refused { reason: refusal.reason, detail: refusal.detail };
        let receipt = self.sign(about, Times::moment(self.wall()), outcome)?;
        let afterwards = Afterwards::Nothing;
        Some(Running::Ending(Ending { command_id: work.command_id, receipt, afterwards }))
    }

    pub(super) fn step(&mut self, job: Arc<Job>, step: Step) -> Running {
        let command_id = job.task.command_id;
        let stage = step.as_str().to_owned();
        tracing::info!(command.id = %command_id, stage, "step begins");
        self.link.send(AgentFrame::stage(command_id, stage));
        self.telling.begin(job.lane(), self.core.clock.now());
        self.allow(&job);
        self.workers.begin(job.clone(), step);
        Running::Stepping(job, step)
    }

    /// The first part of a command is proved: its proof leaves, and the rest waits for it. A proof
    /// that cannot be signed holds nothing up.
    fn prove_first(&mut self, job: Arc<Job>, evidence: Evidence) -> Running {
        let evidence = job.proved.get_or_init(|| evidence).clone();
        let Some(proof) = self.sign_proof(&job, evidence) else {
            return self.step(job, Step::Finish);
        };
        let now = self.core.clock.now();
        let deadline = now + self.core.config.power_off_wait;
        Running::Proving(Proving { job, proof, is_confirmed: false, deadline, send_at: now })
    }

    /// Has the rest follow where its proof is safe or has had its time, and sends the others. This
    /// takes no disk: there may be none left.
    pub(super) fn follow_proofs(&mut self, now: Instant) {
        for lane in Lane::ALL {
            let Some(Running::Proving(proving)) = self.running.get_mut(lane) else { continue };
            let command_id = proving.job.task.command_id;
            if proving.is_confirmed || proving.deadline <= now {
                let confirmed = proving.is_confirmed;
                tracing::info!(command.id = %command_id, confirmed, "the rest follows");
                let job = proving.job.clone();
                *self.running.get_mut(lane) = Some(self.step(job, Step::Finish));
            } else if proving.send_at <= now {
                proving.send_at = now + self.core.config.resend;
                let jws = proving.proof.clone();
                self.link.send(AgentFrame::Proof { command_id, jws });
            }
        }
    }

    /// A new link: what may have been lost with the former one goes out again.
    pub(super) fn send_proofs_again(&mut self) {
        let now = self.core.clock.now();
        for lane in Lane::ALL {
            if let Some(Running::Proving(proving)) = self.running.get_mut(lane) {
                proving.send_at = now;
            }
        }
    }

    /// The store holds these.
    pub(super) fn proofs_confirmed(&mut self, sha256s: &[String]) {
        for lane in Lane::ALL {
            if let Some(Running::Proving(proving)) = self.running.get_mut(lane) {
                proving.is_confirmed |= sha256s.contains(&proving.proof.sha256());
            }
        }
    }

    /// Lets every step that is under way know that the agent stops.
    pub(super) fn leave(&self) {
        for lane in Lane::ALL {
            if let Some(Running::Stepping(job, _)) = self.running.get(lane) {
                job.task.course.leave();
            }
        }
    }

    /// A step has ended: the next one begins, or the outcome stands.
    pub(super) async fn step_ended(&mut self, lane: Lane, step: Step, report: Report) {
        let Some(Running::Stepping(job, _)) = self.running.get_mut(lane).take() else { return };
        if !self.ledger.is_open(job.task.command_id) {
            // It was called back while the device looked at what it would do.
            return self.advance(lane).await;
        }
        let next = match report {
            Report::Planned(Ok(())) => Some(match self.to_hold(&job) {
                Some(window) => Running::Holding(job, window),
                None => Running::Intending(job),
            }),
            Report::Left => None,
            Report::Recovered(Recovery::Apply) => Some(self.step(job, Step::Apply)),
            Report::Recovered(Recovery::Applied) | Report::Finished(Ok(())) => {
                Some(self.step(job, Step::Prove))
            }
            Report::Applied(Ok(())) => match job.executor().awaits_boot() {
                Some(within) => Some(Running::AwaitingBoot(job, self.core.clock.now() + within)),
                None => Some(self.step(job, Step::Prove)),
            },
            Report::ProvedFirst(evidence) => Some(self.prove_first(job, evidence)),
            Report::ToEscrow(escrowing) => Some(self.escrow(job, escrowing)),
            ended @ (Report::Planned(Err(_))
            | Report::Differs(_)
            | Report::Applied(Err(_))
            | Report::Proved(_)
            | Report::Finished(Err(_))
            | Report::Recovered(Recovery::InDoubt)) => self.outcome(&job, step, ended),
        };
        *self.running.get_mut(lane) = next;
        self.advance(lane).await;
    }

    /// Goes on waiting for the device to go down, or gives it up.
    fn await_boot(&self, job: Arc<Job>, until: Instant) -> Option<Running> {
        if self.core.clock.now() < until {
            return Some(Running::AwaitingBoot(job, until));
        }
        let late = failure(FailureKind::Timeout, "prove", "the device has not gone down");
        self.outcome(&job, Step::Prove, Report::Proved(Err(late)))
    }

    /// A step has ended while the agent stops: nothing further begins, but an outcome is kept.
    pub(super) async fn last_step_ended(&mut self, lane: Lane, step: Step, report: Report) {
        let Some(Running::Stepping(job, _)) = self.running.get_mut(lane).take() else { return };
        if !self.ledger.is_open(job.task.command_id) {
            return;
        }
        let is_outcome = match &report {
            Report::Planned(outcome) | Report::Applied(outcome) | Report::Finished(outcome) => {
                outcome.is_err()
            }
            Report::Differs(_) | Report::Proved(_) => true,
            Report::ProvedFirst(_) | Report::ToEscrow(_) | Report::Left => false,
            Report::Recovered(recovery) => matches!(recovery, Recovery::InDoubt),
        };
        if is_outcome && let Some(Running::Ending(ending)) = self.outcome(&job, step, report) {
            self.end(ending).await;
        }
    }

    /// The signed outcome of a step that was the last. Success and failure are both outcomes; a
    /// step with a successor gives none.
    pub(super) fn outcome(&self, job: &Job, step: Step, report: Report) -> Option<Running> {
        let outcome = match report {
            Report::Proved(Ok(evidence)) => {
                Outcome::Succeeded { evidence: self.on_whose_word(&job.envelope, evidence) }
            }
            Report::Planned(Err(failure))
            | Report::Applied(Err(failure))
            | Report::Finished(Err(failure))
            | Report::Proved(Err(failure)) => {
                let evidence = job.proved.get().or(job.remains.get()).cloned().unwrap_or_default();
                Outcome::Failed { failure, evidence }
            }
            Report::Differs(how) => {
                Outcome::Refused { reason: RefusalReason::PlanChanged, detail: how.to_owned() }
            }
            Report::Recovered(Recovery::InDoubt) => {
                // Recovery decides about what was applied.
                let last = if step == Step::Recover { Step::Apply } else { step };
                Outcome::InDoubt { stage: last.as_str().to_owned() }
            }
            Report::Planned(Ok(()))
            | Report::Applied(Ok(()))
            | Report::Finished(Ok(()))
            | Report::ProvedFirst(_)
            | Report::ToEscrow(_)
            | Report::Left
            | Report::Recovered(Recovery::Apply | Recovery::Applied) => return None,
        };
        let afterwards =
            if has_effect(&outcome) { job.executor().afterwards() } else { Afterwards::Nothing };
        let command_id = job.task.command_id;
        let state = outcome.state().as_str();
        tracing::info!(command.id = %command_id, stage = step.as_str(), state, "command ended");
        let about = About {
            command_id,
            order_id: Some(job.envelope.order_id()),
            verb: Some(job.envelope.action().verb()),
            envelope_sha256: job.envelope_sha256.clone(),
        };
        let times = Times { started_at: job.task.started_at, finished_at: self.wall() };
        let receipt = self.sign(about, times, outcome)?;
        Some(Running::Ending(Ending { command_id, receipt, afterwards }))
    }

    /// Writes an outcome and sends its receipt. Whether it is on disk.
    async fn end(&mut self, ending: Ending) -> bool {
        let Ending { command_id, receipt, afterwards } = ending;
        let record = Record::Done { command_id, receipt: receipt.clone() };
        let is_on_disk = self.commit(vec![record]).await.is_ok();
        match afterwards {
            Afterwards::PowerOff => self.await_power_off(command_id),
            Afterwards::Nothing if !is_on_disk => return false,
            Afterwards::Nothing => {}
        }
        // A wipe may have taken the disk of the journal with it. Its proof leaves all the same,
        // and the device goes down: should it come up again, recovery finds the wipe finished.
        self.link.send(AgentFrame::Receipt { command_id, jws: receipt });
        let soon = self.core.clock.now() + self.core.config.resend;
        self.resend.at.get_or_insert(soon);
        is_on_disk
    }
}
