//! When this run of the agent began, and when it said hello.
//!
//! Owns that each hello names the one before it, on whatever rungs they are said, and that none is said but by
//! whoever has the state directory for itself: a run ends before the next one of its device begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::limits::RUN_MICROS_MAX;
use protocol::run::Run;
use runtime::Clock;

use crate::state::StateDir;

/// The hellos of this run. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Hellos {
    clock: Clock,
    /// `None` where the kernel has no such clock.
    started_us: Option<u64>,
    last_us: Arc<AtomicU64>,
    /// Its lock is held for as long as somebody may say hello.
    _alone: Arc<StateDir>,
}

impl Hellos {
    /// The run begins now.
    pub(crate) fn new(clock: Clock, alone: Arc<StateDir>) -> Self {
        let started_us = micros(&clock);
        let last_us = Arc::new(AtomicU64::new(started_us.unwrap_or(0)));
        Self { clock, started_us, last_us, _alone: alone }
    }

    /// The place of the next hello. It is said now, or never.
    pub(crate) fn next(&self) -> Option<Run> {
        let (started_us, now) = (self.started_us?, micros(&self.clock)?);
        let after = |last: u64| now.max(last.saturating_add(1));
        let previous_us = self.last_us.update(Ordering::SeqCst, Ordering::SeqCst, after);
        Some(Run { started_us, previous_us, at_us: after(previous_us) }).filter(Run::is_sound)
    }
}

fn micros(clock: &Clock) -> Option<u64> {
    u64::try_from(clock.since_boot()?.as_micros()).ok().filter(|now| *now < RUN_MICROS_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_hello_names_the_one_before_it_and_the_next_run_begins_later() {
        let (clock, hand) = Clock::manual();
        hand.advance(Duration::from_millis(5));
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(folder.path()).unwrap());
        let hellos = Hellos::new(clock.clone(), state.clone());
        let said = [hellos.next(), hellos.clone().next()].map(Option::unwrap);
        hand.advance(Duration::from_millis(1));
        // A clock on the wall that is set back is another one.
        hand.set_unix_millis(0);
        let third = hellos.next().unwrap();
        let run = |previous_us, at_us| Run { started_us: 5000, previous_us, at_us };
        assert_eq!(said, [run(5000, 5001), run(5001, 5002)]);
        assert_eq!(third, run(5002, 6000));
        hand.advance(Duration::from_millis(1));
        assert_eq!(Hellos::new(clock, state).next().unwrap().started_us, 7000);
    }
}
