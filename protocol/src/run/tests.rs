//! Tests that one agent never contradicts itself, whatever becomes of its hellos, and that two do at once.

use proptest::prelude::*;

use super::{Heard, Run};

/// The hellos of one agent process after the other: how long each rests before it begins, and between hellos.
fn life(runs: &[(u64, Vec<u64>)]) -> Vec<Run> {
    let (mut now, mut said) = (0, Vec::new());
    for (rest, pauses) in runs {
        now += rest;
        let (started_us, mut previous_us) = (now, now);
        for pause in pauses {
            now += pause;
            said.push(Run { started_us, previous_us, at_us: now });
            previous_us = now;
        }
    }
    said
}

/// Whether some hello contradicts what was remembered, when each is heard in that order and remembered where
/// that says so.
fn is_told(said: &[(Run, bool)]) -> bool {
    let mut heard: Option<Heard> = None;
    said.iter().any(|(run, is_kept)| {
        let is_contradicted = heard.is_some_and(|heard| heard.is_contradicted_by(*run));
        if *is_kept {
            heard = Some(heard.map_or(Heard::from(*run), |heard| heard.and(*run)));
        }
        is_contradicted
    })
}

fn lives() -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
    let pauses = prop::collection::vec(1..50_u64, 0..8);
    prop::collection::vec((1..50_u64, pauses), 1..6)
}

proptest! {
    /// Lost, delayed, doubled, in any order, remembered or not, and killed after any of them.
    #[test]
    fn one_agent_never_contradicts_itself(
        runs in lives(),
        heard in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..60),
    ) {
        let said = life(&runs);
        prop_assert!(said.iter().all(Run::is_sound));
        prop_assume!(!said.is_empty());
        let heard: Vec<_> =
            heard.into_iter().map(|(index, is_kept)| (*index.get(&said), is_kept)).collect();
        prop_assert!(!is_told(&heard));
    }

    /// A copy that was begun, while the first one goes on: the first hello of the one after the
    /// other's was remembered gives them away.
    #[test]
    fn agent_and_its_copy_are_told_when_the_first_is_heard_again(
        began in 1..1000_u64, copied in 1..1000_u64, pauses in prop::collection::vec(1..50_u64, 3),
    ) {
        let first = |previous_us, at_us| Run { started_us: began, previous_us, at_us };
        let before = began + pauses[0];
        let started_us = before + copied;
        let at_us = started_us + pauses[1];
        let copy = Run { started_us, previous_us: started_us, at_us };
        let again = first(before, at_us + pauses[2]);
        let said = [first(began, before), copy, again].map(|run| (run, true));
        prop_assert!(!is_told(&said[..2]), "which may be a restart");
        prop_assert!(is_told(&said));
        // Whichever of the hellos was lost or not remembered.
        prop_assert!(is_told(&said[1..]));
        prop_assert!(is_told(&[said[2], said[1]]), "and in whatever order they come");
    }

    /// A machine that was copied as it runs, with the memory of its agent.
    #[test]
    fn running_machine_and_its_copy_are_told_when_the_other_is_heard(
        began in 1..1000_u64, ours in prop::collection::vec(1..50_u64, 1..6), theirs in 1..50_u64,
    ) {
        let copied = began + 1000;
        let run = |previous_us, at_us| Run { started_us: began, previous_us, at_us };
        let mut said = vec![run(began, copied)];
        let mut now = copied;
        for pause in ours {
            said.push(run(now, now + pause));
            now += pause;
        }
        let said: Vec<_> = said.into_iter().map(|run| (run, true)).collect();
        prop_assert!(!is_told(&said));
        let other = run(copied, now + theirs);
        prop_assert!(is_told(&[said, vec![(other, true)]].concat()));
    }
}

#[test]
fn times_out_of_order_or_bounds_are_not_sound() {
    let run = |started_us, previous_us, at_us| Run { started_us, previous_us, at_us };
    assert!(run(0, 0, 1).is_sound() && run(5, 7, 9).is_sound());
    for wrong in [run(1, 0, 2), run(0, 2, 2), run(0, 3, 2), run(0, 0, u64::MAX)] {
        assert!(!wrong.is_sound(), "{wrong:?}");
    }
}
