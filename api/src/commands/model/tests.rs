//! The table as a whole, row by row, and what holds for every sequence.

use proptest::prelude::*;

use super::*;
use CommandState as S;

const fn receipt_of(outcome: CommandState) -> Happening {
    Happening::Receipt { outcome, is_stored: false }
}

fn letter(step: Step) -> char {
    match step {
        Step::Stay => '.',
        Step::Conflict => '!',
        Step::To(S::AwaitingApproval) => 'w',
        Step::To(S::Queued) => 'q',
        Step::To(S::Sent) => 's',
        Step::To(S::Acked) => 'a',
        Step::To(S::Running) => 'r',
        Step::To(S::Succeeded) => '+',
        Step::To(S::Failed) => '-',
        Step::To(S::Refused) => 'x',
        Step::To(S::Expired) => 'e',
        Step::To(S::Cancelled) => 'c',
        Step::To(S::InDoubt) => '?',
    }
}

#[test]
fn table_is_as_documented() {
    // One letter per state, in the order of `CommandState::ALL`: awaiting, queued, sent, acked,
    // running, succeeded, failed, refused, expired, cancelled, in doubt.
    let rows = [
        (Happening::Released, "q....!!!!!!"),
        (Happening::Sent, "!s........."),
        (Happening::Acked, "!aa.....!!!"),
        (Happening::Progressed, "!rrr....!!!"),
        (receipt_of(S::Succeeded), "!++++!!!!!!"),
        (receipt_of(S::Refused), "!xxxx!!!!!!"),
        (Happening::Receipt { outcome: S::Failed, is_stored: true }, "!----......"),
        (Happening::Expired, "eee........"),
        (Happening::Withdrawn, "ccc!!!!!!.!"),
        (Happening::EnrollmentEnded, "cc???......"),
    ];
    for (happening, expected) in rows {
        let actual: String =
            S::ALL.into_iter().map(|state| letter(step(state, happening))).collect();
        assert_eq!(actual, expected, "{happening:?}");
    }
}

fn happenings() -> impl Strategy<Value = Happening> {
    let outcome =
        prop_oneof![Just(S::Succeeded), Just(S::Failed), Just(S::Refused), Just(S::InDoubt)];
    prop_oneof![
        Just(Happening::Released),
        Just(Happening::Sent),
        Just(Happening::Acked),
        Just(Happening::Progressed),
        (outcome, any::<bool>())
            .prop_map(|(outcome, is_stored)| Happening::Receipt { outcome, is_stored }),
        Just(Happening::Expired),
        Just(Happening::Withdrawn),
        Just(Happening::EnrollmentEnded),
    ]
}

proptest! {
    #[test]
    fn states_only_move_forward_and_end_once(story in proptest::collection::vec(happenings(), 0..40)) {
        let rank = |state: S| S::ALL.iter().position(|s| *s == state).unwrap();
        let mut state = S::AwaitingApproval;
        let mut ended = None;
        let mut was_released = false;
        for happening in story {
            if let Step::To(next) = step(state, happening) {
                prop_assert!(rank(next) > rank(state));
                prop_assert!(ended.is_none(), "left the terminal state {state:?}");
                was_released |= next == S::Queued;
                let is_by_device = matches!(next, S::Succeeded | S::Failed | S::Refused);
                prop_assert!(!is_by_device || was_released);
                state = next;
                ended = state.is_terminal().then_some(state);
            }
        }
    }
}
