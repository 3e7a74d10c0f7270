//! Tests of what people see.

use std::time::Duration;

use protocol::time::Timestamp;

use super::*;

#[test]
fn hidden_characters_of_a_device_never_reach_the_terminal() {
    assert_eq!(text::clean("web\u{1b}[2J-17\r\n"), "web�[2J-17��");
    assert_eq!(text::clean("a\u{202e}b\u{200b}c\u{9b}d"), "a�b�c�d");
    let mut table = Table::new(&["name"]);
    table.row([("x\u{1b}]0;owned\u{7}".to_owned(), Tone::Plain)]);
    assert_eq!(table.render(false), "NAME\nx�]0;owned�");
}

#[test]
fn long_text_is_cut_and_says_so() {
    assert_eq!(text::clean_to("abcdef", 4), "abc…");
    assert_eq!(text::clean_to("abcd", 4), "abcd");
}

#[test]
fn json_stays_the_same_value_and_hides_nothing() {
    let value = serde_json::json!({ "name": "a\u{202e}b\u{9b}c\u{feff}", "n": [1, "ü€"] });
    let guarded = text::json_guard(&serde_json::to_string_pretty(&value).unwrap());
    assert!(guarded.contains("a\\u202eb\\u009bc\\ufeff"), "{guarded}");
    assert!(guarded.contains("ü€"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&guarded).unwrap(), value);
}

#[test]
fn table_has_no_colour_codes_unless_wanted() {
    let mut table = Table::new(&["name", "state"]);
    table.row([("web-17".to_owned(), Tone::Strong), ("locked".to_owned(), Tone::Bad)]);
    assert_eq!(table.render(false), "NAME    STATE\nweb-17  locked");
    assert!(table.render(true).contains('\u{1b}'));
}

#[test]
fn durations_read_as_people_say_them() {
    for (millis, text) in [
        (0, "0 ms"),
        (212, "212 ms"),
        (3400, "3.4 s"),
        (59_000, "59 s"),
        (300_000, "5 min"),
        (7_200_000, "2 h"),
        (259_200_000, "3 d"),
    ] {
        assert_eq!(time::duration(Duration::from_millis(millis)), text);
    }
}

#[test]
fn time_of_day_names_the_day_when_it_is_another() {
    let now = Timestamp::from_millis(1_767_225_600_000);
    let hours = |hours: u64| now.plus(Duration::from_secs(hours * 3600));
    assert_eq!(time::clock(hours(14), now), "14:00Z");
    assert_eq!(time::clock(hours(24), now), "2026-01-02 00:00Z");
    assert_eq!(time::ago(now, hours(3)), "3 h ago");
    assert_eq!(time::ago(hours(3), now), "now");
}

#[test]
fn counting_words_agree_with_the_number() {
    assert_eq!(text::count(1, "device"), "1 device");
    assert_eq!(text::count(2, "device"), "2 devices");
}

#[test]
fn grade_names_what_it_does_not_cover() {
    use protocol::grade::Grade;
    use protocol::receipt::Evidence;
    use serde_json::json;
    let words = |grade, evidence: Evidence| outcome::grade_words(grade, Some(&evidence));
    let evidence = || Evidence::new().with("header_backup_opens", false);
    assert_eq!(
        words(Grade::ProvenMedia, evidence()),
        "grade proven+media: keys and data destroyed"
    );
    let left = json!([{ "path": "/dev/sdc\u{1b}[2J", "uuid": "x", "why": "not_named" }]);
    assert_eq!(
        words(Grade::Proven, evidence().with("unencrypted", vec!["/dev/sdd"]).with("left", left)),
        "grade proven: keys and data destroyed, but not of everything; \
         LEFT, NOT ENCRYPTED: /dev/sdd; LEFT, WITH ITS KEYS: /dev/sdc\u{fffd}[2J (not named)"
    );
    let many = ["/dev/a", "/dev/b", "/dev/c", "/dev/d", "/dev/e", "/dev/f"];
    let open = Evidence::new().with("header_backup_opens", true).with("still_open", many.to_vec());
    assert_eq!(
        words(Grade::Proven, open),
        "grade proven: keys destroyed; an earlier header backup still opens what data is left; \
         OPEN UNTIL THE POWER GOES: /dev/a, /dev/b, /dev/c, /dev/d, 2 more"
    );
    let failed =
        json!([{ "path": "/dev/a", "destroyed": true }, { "path": "/dev/b", "destroyed": false }]);
    assert_eq!(
        words(Grade::Unproven, Evidence::new().with("targets", failed)),
        "grade UNPROVEN: what was to be destroyed may be left; NOT DESTROYED: /dev/b"
    );
    // A receipt of before, and one that says nonsense.
    let odd = Evidence::new().with("left", 3).with("unencrypted", json!([7]));
    for old in [Evidence::new(), odd] {
        assert!(words(Grade::Proven, old).contains("still opens what data is left"));
    }
}

#[test]
fn how_far_a_command_is_reads_as_words_and_hides_nothing() {
    use protocol::advance::Advance;
    let mib = 1024 * 1024;
    for (advance, words) in [
        (Advance::at("/dev/sda2").step(1, 2), "/dev/sda2, 1 of 2"),
        (Advance::default().bytes(5 * mib / 2, 1024 * mib), "2.5 MiB of 1.0 GiB (0 %)"),
        (Advance::default().bytes(1023, 1023), "1023 B of 1023 B (100 %)"),
        (Advance::at("script").secs(12, 300), "script, 12 s of at most 300 s"),
        (Advance { at: Some("a\u{1b}[2J".to_owned()), ..Advance::default() }, "a\u{fffd}[2J"),
        (Advance::default(), ""),
    ] {
        assert_eq!(super::advance::words(&advance), words);
    }
}

#[test]
fn only_another_thing_step_or_tenth_is_worth_a_line() {
    use protocol::advance::Advance;
    let landmark = |done, step| {
        super::advance::Landmark::of(&Advance::at("x").step(step, 3).bytes(done, 1000))
    };
    assert_eq!(landmark(100, 1), landmark(199, 1));
    assert_ne!(landmark(199, 1), landmark(200, 1));
    assert_ne!(landmark(199, 1), landmark(199, 2));
}

/// Standard output ends with that.
fn stdout(from: u64, said: &[u8]) -> protocol::advance::Output {
    let stdout = Some(protocol::advance::Tail { from, bytes: said.to_vec() });
    protocol::advance::Output { stdout, stderr: None }
}

#[test]
fn output_of_a_script_is_shown_once_in_lines_that_print_as_they_read() {
    let mut shown = said::Shown::default();
    assert_eq!(shown.add(&stdout(0, b"one\nt")), ["| one"]);
    assert!(shown.add(&stdout(0, b"one\nt")).is_empty(), "the same window");
    assert_eq!(
        shown.add(&stdout(3, b"\ntwo\tb\r\n\x1b[2J\xffx\n")),
        ["| two    b", "| \u{fffd}[2J\u{fffd}x"]
    );
    // What is without an end is shown before what is missing.
    assert!(shown.add(&stdout(18, b"thr")).is_empty());
    assert_eq!(shown.add(&stdout(30, b"ee\n")), ["| thr", "| … 9 bytes not shown …", "| ee"]);
    assert!(shown.add(&stdout(0, b"from the begin\n")).is_empty(), "no device goes back");
    let stderr = protocol::advance::Output { stderr: stdout(0, b"bad\n").stdout, stdout: None };
    assert_eq!(shown.add(&stderr), ["! bad"]);
}

#[test]
fn hostile_line_without_an_end_is_shown_in_pieces() {
    let mut shown = said::Shown::default();
    let mut lines = Vec::new();
    for window in 0..100_u64 {
        lines.extend(shown.add(&stdout(window * 2000, "ü".repeat(1000).as_bytes())));
    }
    lines.extend(shown.rest(&protocol::receipt::Evidence::new()));
    let characters: usize =
        lines.iter().map(|line| line.chars().filter(|c| *c == 'ü').count()).sum();
    assert_eq!(characters, 100_000);
    assert!(lines.iter().all(|line| line.len() < 500 && !line.contains('\u{fffd}')));
}

#[test]
fn receipt_says_the_rest_of_an_output_that_was_not_shown_to_its_end() {
    let evidence = protocol::receipt::Evidence::new()
        .with("stdout", vec!["one\u{1b}", "two"])
        .with("stdout_bytes", 70)
        .with("stdout_left_out_bytes", 50)
        .with("stdout_last", vec!["end"])
        .with("stderr", Vec::<String>::new())
        .with("stderr_bytes", 0);
    let rest = [
        "stdout in the receipt, of 70 bytes:",
        "| one\u{fffd}",
        "| two",
        "| … 50 bytes not shown …",
        "| end",
    ];
    assert_eq!(said::Shown::default().rest(&evidence), rest);
    let mut whole = said::Shown::default();
    whole.add(&stdout(66, b"no e"));
    assert_eq!(whole.rest(&evidence), ["| no e"], "all of it was shown");
    let unknown = protocol::receipt::Evidence::new().with("stdout_bytes", serde_json::Value::Null);
    assert!(said::Shown::default().rest(&unknown).is_empty());
}
