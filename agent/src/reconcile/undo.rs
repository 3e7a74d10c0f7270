//! Undo windows: commands that destroy wait after they were accepted, so that they can be called
//! back.
//!
//! A window is counted down by monotonic time, and what is left of it is written down on the way:
//! neither a clock that somebody sets nor a restart makes it shorter. Time in which no agent runs
//! does not count. While a command waits its lane is free for others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::frame::{AgentFrame, UNDO_WINDOW_STAGE};
use protocol::id::CommandId;
use protocol::ledger::{Held, Record};
use protocol::time::Timestamp;

use super::Reconcile;
use crate::status::HeldStatus;
use crate::worker::Job;

#[cfg(test)]
mod tests;

/// So much of a window a crash can make it longer.
const STEP: Duration = Duration::from_secs(15);
/// The end as people were told it may be off by so much, when a clock was set or the machine slept.
const OFF: Duration = Duration::from_secs(5);

/// The windows that are open.
#[derive(Debug, Default)]
pub(super) struct Windows(BTreeMap<CommandId, Window>);

#[derive(Debug)]
struct Window {
    /// As it is on disk.
    held: Held,
    /// When so much was left.
    counted_at: Instant,
    /// When it ends by the wall clock, as people are told.
    ends_at: Timestamp,
}

impl Window {
    fn left(&self, now: Instant) -> Duration {
        let left = Duration::from_millis(self.held.left_ms);
        left.saturating_sub(now.saturating_duration_since(self.counted_at))
    }

    /// When it is written down next, or is over.
    fn due(&self) -> Instant {
        self.counted_at + STEP.min(Duration::from_millis(self.held.left_ms))
    }

    /// The record of what is left by then.
    fn counted(&self, now: Instant) -> Held {
        // Rounded up: what is left is never less than what was promised.
        let left_ms = self.left(now).as_nanos().div_ceil(1_000_000);
        Held { left_ms: u64::try_from(left_ms).unwrap_or(u64::MAX), ..self.held }
    }

    fn stage(&self) -> String {
        format!("{UNDO_WINDOW_STAGE}{}", self.ends_at.rfc3339())
    }
}

impl Windows {
    /// Begins to count what the disk says is left.
    fn open(&mut self, held: Held, now: Instant, wall: Timestamp) {
        let ends_at = wall.plus(Duration::from_millis(held.left_ms)).whole_secs();
        self.0.insert(held.command_id, Window { held, counted_at: now, ends_at });
    }

    /// When something is to be written down.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(Window::due).min()
    }

    /// Goes on from what is on disk, as if no time had passed since.
    pub(super) fn stand_still(&mut self, now: Instant) {
        self.0.values_mut().for_each(|window| window.counted_at = now);
    }

    /// What is to be written down now.
    fn counted(&self, now: Instant) -> Vec<Held> {
        let due = self.0.values().filter(|window| window.due() <= now);
        due.map(|window| window.counted(now)).collect()
    }

    /// That is on disk. Whether people have to be told of another end.
    fn count(&mut self, held: Held, now: Instant, wall: Timestamp) -> bool {
        if held.left_ms == 0 {
            self.0.remove(&held.command_id);
            return false;
        }
        let Some(window) = self.0.get_mut(&held.command_id) else { return false };
        (window.held, window.counted_at) = (held, now);
        let ends_at = wall.plus(Duration::from_millis(held.left_ms)).whole_secs();
        let is_off = ends_at.since(window.ends_at).max(window.ends_at.since(ends_at)) > OFF;
        if is_off {
            window.ends_at = ends_at;
        }
        is_off
    }

    /// Whose they are.
    pub(super) fn ids(&self) -> impl Iterator<Item = CommandId> {
        self.0.keys().copied()
    }

    /// For the status.
    pub(super) fn told(&self) -> Vec<HeldStatus> {
        let told = |(command_id, window): (&CommandId, &Window)| HeldStatus {
            command_id: *command_id,
            ends_at: window.ends_at,
        };
        self.0.iter().map(told).collect()
    }
}

impl Reconcile {
    /// How long that command is to be held before it begins, if it is and was not yet.
    pub(super) fn to_hold(&self, job: &Job) -> Option<Duration> {
        let window = self.storage().trust.in_force().undo_window(&job.envelope.manifest);
        let is_new = self.ledger.window(job.task.command_id).is_none();
        Some(window).filter(|window| is_new && !window.is_zero())
    }

    /// Opens the window of a command, once that is on disk. Whether it is.
    pub(super) async fn hold(&mut self, job: &Job, window: Duration) -> bool {
        let left_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let held = Held { command_id: job.task.command_id, since: self.now(), left_ms };
        if self.commit(vec![Record::Held(held)]).await.is_err() {
            return false;
        }
        tracing::warn!(command.id = %held.command_id, window_secs = window.as_secs(), "held");
        self.windows.open(held, self.core.clock.now(), self.wall());
        self.tell_window(held.command_id);
        true
    }

    /// Goes on counting what a former process of the agent left.
    pub(super) fn resume_windows(&mut self) {
        for held in self.ledger.held() {
            self.windows.open(held, self.core.clock.now(), self.wall());
        }
    }

    /// Counts what is due. A window that is over lets its command begin.
    pub(super) async fn count_windows(&mut self, now: Instant) {
        if self.is_deaf() {
            return self.windows.stand_still(now);
        }
        let counted = self.windows.counted(now);
        self.write_windows(counted, now).await;
    }

    /// Writes down what is left of each, before the process ends.
    pub(super) async fn save_windows(&mut self) {
        let now = self.core.clock.now();
        let counted = self.windows.0.values().map(|window| window.counted(now)).collect();
        self.write_windows(counted, now).await;
    }

    async fn write_windows(&mut self, counted: Vec<Held>, now: Instant) {
        let records: Vec<_> = counted.iter().copied().map(Record::Held).collect();
        if records.is_empty() || self.commit(records).await.is_err() {
            return;
        }
        let wall = self.wall();
        for held in counted {
            if self.windows.count(held, now, wall) {
                self.tell_window(held.command_id);
            }
        }
    }

    /// Commands that were called back are waited for no more.
    pub(super) fn close_windows(&mut self) {
        self.windows.0.retain(|command_id, _| self.ledger.is_open(*command_id));
    }

    /// A new link: everybody there is told again.
    pub(super) fn tell_windows(&self) {
        self.windows.ids().for_each(|command_id| self.tell_window(command_id));
    }

    fn tell_window(&self, command_id: CommandId) {
        if let Some(window) = self.windows.0.get(&command_id) {
            self.link.send(AgentFrame::stage(command_id, window.stage()));
        }
    }
}
