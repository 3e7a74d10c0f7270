//! What everything in a simulated run shares: time, the trace, and the first promise that broke.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::fixture::NOW;
use protocol::time::Timestamp;
use runtime::clock::ManualClock;
use runtime::{Clock, Entropy};

use crate::seeds::Digest;

/// Time, chance and trace. Time goes in steps of the simulation: every host has a clock of its own
/// besides, which goes on within a step.
#[derive(Debug)]
pub(crate) struct Scene {
    seed: u64,
    hand: ManualClock,
    clock: Clock,
    began: Instant,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    digest: Digest,
    lines: Option<Vec<String>>,
    broken: Option<String>,
}

/// The digest of a trace and its lines.
pub(crate) type Traced = (u64, Vec<String>);

impl Scene {
    pub(crate) fn new(seed: u64, keeps_lines: bool) -> Self {
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(NOW.as_millis());
        let lines = keeps_lines.then(Vec::new);
        let told = Told { digest: Digest::default(), lines, broken: None };
        Self { seed, began: clock.now(), clock, hand, told: Mutex::new(told) }
    }

    /// The chance of one who is part of the run, in one of its lives.
    pub(crate) fn entropy(&self, name: &str, life: u64) -> Entropy {
        let mut seed = Digest::default();
        // Writing to a digest does not fail.
        _ = write!(seed, "{} {name} {life}", self.seed);
        Entropy::seeded(seed.0)
    }

    /// The clock of the steps, for what no host owns.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.hand.advance(by);
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now() - self.began
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        let mut told = self.told();
        _ = writeln!(told.digest, "{} {what}", at.as_millis());
        if let Some(lines) = &mut told.lines {
            lines.push(format!("{:>9.3} s  {what}", at.as_secs_f64()));
        }
    }

    /// A promise does not hold. The first one counts.
    pub(crate) fn breaks(&self, promise: fmt::Arguments<'_>) {
        if self.told().broken.is_none() {
            self.note(format_args!("BROKEN: {promise}"));
            self.told().broken = Some(promise.to_string());
        }
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.told().broken.clone().map_or(Ok(()), Err)
    }

    /// What was told until now.
    pub(crate) fn trace(&self) -> Traced {
        let told = self.told();
        (told.digest.0, told.lines.clone().unwrap_or_default())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
