//! Which grade follows from what is known of a command.

use super::*;
use crate::receipt::{Failure, FailureKind, RefusalReason};

/// State, receipt, proof on the way, silence; and the grade.
type Row<'a> = (CommandState, Option<Outcome>, Option<&'a Evidence>, bool, Option<Grade>);

fn graded(word: &str) -> Evidence {
    Evidence::new().with(GRADE, word)
}

fn succeeded(evidence: Evidence) -> Outcome {
    Outcome::Succeeded { evidence }
}

fn failed() -> Outcome {
    let failure =
        Failure { kind: FailureKind::Io, stage: "finish".to_owned(), detail: "gone".to_owned() };
    Outcome::Failed { failure, evidence: Evidence::new() }
}

#[test]
fn grade_follows_from_receipt_proof_and_silence() {
    use CommandState as S;
    let (keys, media, odd) = (graded("proven"), graded("proven_media"), graded("presumed"));
    let refused =
        Outcome::Refused { reason: RefusalReason::NotArmed, detail: "not armed".to_owned() };
    let table: [Row<'_>; 13] = [
        (S::Queued, None, None, true, None),
        (S::Acked, None, None, false, None),
        (S::Acked, None, None, true, Some(Grade::Presumed)),
        (S::Running, None, Some(&keys), true, Some(Grade::Proven)),
        (S::Running, None, Some(&odd), false, None),
        (S::Succeeded, Some(succeeded(keys.clone())), None, true, Some(Grade::Proven)),
        (S::Succeeded, Some(succeeded(media)), Some(&keys), false, Some(Grade::ProvenMedia)),
        (S::Succeeded, Some(succeeded(odd.clone())), None, false, Some(Grade::Unproven)),
        (S::Succeeded, Some(succeeded(Evidence::new())), None, false, Some(Grade::Unproven)),
        (S::Failed, Some(failed()), None, false, Some(Grade::Unproven)),
        (S::Failed, Some(failed()), Some(&keys), false, Some(Grade::Proven)),
        (S::Refused, Some(refused), None, false, Some(Grade::Refused)),
        (S::InDoubt, None, None, true, Some(Grade::Unproven)),
    ];
    for (number, (state, outcome, proved, is_silent, expected)) in table.into_iter().enumerate() {
        let class = VerbClass::Destructive;
        let outcome = outcome.as_ref();
        let known = Known { class, state, outcome, proved, is_silent };
        assert_eq!(known.grade(), expected, "row {number}");
        for class in [VerbClass::Routine, VerbClass::Disruptive] {
            assert_eq!(Known { class, ..known }.grade(), None, "row {number}");
        }
    }
}
