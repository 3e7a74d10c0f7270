//! How far commands have come, told to whoever watches: now and then, and in nobody's way.
//!
//! Of what the executors tell only the newest word of each lane is kept, and it leaves at most every
//! [`PAUSE`], when nothing else waits to be sent: a receipt is never behind it.

use std::time::{Duration, Instant};

use protocol::advance::Advance;
use protocol::frame::AgentFrame;
use protocol::id::CommandId;
use protocol::limits::SLOWEST_LINK;
use protocol::state::{Lane, PerLane};

use super::Reconcile;
use super::lanes::Running;

#[cfg(test)]
mod tests;

/// The shortest time between two words on one stage of a command.
const PAUSE: Duration = Duration::from_millis(500);

/// What waits to be told.
#[derive(Debug, Default)]
pub(super) struct Telling(PerLane<Told>);

#[derive(Debug, Default)]
struct Told {
    waiting: Option<Advance>,
    not_before: Option<Instant>,
}

impl Telling {
    /// A stage begins, and was just told: what there was of the former one is over.
    pub(super) fn begin(&mut self, lane: Lane, now: Instant) {
        *self.0.get_mut(lane) = Told { waiting: None, not_before: Some(now + PAUSE) };
    }

    /// When the next word may leave.
    pub(super) fn due(&self) -> Option<Instant> {
        let told = Lane::ALL.into_iter().map(|lane| self.0.get(lane));
        told.filter(|told| told.waiting.is_some()).filter_map(|told| told.not_before).min()
    }

    /// The newest word takes the place of the one that waits.
    fn keep(&mut self, lane: Lane, advance: Advance) {
        self.0.get_mut(lane).waiting = Some(advance);
    }

    /// The word that may leave now. Where the way is not clear it waits, and may be outdone.
    fn take(&mut self, lane: Lane, now: Instant, is_clear: bool) -> Option<Advance> {
        let told = self.0.get_mut(lane);
        if told.waiting.is_none() || told.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let leaving = told.waiting.take_if(|_| is_clear);
        told.not_before = Some(now + leaving.as_ref().map_or(PAUSE, pause_after));
        leaving
    }
}

/// Words take a quarter of the slowest link at most. What the kernel has taken of them nothing overtakes: were
/// there more than the link carries, receipts and proofs would stand behind all of it.
fn pause_after(advance: &Advance) -> Duration {
    let bytes = serde_json::to_string(advance).map_or(0, |text| text.len());
    let millis = 4 * 1000 * u64::try_from(bytes).unwrap_or(u64::MAX / 4000) / SLOWEST_LINK;
    PAUSE.max(Duration::from_millis(millis))
}

impl Reconcile {
    /// A command has come so far with the step that it is in. It leaves with the next look.
    pub(super) fn told(&mut self, command_id: CommandId, advance: Advance) {
        let is_its = |lane: &Lane| match self.running.get(*lane) {
            Some(Running::Stepping(job, _)) => job.task.command_id == command_id,
            _ => false,
        };
        if let Some(lane) = Lane::ALL.into_iter().find(is_its) {
            self.telling.keep(lane, advance);
        }
    }

    /// Sends what may leave.
    pub(super) fn tell_due(&mut self, now: Instant) {
        for lane in Lane::ALL {
            let advance = self.telling.take(lane, now, self.link.is_clear());
            let Some(Running::Stepping(job, step)) = self.running.get(lane) else { continue };
            if advance.is_some() {
                let (command_id, stage) = (job.task.command_id, step.as_str().to_owned());
                self.link.send(AgentFrame::Progress { command_id, stage, advance });
            }
        }
    }
}
