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
        Step::To(S::AwaitingWave) => 'b',
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
    // One letter per state, in the order of `CommandState::ALL`: awaiting approval, awaiting
    // the first wave, queued, sent, acked, running, succeeded, failed, refused, expired, cancelled, in doubt.
    let rows = [
        (Happening::PutBehind, "b.!!!!!!!!!!"),
        (Happening::Released, "qq....!!!!!!"),
        (Happening::Sent, "!!s........."),
        (Happening::Acked, "!!aa.....aa!"),
        (Happening::Lost, "....ss......"),
        (Happening::Progressed, "!!rrr....rr!"),
        (receipt_of(S::Succeeded), "!!++++!!!++!"),
        (receipt_of(S::Refused), "!!xxxx!!!xx!"),
        (Happening::Receipt { outcome: S::Failed, is_stored: true }, "!!----...--."),
        (Happening::Expired, "eeee........"),
        (Happening::Withdrawn, "cccc!!!!!!.!"),
        (Happening::EnrollmentEnded, "ccc???......"),
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
        Just(Happening::PutBehind),
        Just(Happening::Released),
        Just(Happening::Sent),
        Just(Happening::Acked),
        Just(Happening::Lost),
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
    fn what_a_device_signed_is_final(story in proptest::collection::vec(happenings(), 0..40)) {
        let mut state = S::AwaitingApproval;
        let mut was_released = false;
        for happening in story {
            let by_device = matches!(
                happening,
                Happening::Acked | Happening::Progressed | Happening::Receipt { .. }
            );
            // Without an envelope a device has nothing to answer: `reports` asks nobody here then.
            if by_device && !was_released {
                continue;
            }
            if let Step::To(next) = step(state, happening) {
                let is_assumed = matches!(state, S::Expired | S::Cancelled);
                prop_assert!(is_assumed || !state.is_terminal(), "left {state:?}");
                prop_assert!(!is_assumed || by_device, "{happening:?} left {state:?}");
                was_released |= next == S::Queued;
                state = next;
            }
        }
        prop_assert!(!matches!(state, S::Sent | S::Succeeded) || was_released);
    }
}
