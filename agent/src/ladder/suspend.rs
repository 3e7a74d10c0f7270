//! Notices that the machine slept: its timers stood still, and whoever waited for it has given up.
//!
//! Owns comparing two clocks of the kernel, of which one goes on while the machine sleeps. What
//! follows from it is the caller's.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime::Clock;

#[cfg(test)]
mod tests;

/// How often it is looked at, in time that the machine is awake.
const EVERY: Duration = Duration::from_secs(5);
/// A shorter sleep nobody else has noticed: a hub waits for so long at least.
const SHORT: Duration = protocol::limits::URGENT_DEAD_AFTER;

/// Looks from time to time.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Clock,
    /// `/proc/uptime` (`proc(5)`): seconds since the boot, those asleep among them.
    uptime: PathBuf,
    /// Both clocks, when the machine was last known to be awake; `None` where there is no second.
    seen: Option<(Instant, Duration)>,
    look_at: Instant,
}

impl Watch {
    pub(crate) fn new(clock: Clock, uptime: PathBuf) -> Self {
        let mut watch = Self { look_at: clock.now() + EVERY, clock, uptime, seen: None };
        watch.seen = watch.read();
        watch
    }

    /// Waits until the machine has slept, and says for how long. Cancel safe. Only the machine's own
    /// clock can be compared with what its kernel says.
    pub(crate) async fn slept(&mut self) -> Duration {
        if !self.clock.is_of_machine() {
            return std::future::pending().await;
        }
        loop {
            let wait = self.look_at.saturating_duration_since(self.clock.now());
            tokio::time::sleep(wait).await;
            self.look_at = self.clock.now() + EVERY;
            if let Some(slept) = self.look() {
                return slept;
            }
        }
    }

    fn look(&mut self) -> Option<Duration> {
        let now = self.read();
        let (before, now) = (std::mem::replace(&mut self.seen, now)?, now?);
        let awake = now.0.saturating_duration_since(before.0);
        let slept = now.1.saturating_sub(before.1).saturating_sub(awake);
        (slept > SHORT).then_some(slept)
    }

    /// A file of the kernel's own is read without waiting for a disk.
    fn read(&self) -> Option<(Instant, Duration)> {
        let text = std::fs::read_to_string(&self.uptime).ok()?;
        let secs: f64 = text.split_whitespace().next()?.parse().ok()?;
        Some((self.clock.now(), Duration::try_from_secs_f64(secs).ok()?))
    }
}
