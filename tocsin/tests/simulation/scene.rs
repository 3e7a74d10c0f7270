//! What everything in the simulated world shares: time, chance, the trace, and what was promised.

use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use protocol::fixture::{NOW, Organisation};
use protocol::time::Timestamp;
use runtime::clock::ManualClock;
use runtime::{Clock, Entropy};

use crate::bug::Bug;
use crate::seeds::Digest;

/// Time, chance, trace and the first promise that broke.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) clock: Clock,
    hand: ManualClock,
    began: Instant,
    pub(crate) chance: Entropy,
    pub(crate) organisation: Organisation,
    pub(crate) bug: Option<Bug>,
    /// Nothing fails any more: messages keep their order.
    pub(crate) is_healed: bool,
    trace: Trace,
    broken: Option<String>,
}

/// Everything that happened, as a digest and, when asked for, as lines.
#[derive(Debug)]
struct Trace {
    digest: Digest,
    lines: Option<Vec<String>>,
}

/// The digest of a trace and its lines.
pub(crate) type Traced = (u64, Vec<String>);

impl Scene {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, keeps_lines: bool) -> Self {
        let (clock, hand) = Clock::manual();
        hand.set_unix_millis(NOW.as_millis());
        Self {
            began: clock.now(),
            clock,
            hand,
            chance: Entropy::seeded(seed),
            organisation: Organisation::new(),
            bug,
            is_healed: false,
            trace: Trace { digest: Digest::default(), lines: keeps_lines.then(Vec::new) },
            broken: None,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.hand.advance(by);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now() - self.began
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A number below `bound`.
    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.chance.below(bound as u64)).unwrap_or(0)
    }

    pub(crate) fn one_in(&self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    /// Which of so many waiting things is next: any, and the first once nothing fails any more.
    pub(crate) fn pick(&self, length: usize) -> Option<usize> {
        match length {
            0 => None,
            _ if self.is_healed => Some(0),
            _ => Some(self.below(length)),
        }
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        // Writing to a digest does not fail.
        _ = writeln!(self.trace.digest, "{} {what}", at.as_nanos());
        if let Some(lines) = &mut self.trace.lines {
            lines.push(format!("{:>10.3} s  {what}", at.as_secs_f64()));
        }
    }

    /// A promise does not hold. The first one counts.
    pub(crate) fn breaks(&mut self, promise: fmt::Arguments<'_>) {
        if self.broken.is_none() {
            self.note(format_args!("BROKEN: {promise}"));
            self.broken = Some(promise.to_string());
        }
    }

    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn into_trace(self) -> Traced {
        (self.trace.digest.0, self.trace.lines.unwrap_or_default())
    }
}
