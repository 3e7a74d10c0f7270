//! Keeping a schedule to within microseconds.
//!
//! The runtime's own timer rounds up to whole milliseconds (`tokio::time`), which is as much as
//! what is measured here takes. A thread that sleeps by the kernel's clock does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use runtime::Clock;
use runtime::lifecycle::CancellationToken;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::rate::Schedule;

#[cfg(test)]
mod tests;

/// The longest sleep: how soon a stop is noticed.
const NAP: Duration = Duration::from_millis(100);

/// Lets one permit out at each moment of a schedule. Ends with its last permit, or when dropped.
#[derive(Debug)]
pub struct Pacer {
    permits: Arc<Semaphore>,
    count: u64,
    taken: AtomicU64,
    stop: CancellationToken,
    /// Owns the thread.
    _thread: JoinSet<()>,
}

impl Pacer {
    /// Begins to let `count` permits out. Must be called within a Tokio runtime.
    pub fn start(schedule: Schedule, count: u64, clock: Clock) -> Self {
        let (permits, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let mut thread = JoinSet::new();
        let (out, until) = (permits.clone(), stop.clone());
        thread.spawn_blocking(move || {
            for index in 0..count {
                sleep(schedule.at(index), &clock, &until);
                if until.is_cancelled() {
                    break;
                }
                out.add_permits(1);
            }
        });
        Self { permits, count, taken: AtomicU64::new(0), stop, _thread: thread }
    }

    /// Waits for the next moment and answers its number; `None` after the last.
    pub async fn next(&self) -> Option<u64> {
        let permit = self.permits.acquire().await;
        permit.expect("the semaphore of a pacer is never closed").forget();
        let index = self.taken.fetch_add(1, Ordering::Relaxed);
        if index + 1 >= self.count {
            // Whoever waits besides learns from one another that nothing more comes.
            self.permits.add_permits(1);
        }
        (index < self.count).then_some(index)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn sleep(until: Instant, clock: &Clock, stop: &CancellationToken) {
    loop {
        let left = until.saturating_duration_since(clock.now());
        if left.is_zero() || stop.is_cancelled() {
            return;
        }
        let nap = TimeSpec::from_duration(left.min(NAP));
        // A signal may end it early: the loop looks again.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &nap);
    }
}
