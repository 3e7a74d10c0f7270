//! Real programs: what they print, how they fail, and that none of them can hold its caller.

use std::time::Duration;

use protocol::receipt::FailureKind;
use runtime::Clock;

use super::Tool;

/// Only against hanging.
const GUARD: Duration = Duration::from_secs(240);

fn shell(script: &str) -> Tool {
    Tool::at("/bin/sh").args(["-c", script])
}

#[test]
fn tool_sees_its_input_and_a_cleared_environment() {
    let output = shell("cat; env | grep -c -v -e ^PATH= -e ^LC_ALL= -e ^PWD= -e ^_=")
        .stdin("hello\n")
        .run("test")
        .unwrap();
    assert_eq!(output.text(), "hello\n0\n");
    assert!(!output.truncated);
}

#[test]
fn failing_tool_is_quoted_without_control_characters() {
    let failure = shell("printf 'no\\033[1m  such\\n table' >&2; exit 3").run_ok("apply");
    let failure = failure.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tool);
    assert_eq!(failure.detail, "/bin/sh: exit status 3: no[1m such table");
}

#[test]
fn slow_tool_is_killed_with_its_children() {
    let marker = tempfile::tempdir().unwrap();
    let pid_file = marker.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
    let mut budget = Duration::from_millis(500);
    let pid: i32 = loop {
        let failure = shell(&script).budget(budget).run("apply").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Timeout);
        let told = std::fs::read_to_string(&pid_file).unwrap_or_default();
        let Ok(pid) = told.trim().parse() else {
            // On a busy machine it did not even come to have a child.
            assert!(budget < GUARD, "it never says whose parent it is: {told:?}");
            budget *= 2;
            continue;
        };
        break pid;
    };
    let deadline = Clock::system().now() + GUARD;
    while is_running(pid) {
        assert!(Clock::system().now() < deadline, "the child still runs");
        std::thread::yield_now();
    }
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn flood_of_output_is_cut_and_refused() {
    let tool = shell("head -c 3000000 /dev/zero").output_bytes(1000);
    let output = tool.run("test").unwrap();
    assert_eq!((output.stdout.len(), output.truncated), (1000, true));
    assert_eq!(tool.run_ok("test").unwrap_err().kind, FailureKind::Tool);
}

#[test]
fn input_that_nobody_reads_does_not_block() {
    let output = shell("exit 0").stdin(vec![0; 1_000_000]).run_ok("test").unwrap();
    assert!(output.stdout.is_empty());
}

#[test]
fn missing_tool_is_a_missing_precondition() {
    let failure = Tool::find("tocsin-no-such-tool", "plan").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    let failure = Tool::at("/nonexistent").run("plan").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
}
