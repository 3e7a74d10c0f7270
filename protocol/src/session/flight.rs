//! How long what was sent may be on its way, at most.
//!
//! Owns a bound, not a measurement: nobody says when a byte has arrived, but the ack of a command
//! says that everything before it has.

use std::time::{Duration, Instant};

use crate::id::CommandId;
use crate::limits;

/// What a hub has sent to an agent over a link that may be the slowest one.
#[derive(Debug)]
pub(super) struct Flight {
    arrives_at: Instant,
    /// A command whose ack is waited for, and how long what was sent after it takes. Idle sessions
    /// are many, and have none.
    mark: Option<Box<(CommandId, Duration)>>,
}

impl Flight {
    pub(super) const fn new(now: Instant) -> Self {
        Self { arrives_at: now, mark: None }
    }

    /// So many bytes leave, with that command if it is one.
    pub(super) fn send(&mut self, bytes: usize, command: Option<CommandId>, now: Instant) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let takes = Duration::from_micros(bytes.saturating_mul(1_000_000) / limits::SLOWEST_LINK);
        self.arrives_at = self.arrives_at.max(now) + takes;
        match (&mut self.mark, command) {
            (Some(mark), _) => mark.1 += takes,
            (mark, Some(command)) => *mark = Some(Box::new((command, Duration::ZERO))),
            (None, None) => {}
        }
    }

    /// The agent has that command.
    pub(super) fn ack(&mut self, command: CommandId, now: Instant) {
        if let Some(mark) = self.mark.take_if(|mark| mark.0 == command) {
            self.arrives_at = self.arrives_at.min(now + mark.1);
        }
    }

    /// When everything has arrived.
    pub(super) const fn arrives_at(&self) -> Instant {
        self.arrives_at
    }
}
