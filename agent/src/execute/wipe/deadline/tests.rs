//! Calling a power-off off, where the service manager does not answer at once.

use super::*;
use crate::execute::fixtures::Sandbox;

#[test]
fn power_off_is_called_off_again_and_again_until_it_is_or_would_have_come() {
    let (mut tries, mut pauses) = (0, 0);
    let is_third = || {
        tries += 1;
        tries == 3
    };
    assert!(again_and_again(is_third, || pauses += 1));
    assert_eq!((tries, pauses), (3, 3));
    let mut pauses = 0;
    assert!(!again_and_again(|| false, || pauses += 1));
    assert_eq!(EVERY * pauses, WITHIN);
}

#[test]
fn bus_that_does_not_answer_leaves_a_timer_armed_and_none_at_all_has_none() {
    let sandbox = Sandbox::new();
    let armed = |address: Option<&str>| Host {
        arming: Arming::Armed,
        dbus_address: address.map(str::to_owned),
        ..sandbox.host.clone()
    };
    assert!(is_disarmed(&armed(None)));
    assert!(!is_disarmed(&armed(Some("unix:path=/nowhere"))));
    // Only an armed agent arms one.
    assert!(is_disarmed(&Host { arming: Arming::Sandboxed, ..armed(Some("unix:path=/nowhere")) }));
}
