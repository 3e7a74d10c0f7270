//! Windows under a clock that a test moves, also the wrong way.

use runtime::Clock;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Timestamp = protocol::fixture::NOW;

fn held(left: Duration) -> Held {
    let left_ms = u64::try_from(left.as_millis()).expect("not that long");
    Held { command_id: CommandId::new(NOW, [1; 10]), since: NOW, left_ms }
}

/// What the disk would be told at that moment, if anything.
fn written(windows: &mut Windows, now: Instant, wall: Timestamp) -> Option<u64> {
    let counted = windows.counted(now);
    for held in &counted {
        windows.count(*held, now, wall);
    }
    counted.first().map(|held| held.left_ms)
}

#[test]
fn clock_that_is_set_forward_shortens_no_window() {
    let (clock, hand) = Clock::manual();
    let wall = || Timestamp::from_millis(clock.unix_millis());
    hand.set_unix_millis(NOW.as_millis());
    let mut windows = Windows::default();
    windows.open(held(HOUR), clock.now(), wall());
    hand.set_unix_millis(NOW.plus(HOUR * 1000).as_millis());
    assert_eq!(written(&mut windows, clock.now(), wall()), None);
    hand.advance(HOUR - Duration::from_millis(1));
    assert_eq!(written(&mut windows, clock.now(), wall()), Some(1));
    hand.advance(Duration::from_millis(1));
    assert_eq!(written(&mut windows, clock.now(), wall()), Some(0));
    assert_eq!((windows.due(), windows.ids().count()), (None, 0));
}

#[test]
fn time_in_which_nobody_can_call_back_does_not_count() {
    let (clock, hand) = Clock::manual();
    let mut windows = Windows::default();
    windows.open(held(HOUR), clock.now(), NOW);
    hand.advance(HOUR * 2);
    windows.stand_still(clock.now());
    assert_eq!(written(&mut windows, clock.now(), NOW), None);
    hand.advance(HOUR - Duration::from_millis(1));
    assert_eq!(written(&mut windows, clock.now(), NOW), Some(1));
}

#[test]
fn restart_goes_on_where_the_disk_says() {
    let (clock, hand) = Clock::manual();
    let mut windows = Windows::default();
    windows.open(held(HOUR), clock.now(), NOW);
    let mut on_disk = HOUR;
    for _ in 0..10 {
        hand.advance(STEP);
        let left = written(&mut windows, clock.now(), NOW).expect("a step is due");
        on_disk -= STEP;
        assert_eq!(Duration::from_millis(left), on_disk);
    }
    // What came after the last record is waited for once more.
    hand.advance(STEP / 2);
    let mut again = Windows::default();
    again.open(held(on_disk), clock.now(), NOW);
    hand.advance(on_disk - Duration::from_millis(1));
    assert_eq!(written(&mut again, clock.now(), NOW), Some(1));
}

#[test]
fn people_are_told_another_end_only_when_it_is_off_by_much() {
    let (clock, _) = Clock::manual();
    let mut windows = Windows::default();
    windows.open(held(HOUR), clock.now(), NOW);
    assert!(!windows.count(held(HOUR), clock.now(), NOW.plus(OFF)));
    assert_eq!(windows.told()[0].ends_at, NOW.plus(HOUR));
    assert!(windows.count(held(HOUR), clock.now(), NOW.plus(HOUR)));
    assert_eq!(windows.told()[0].ends_at, NOW.plus(HOUR * 2));
}
