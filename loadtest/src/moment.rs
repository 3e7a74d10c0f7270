//! Moments that all processes of one machine tell alike, to the nanosecond.
//!
//! Owns the step from this process's own clock to the machine's monotonic one (`clock_gettime(2)`),
//! which is what makes a moment of a worker comparable with one of whoever ordered.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use runtime::Clock;
use serde::{Deserialize, Serialize};

/// A moment: nanoseconds of the machine's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// How long after `earlier` this is; nothing, if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Turns this process's instants into moments.
#[derive(Debug, Clone)]
pub struct Timeline {
    clock: Clock,
    base: Instant,
    nanos: u64,
}

impl Timeline {
    /// A timeline over the clock of the machine. Both are read one after the other, so that a
    /// moment is true to the microsecond that may lie between.
    ///
    /// # Errors
    /// What the system says when it has no monotonic clock.
    pub fn new(clock: Clock) -> Result<Self, Errno> {
        let base = clock.now();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let secs = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanos = secs * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0);
        Ok(Self { clock, base, nanos })
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        self.of(self.clock.now())
    }

    /// The moment of an instant of this process.
    pub fn of(&self, instant: Instant) -> Moment {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match instant.checked_duration_since(self.base) {
            Some(after) => Moment(self.nanos.saturating_add(nanos(after))),
            None => Moment(self.nanos.saturating_sub(nanos(self.base - instant))),
        }
    }

    /// The clock that it is made over.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }
}
