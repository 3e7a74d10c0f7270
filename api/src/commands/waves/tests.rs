//! Who goes first, and what is concluded of it.

use super::*;
use CommandState as S;

#[test]
fn large_orders_have_a_first_wave_and_what_looks_or_stops_has_none() {
    let waves = Waves::default();
    for (class, devices, size) in [
        (VerbClass::Disruptive, 50, None),
        (VerbClass::Disruptive, 51, Some(5)),
        (VerbClass::Disruptive, 10_000, Some(20)),
        (VerbClass::Destructive, 5, None),
        (VerbClass::Destructive, 6, Some(1)),
        (VerbClass::Destructive, 40, Some(4)),
        (VerbClass::Routine, 10_000, None),
        (VerbClass::Stop, 10_000, None),
    ] {
        assert_eq!(waves.size(class, devices), size, "{class:?} of {devices}");
    }
    let off = Waves { disruptive_above: 0, ..Waves::default() };
    assert_eq!(off.size(VerbClass::Disruptive, 10_000), None);
    assert_eq!(waves.problem(), None);
    for wrong in [0, 51] {
        assert!(Waves { percent: wrong, ..Waves::default() }.problem().is_some(), "{wrong}");
    }
    assert!(Waves { most: 0, ..Waves::default() }.problem().is_some());
}

#[test]
fn first_wave_is_over_when_everybody_is_and_passes_when_nobody_failed() {
    let stopped = |text: &str| Verdict::Stopped(format!("of the first wave: {text}"));
    for (stands, expected) in [
        (vec![], Verdict::Open),
        (vec![(S::Queued, 1)], Verdict::Open),
        (vec![(S::Succeeded, 4), (S::Running, 1)], Verdict::Open),
        (vec![(S::Succeeded, 5)], Verdict::Passed),
        (vec![(S::Succeeded, 1), (S::Cancelled, 4)], Verdict::Passed),
        (vec![(S::Cancelled, 5)], Verdict::Open),
        (vec![(S::Succeeded, 4), (S::Failed, 1)], stopped("1 failed")),
        (vec![(S::Acked, 3), (S::Refused, 2)], stopped("2 refused")),
        (vec![(S::InDoubt, 1), (S::Expired, 2)], stopped("1 in_doubt, 2 expired")),
    ] {
        let shown = format!("{stands:?}");
        assert_eq!(verdict(&stands.into_iter().collect()), expected, "{shown}");
    }
}
