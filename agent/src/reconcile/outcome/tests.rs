//! What stays of a receipt that is too long.

use protocol::receipt::{Failure, FailureKind};
use serde_json::json;

use super::*;

/// As of a wipe of so many volumes that a receipt has no room for them.
fn long(evidence: Evidence) -> Evidence {
    let targets: Vec<_> = (0..200).map(|n| json!({ "path": format!("/dev/sd{n}") })).collect();
    evidence.with("targets", targets).with("said", "x".repeat(SHORT_BYTES + 1))
}

#[test]
fn receipt_that_is_too_long_keeps_grade_and_counts_and_the_power_goes_by_them() {
    let evidence = long(Evidence::new().with("grade", "proven").with("header_backup_opens", true));
    let short = without_lists(Outcome::Succeeded { evidence });
    let expected = Evidence::new().with("grade", "proven").with("header_backup_opens", true);
    let expected = expected.with("too_long", true);
    assert_eq!(short, Outcome::Succeeded { evidence: expected });

    let evidence = long(Evidence::new().with("volumes_destroyed", 3).with("volumes_recorded", 3));
    let detail = "x".repeat(limits::TEXT_CHARS + 1);
    let failure = Failure { kind: FailureKind::Io, stage: "apply".to_owned(), detail };
    let short = without_lists(Outcome::Failed { failure, evidence });
    assert!(has_effect(&short), "the agent that starts again powers the device off: {short:?}");
    let Outcome::Failed { failure, evidence } = short else { panic!("{short:?}") };
    assert_eq!(failure.detail.len(), limits::TEXT_CHARS);
    assert_eq!((evidence.get("targets"), evidence.get("said")), (None, None));
}

#[test]
fn short_lists_stay_as_far_as_there_is_room() {
    let accounts = |count: usize| vec!["x".repeat(100); count];
    let doors = json!({ "closed": true, "break_glass": ["root"] });
    let evidence =
        long(Evidence::new().with("break_glass", accounts(2)).with("doors", doors.clone()));
    let short = shortened(&evidence);
    assert_eq!(short.get("break_glass"), Some(&json!(accounts(2))));
    assert_eq!((short.get("doors"), short.get("targets")), (Some(&doors), None));
    let many = (0..100).fold(Evidence::new(), |all, n| all.with(&format!("n{n}"), accounts(2)));
    let bytes: usize = shortened(&many).iter().map(|(_, list)| list.to_string().len()).sum();
    assert!((SHORT_LISTS_BYTES / 2..SHORT_LISTS_BYTES + 10).contains(&bytes), "{bytes}");
}

#[test]
fn many_short_observations_are_bounded_as_well() {
    let many = (0..10_000).fold(Evidence::new(), |all, n| all.with(&format!("name-{n}"), n));
    assert_eq!(shortened(&many).iter().count(), limits::LIST_ENTRIES + 1);
}
