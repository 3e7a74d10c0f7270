//! Tests of the memory.

use super::*;
use protocol::time::Timestamp;

fn device(number: u64) -> DeviceId {
    DeviceId::new(Timestamp::from_millis(number), [0; 10])
}

fn hub(name: &str) -> HubId {
    name.parse().expect("a name")
}

#[test]
fn place_is_believed_for_a_while_and_the_newest_counts() {
    let (places, now) = (Places::default(), runtime::Clock::system().now());
    assert_eq!(places.get(device(1), now), None);
    places.note(device(1), &hub("a"), now);
    places.note(device(2), &hub("b"), now);
    places.note(device(1), &hub("b"), now);
    assert_eq!(places.get(device(1), now), Some(hub("b")));
    assert_eq!(places.get(device(1), now + AGE), None);
    places.forget(device(2));
    assert_eq!(places.get(device(2), now), None);
}

#[test]
fn memory_is_bounded() {
    let (places, now) = (Places::default(), runtime::Clock::system().now());
    for number in 0..DEVICES as u64 + 1 {
        places.note(device(number), &hub("a"), now);
    }
    assert!(places.lock().places.len() <= DEVICES);
    assert_eq!(places.get(device(DEVICES as u64), now), Some(hub("a")));
}
