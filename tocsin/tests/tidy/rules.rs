//! Rules that need nothing but the path and the text of one file.
//!
//! Must not name a forbidden word in one piece: this file is checked like every other.

/// Lines of a file, and of a file that holds only tests.
const MAX_LINES: usize = 500;
const MAX_TEST_LINES: usize = 800;

/// Every offence of one file.
pub(crate) fn offences(path: &str, text: &str) -> Vec<String> {
    let mut found = machine_paths(text);
    if path.ends_with(".rs") {
        found.extend(shape(path, text));
        found.extend(forbidden_words(path, text));
    }
    if path.starts_with("scripts/") || path.starts_with(".ci/") {
        found.extend(script_head(text));
    }
    found.into_iter().map(|what| format!("{path}: {what}")).collect()
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.contains("/benches/")
}

/// A word that this file must name without containing it.
fn word(parts: &[&str]) -> String {
    parts.concat()
}

fn shape(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not open with //! saying what it owns".to_owned());
    }
    if path.ends_with("/mod.rs") {
        found.push("is a mod.rs; use x.rs and x/".to_owned());
    }
    let most = if is_test(path) { MAX_TEST_LINES } else { MAX_LINES };
    let lines = text.lines().count();
    if lines > most {
        found.push(format!("has {lines} lines, at most {most}"));
    }
    found
}

fn forbidden_words(path: &str, text: &str) -> Vec<String> {
    let mut forbidden = vec![
        word(&["to", "do!("]),
        word(&["unimpl", "emented!("]),
        word(&["#[", "ignore"]),
        word(&["unbounded_", "channel("]),
    ];
    // Executors have threads of their own, and pause between looks at a system that tells nothing.
    if is_test(path) || !path.starts_with("agent/src/execute/") {
        forbidden.push(word(&["thread::", "sleep"]));
    }
    let unwrap = word(&[".unw", "rap()"]);
    let mut found = Vec::new();
    let mut test_item = None;
    for (at, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if trimmed == "#[cfg(test)]" {
            test_item = Some(indent);
        }
        if trimmed.starts_with("//") {
            continue;
        }
        let is_shipped = !is_test(path) && test_item.is_none();
        let words = forbidden.iter().chain(is_shipped.then_some(&unwrap));
        for word in words.filter(|word| line.contains(word.as_str())) {
            found.push(format!("line {}: {word}", at + 1));
        }
        if test_item == Some(indent) && (trimmed == "}" || trimmed.ends_with(';')) {
            test_item = None;
        }
    }
    found
}

/// Paths of the machine that somebody worked on. A home folder as such is not one: the lock and
/// its tests speak of users' folders.
fn machine_paths(text: &str) -> Vec<String> {
    let telling = [word(&["/wo", "rk/"]), word(&["/.car", "go/"]), word(&["/.rus", "tup/"])];
    let is_telling = |line: &&str| telling.iter().any(|path| line.contains(path.as_str()));
    text.lines().filter(is_telling).map(|line| format!("path of one machine: {line}")).collect()
}

fn script_head(text: &str) -> Option<String> {
    let is_bash = text.starts_with("#!/usr/bin/env bash\n");
    let is_strict = text.lines().take(20).any(|line| line == "set -euo pipefail");
    (is_bash && !is_strict).then(|| "does not set -euo pipefail".to_owned())
}

#[test]
fn every_rule_sees_its_offence() {
    let long = format!("//! x\n{}", "\n".repeat(MAX_LINES));
    let planted = [
        ("hub/src/x.rs", "fn x() {}".to_owned()),
        ("hub/src/x/mod.rs", "//! x\n".to_owned()),
        ("hub/src/x.rs", long),
        ("hub/tests/x.rs", format!("//! x\n{}", "\n".repeat(MAX_TEST_LINES))),
        ("hub/src/x.rs", word(&["//! x\nlet y = x.unw", "rap();"])),
        ("hub/src/x/tests.rs", word(&["//! x\nstd::thread::", "sleep(second);"])),
        ("agent/src/execute/x/tests.rs", word(&["//! x\nthread::", "sleep(second);"])),
        ("hub/src/x.rs", word(&["//! x\n#[cfg(test)]\nmod tests;\nx.unw", "rap();"])),
        ("hub/tests/x.rs", word(&["//! x\n#[", "ignore = \"flaky\"]"])),
        ("hub/src/x.rs", word(&["//! x\nto", "do!()"])),
        ("docs/X.md", word(&["see /wo", "rk/x"])),
        ("scripts/x", "#!/usr/bin/env bash\necho\n".to_owned()),
    ];
    for (path, text) in planted {
        assert_eq!(offences(path, &text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn no_rule_sees_an_offence_where_none_is() {
    let fine = [
        ("hub/src/x/tests.rs", word(&["//! x\nx.unw", "rap();"])),
        ("hub/tests/x.rs", format!("//! x\n{}", "\n".repeat(MAX_LINES))),
        ("hub/src/x.rs", word(&["//! x\n// never .unw", "rap() here"])),
        ("hub/src/x.rs", word(&["//! x\n#[cfg(test)]\nfn x() {\n    x.unw", "rap();\n}\n"])),
        ("agent/src/execute/x.rs", word(&["//! x\nthread::", "sleep(pause);"])),
        ("agent/src/x.rs", "//! x\n\"/home/*/.ssh\"".to_owned()),
        ("scripts/x", "#!/usr/bin/env bash\n# x\nset -euo pipefail\n".to_owned()),
    ];
    for (path, text) in fine {
        assert_eq!(offences(path, &text), Vec::<String>::new());
    }
}
