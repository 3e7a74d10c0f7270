//! What an advance may say.

use super::*;

#[test]
fn what_is_made_here_is_always_sound() {
    let long = "\u{1b}[2J/dev/\u{202e}".to_owned() + &"ü".repeat(100);
    let told = Advance::at(&long).step(2, 3).bytes(5, 4).secs(1, u64::MAX);
    assert!(told.is_sound(), "{told:?}");
    let at = told.at.unwrap();
    assert!(at.starts_with("[2J/dev/ü") && at.len() <= limits::ADVANCE_WORD_BYTES, "{at:?}");
    assert_eq!(told.bytes, Some(Part { done: 4, of: 4 }), "more than all of it");
    assert_eq!(told.secs, None, "a number that JSON cannot hold");
}

#[test]
fn what_is_beyond_its_bound_is_not_sound() {
    let part = |done, of| Some(Part { done, of });
    let odd = [
        Advance { at: Some("x".repeat(limits::ADVANCE_WORD_BYTES + 1)), ..Advance::default() },
        Advance { at: Some("a\u{7}".to_owned()), ..Advance::default() },
        Advance { step: part(2, 1), ..Advance::default() },
        Advance { step: part(1, limits::ADVANCE_STEPS + 1), ..Advance::default() },
        Advance { bytes: part(0, limits::ADVANCE_NUMBER + 1), ..Advance::default() },
        Advance { secs: part(3, 2), ..Advance::default() },
    ];
    for advance in odd {
        assert!(!advance.is_sound(), "{advance:?}");
    }
    assert!(Advance::default().is_sound());
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let later = r#"{"at":"/dev/sda2","rows":{"done":1,"of":2},"step":{"done":1,"of":2,"per":"s"}}"#;
    let known: Advance = serde_json::from_str(later).unwrap();
    assert_eq!(known, Advance::at("/dev/sda2").step(1, 2));
}

#[test]
fn percent_is_rounded_down_and_all_of_nothing_is_all() {
    for (done, of, percent) in [(0, 3, 0), (2, 3, 66), (3, 3, 100), (0, 0, 100)] {
        assert_eq!(Part { done, of }.percent(), percent, "{done} of {of}");
    }
    assert_eq!(Part { done: u64::MAX / 2, of: u64::MAX }.percent(), 49);
}
