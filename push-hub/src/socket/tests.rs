//! Tests of the meter's arithmetic. What peers see is tested over real sockets in `tests/`.

use std::time::Duration;

use runtime::Clock;

use super::Bucket;

#[test]
fn bucket_gives_its_burst_and_then_its_rate() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(3, 2, clock.now());
    let mut take = || bucket.take(1, clock.now());
    assert_eq!([take(), take(), take(), take()], [true, true, true, false]);
    hand.advance(Duration::from_millis(500));
    assert_eq!([take(), take()], [true, false]);
    hand.advance(Duration::from_secs(3600));
    assert_eq!([take(), take(), take(), take()], [true, true, true, false]);
}

#[test]
fn debt_is_paid_back_before_more_is_given() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(10, 10, clock.now());
    assert!(bucket.take(30, clock.now()));
    hand.advance(Duration::from_secs(2));
    assert!(!bucket.take(1, clock.now()));
    hand.advance(Duration::from_millis(100));
    assert!(bucket.take(1, clock.now()));
}

#[test]
fn frequent_looks_do_not_lose_parts_of_a_token() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(1000, 3, clock.now());
    assert!(bucket.take(1000, clock.now()));
    let mut given = 0;
    for _ in 0..10_000 {
        hand.advance(Duration::from_millis(1));
        given += u32::from(bucket.take(1, clock.now()));
    }
    assert_eq!(given, 30);
}
