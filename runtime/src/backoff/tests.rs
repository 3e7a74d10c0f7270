//! Property tests of the back-off.

use std::time::Duration;

use proptest::prelude::{any, prop, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{Backoff, RETRY_AFTER_CAP};

const BASE: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_secs(60);

proptest! {
    #[test]
    fn delay_never_exceeds_its_ceiling_nor_the_cap(
        randoms in prop::collection::vec(any::<u64>(), 1..100),
    ) {
        let mut backoff = Backoff::new(BASE, CAP);
        for (round, random) in randoms.into_iter().enumerate() {
            let ceiling = backoff.ceiling();
            let expected = BASE.as_millis() << round.min(40);
            prop_assert_eq!(ceiling.as_millis(), expected.min(CAP.as_millis()));
            prop_assert!(backoff.next(random) <= ceiling);
        }
    }

    #[test]
    fn jitter_still_spreads_at_the_cap(rounds in 8u32..200, random in any::<u64>()) {
        let mut backoff = Backoff::new(BASE, CAP);
        for _ in 0..rounds {
            backoff.next(u64::MAX);
        }
        prop_assert_eq!(backoff.clone().next(0), Duration::ZERO);
        let share = random as f64 / u64::MAX as f64;
        let delay = backoff.next(random);
        prop_assert!((delay.as_secs_f64() - CAP.as_secs_f64() * share).abs() < 0.001);
    }

    #[test]
    fn retry_after_is_a_floor_for_one_delay(asked in 0u64..100_000, random in any::<u64>()) {
        let mut backoff = Backoff::new(BASE, CAP);
        backoff.retry_after(Duration::from_secs(asked));
        let delay = backoff.next(random);
        let floor = Duration::from_secs(asked).min(RETRY_AFTER_CAP);
        prop_assert!(delay >= floor && delay <= floor + BASE);
        prop_assert!(backoff.next(random) <= 2 * BASE);
    }
}

#[test]
fn reset_starts_over() {
    let mut backoff = Backoff::new(BASE, CAP);
    for _ in 0..10 {
        backoff.next(1);
    }
    assert_eq!((backoff.attempts(), backoff.ceiling()), (10, CAP));
    backoff.retry_after(CAP);
    backoff.reset();
    assert_eq!(backoff, Backoff::new(BASE, CAP));
}

#[test]
fn attempts_do_not_overflow() {
    let mut backoff = Backoff { attempts: u32::MAX, ..Backoff::new(BASE, CAP) };
    assert_eq!(backoff.ceiling(), CAP);
    assert!(backoff.next(u64::MAX) <= CAP);
    assert_eq!(backoff.attempts(), u32::MAX);
}
