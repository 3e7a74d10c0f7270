//! Time budgets: no step of a command takes for ever.
//!
//! Whatever an executor waits for ends with the time of its step (`execute::course`), and the step fails by itself.
//! This is for what is left: a step whose thread does not come back, from a disk or a bus that does
//! not answer. A thread cannot be ended from outside, so the step is given up: the command ends, its
//! lane goes on, and whatever the thread comes to later is in nobody's receipt.

use std::time::Instant;

use protocol::receipt::FailureKind;
use protocol::state::{Lane, PerLane};

use super::Reconcile;
use super::lanes::Running;
use crate::execute::{Recovery, failure};
use crate::worker::{Job, Report, Step};

impl Reconcile {
    /// A step of that command begins, and has so much time.
    pub(super) fn allow(&mut self, job: &Job) {
        let budget = job.executor().budget(self.core.config.step);
        // The last tenth is for coming back, and saying what it came to.
        job.task.course.allow(budget.map(|budget| budget - budget / 10));
        let ends = budget.and_then(|budget| self.core.clock.now().checked_add(budget));
        *self.step_ends.get_mut(job.lane()) = ends;
    }

    /// When a step has had its time.
    pub(super) fn step_due(&self) -> Option<Instant> {
        let is_stepping =
            |lane: &Lane| matches!(self.running.get(*lane), Some(Running::Stepping(..)));
        let lanes = Lane::ALL.into_iter().filter(is_stepping);
        lanes.filter_map(|lane| *PerLane::get(&self.step_ends, lane)).min()
    }

    /// Gives up the steps that have had their time.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        for lane in Lane::ALL {
            if self.step_ends.get(lane).is_none_or(|ends| now < ends) {
                continue;
            }
            let Some(Running::Stepping(job, step)) = self.running.get(lane) else { continue };
            let (job, step) = (job.clone(), *step);
            let (id, stage) = (job.task.command_id, step.as_str());
            tracing::error!(command.id = %id, stage, "step hangs, and is given up");
            self.workers.give_up(&job);
            self.last_error = Some(format!("command {id} hung at {stage}"));
            *self.running.get_mut(lane) = self.outcome(&job, step, overdue(step));
        }
    }
}

/// What a step came to that has had its time. One that only looks has failed; one that acts may
/// still come to its effect, and nobody knows.
fn overdue(step: Step) -> Report {
    let late = failure(FailureKind::Timeout, step.as_str(), "the step hangs; it was given up");
    match step {
        Step::Plan => Report::Planned(Err(late)),
        Step::Prove => Report::Proved(Err(late)),
        Step::Apply | Step::Recover | Step::Finish | Step::Withdraw => {
            Report::Recovered(Recovery::InDoubt)
        }
    }
}
