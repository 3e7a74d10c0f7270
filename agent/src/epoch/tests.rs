//! Tests of the order.

use protocol::limits::EPOCH_MAX;
use protocol::time::Timestamp;

use super::Epochs;

const fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn epochs_follow_the_clock_and_never_repeat_or_fall() {
    let epochs = Epochs::new(at(0));
    assert_eq!(epochs.next(at(1000)), 1000);
    assert_eq!(epochs.clone().next(at(1000)), 1001);
    assert_eq!(epochs.next(at(10)), 1002);
    assert_eq!(epochs.next(at(2000)), 2000);
}

#[test]
fn lower_bound_of_time_holds_for_epochs_too() {
    let epochs = Epochs::new(at(5000));
    assert_eq!(epochs.next(at(10)), 5000);
    epochs.raise(at(9000));
    epochs.raise(at(100));
    assert_eq!(epochs.next(at(10)), 9000);
}

#[test]
fn clock_of_the_far_future_stays_within_the_bound() {
    let epochs = Epochs::new(at(0));
    assert_eq!(epochs.next(at(u64::MAX)), EPOCH_MAX);
    assert_eq!(epochs.next(at(0)), EPOCH_MAX);
}
