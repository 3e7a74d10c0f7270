//! Tests of the devices that are waited for.

use runtime::Clock;
use uuid::Uuid;

use super::*;

fn device(number: usize) -> DeviceId {
    DeviceId::from_uuid(Uuid::from_u128(number as u128))
}

#[test]
fn device_is_owed_until_it_comes_or_time_has_passed() {
    let (owed, now) = (Owed::default(), Clock::system().now());
    owed.note(device(1), now);
    owed.note(device(2), now);
    assert!(owed.is_owed(device(1), now) && !owed.is_owed(device(3), now));
    owed.forget(device(1));
    assert!(!owed.is_owed(device(1), now));
    assert!(owed.is_owed(device(2), now + KEPT - Duration::from_millis(1)));
    assert!(!owed.is_owed(device(2), now + KEPT));
}

#[test]
fn memory_of_them_is_bounded_and_comes_back() {
    let (owed, now) = (Owed::default(), Clock::system().now());
    for number in 0..MAX + 10 {
        owed.note(device(number), now);
        owed.forget(device(0));
        owed.note(device(0), now);
    }
    assert!(owed.lock().order.len() <= MAX && owed.lock().since.len() <= MAX);
    assert!(!owed.is_owed(device(MAX + 5), now));
    let later = now + KEPT;
    owed.note(device(MAX + 5), later);
    assert!(owed.is_owed(device(MAX + 5), later));
    assert_eq!(owed.lock().order.len(), 1);
}
