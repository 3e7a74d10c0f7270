//! Full-jitter back-off: how long to wait before the next attempt.
//!
//! Owns the arithmetic only. Must not read a clock, draw randomness or sleep.

use std::time::Duration;

use crate::entropy::scale;

#[cfg(test)]
mod tests;

/// The longest `Retry-After` that is believed. A peer that asks for more, by mistake or by
/// malice, must not silence us.
pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(15 * 60);

/// A mistake that is planted to prove that the simulation finds it, on one thread only.
#[cfg(feature = "planted-bugs")]
pub mod planted {
    use std::cell::Cell;

    thread_local! {
        static JITTER_BEFORE_CAP: Cell<bool> = const { Cell::new(false) };
    }

    /// Draws the delay below the ceiling without the cap, and caps it then.
    pub fn jitter_before_cap(is_planted: bool) {
        JITTER_BEFORE_CAP.set(is_planted);
    }

    pub(super) fn is_jittered_before_cap() -> bool {
        JITTER_BEFORE_CAP.get()
    }
}

/// Delays that double up to a cap, each drawn uniformly below its ceiling.
///
/// The jitter is applied after the cap: jitter first would give everybody who reached the cap
/// the same delay, and a storm would stay a storm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
    retry_after: Duration,
}

impl Backoff {
    /// Ceilings `base`, `2 × base`, `4 × base` … but never above `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempts: 0, retry_after: Duration::ZERO }
    }

    /// The delay before the next attempt; `random` is a uniform 64-bit number
    /// ([`crate::Entropy::next_u64`]).
    ///
    /// Uniform in `0..=ceiling`, on top of the last `Retry-After` if there was one: added, not
    /// taken as a maximum, or all who were told the same time would come back at the same time.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let jittered = Duration::from_nanos(scale(random, nanos));
        #[cfg(feature = "planted-bugs")]
        let jittered = if planted::is_jittered_before_cap() {
            let uncapped = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
            let nanos = u64::try_from(self.base.saturating_mul(uncapped).as_nanos());
            Duration::from_nanos(scale(random, nanos.unwrap_or(u64::MAX))).min(self.cap)
        } else {
            jittered
        };
        std::mem::take(&mut self.retry_after) + jittered
    }

    /// The peer asked for no attempt before `delay` has passed. Holds for the next delay only,
    /// and is believed up to [`RETRY_AFTER_CAP`].
    pub fn retry_after(&mut self, delay: Duration) {
        self.retry_after = self.retry_after.max(delay.min(RETRY_AFTER_CAP));
    }

    /// Starts over. Call it only after `welcome`: a TCP or TLS success says nothing about whether
    /// the hub has room, and resetting there makes herds.
    pub fn reset(&mut self) {
        self.attempts = 0;
        self.retry_after = Duration::ZERO;
    }

    /// Delays handed out since the start or the last reset.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The longest delay that [`next`](Self::next) can answer now, `Retry-After` aside.
    #[must_use]
    pub fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}
