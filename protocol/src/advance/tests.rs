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

/// Standard error ends with that.
fn said(from: u64, bytes: &[u8]) -> Advance {
    let stderr = Some(Tail { from, bytes: bytes.to_vec() });
    Advance::default().output(Some(Output { stdout: None, stderr }))
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
        said(0, &[b'x'; limits::OUTPUT_TAIL_BYTES + 1]),
        said(limits::ADVANCE_NUMBER, b"x"),
        said(u64::MAX, b"x"),
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

#[test]
fn whatever_a_script_says_travels_as_it_is() {
    let all: Vec<u8> = (0..=255).cycle().take(limits::OUTPUT_TAIL_BYTES).collect();
    let told = said(limits::ADVANCE_NUMBER - all.len() as u64, &all);
    assert!(told.is_sound());
    let text = serde_json::to_string(&told).unwrap();
    assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text}");
    assert_eq!(serde_json::from_str::<Advance>(&text).unwrap(), told);
    for odd in [r#""!""#, r#""YQ==""#, "[97]", "null"] {
        let text = format!(r#"{{"output":{{"stdout":{{"from":0,"bytes":{odd}}}}}}}"#);
        assert!(serde_json::from_str::<Advance>(&text).is_err(), "{odd}");
    }
}

#[test]
fn windows_that_follow_one_another_say_what_is_new_and_what_went_by() {
    let tail = Tail { from: 10, bytes: b"abcd".to_vec() };
    let cases: [(u64, (u64, &[u8])); 7] = [
        (0, (10, b"abcd")),
        (9, (1, b"abcd")),
        (10, (0, b"abcd")),
        (13, (0, b"d")),
        (14, (0, b"")),
        (15, (0, b"")),
        (u64::MAX, (0, b"")),
    ];
    for (seen, new) in cases {
        assert_eq!(tail.after(seen), new, "{seen}");
    }
    assert_eq!(tail.end(), 14);
}
