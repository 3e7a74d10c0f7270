//! What needs no process: the first line, the words of a receipt, and how a folder is read.

use std::sync::atomic::AtomicU64;

use protocol::fixture;

use super::folder::{Folder, Standing};
use super::order::{Confinement, Order, interpreter};
use super::report::{End, Ended, Output};
use crate::execute::fixtures::{Sandbox, task};
use crate::execute::sha256_hex;

fn order() -> Order {
    Order {
        script_sha256: String::new(),
        interpreter: vec!["/bin/sh".to_owned()],
        args: Vec::new(),
        budget_secs: 1,
        account: None,
        confinement: Confinement::Session,
    }
}

#[test]
fn interpreter_has_one_argument_at_most_as_the_kernel_has_it() {
    let (_, script) = fixture::run_script();
    assert_eq!(interpreter(&script), ["/bin/sh"]);
    assert_eq!(interpreter("#! /usr/bin/env  -S sh -e \n"), ["/usr/bin/env", "-S sh -e"]);
    assert_eq!(interpreter("#!/bin/sh\t-e\nexit"), ["/bin/sh", "-e"]);
    assert!(interpreter("echo").is_empty());
}

#[test]
fn output_is_hashed_whole_and_shown_as_bounded_lines_that_print_as_they_read() {
    let hostile = "plain\n\u{1b}[2Jgone\u{202e}back\rover\na\tb\n".as_bytes();
    let long = [hostile, "x".repeat(1 << 20).as_bytes()].concat();
    let counted = AtomicU64::new(0);
    let output = Output::read(long.as_slice(), &counted);
    assert_eq!(output.bytes, long.len() as u64);
    assert_eq!(counted.into_inner(), output.bytes);
    assert_eq!(output.sha256, sha256_hex(&long));
    let shown = ["plain", "\u{fffd}[2Jgone\u{fffd}back\u{fffd}over", "a    b"];
    assert_eq!(&output.lines[..3], shown);
    assert_eq!(output.lines[3].len(), 200);
    assert_eq!(output.lines.len(), 4);
}

#[test]
fn output_that_nobody_knows_is_not_said_to_be_empty() {
    let ended = Ended {
        end: End::Exited { status: 0 },
        took_ms: 1,
        killed_processes: None,
        stdout: None,
        stderr: Some(Output::read(&b""[..], &AtomicU64::new(0))),
    };
    let evidence = serde_json::to_value(ended.evidence(&order())).unwrap();
    for name in ["stdout", "stdout_bytes", "stdout_sha256"] {
        assert!(evidence[name].is_null(), "{name}");
    }
    assert_eq!(evidence["stderr_bytes"], 0);
}

#[test]
fn many_short_lines_are_bounded_as_well() {
    let output = Output::read("\n".repeat(1 << 16).as_bytes(), &AtomicU64::new(0));
    assert!(output.lines.len() * 4 <= 4 * 1024, "{} lines", output.lines.len());
}

#[test]
fn script_that_was_given_up_never_begins_and_none_begins_twice() {
    let sandbox = Sandbox::new();
    let folder = Folder::of(&sandbox.host, task(1).command_id);
    assert_eq!(folder.standing().unwrap(), Standing::Absent);
    folder.prepare(&order(), "#!/bin/sh\n").unwrap();
    assert_eq!(folder.standing().unwrap(), Standing::Unbegun);
    assert!(folder.begin().unwrap());
    assert!(!folder.begin().unwrap());
    assert_eq!(folder.standing().unwrap(), Standing::Lost);

    let other = Folder::of(&sandbox.host, task(2).command_id);
    other.prepare(&order(), "#!/bin/sh\n").unwrap();
    assert_eq!(folder.standing().unwrap(), Standing::Absent, "what ended is cleared away");
    assert_eq!(other.abandon().unwrap(), Standing::Unbegun);
    assert!(!other.begin().unwrap());
}

#[test]
fn somebody_who_holds_the_lock_watches() {
    let sandbox = Sandbox::new();
    let folder = Folder::of(&sandbox.host, task(1).command_id);
    folder.prepare(&order(), "#!/bin/sh\n").unwrap();
    let held = folder.lock().unwrap();
    held.lock().unwrap();
    assert_eq!(folder.standing().unwrap(), Standing::Running);
    assert_eq!(folder.abandon().unwrap(), Standing::Running, "what is watched is not given up");
    // Not cleared away by whoever comes next.
    Folder::of(&sandbox.host, task(2).command_id).prepare(&order(), "#!/bin/sh\n").unwrap();
    drop(held);
    assert_eq!(folder.standing().unwrap(), Standing::Unbegun);
    assert!(folder.begin().unwrap());
    assert_eq!(folder.abandon().unwrap(), Standing::Lost, "what has begun is not said to have not");
}

#[test]
fn others_who_look_or_wait_are_not_taken_for_a_supervisor() {
    let sandbox = Sandbox::new();
    let folder = Folder::of(&sandbox.host, task(1).command_id);
    folder.prepare(&order(), "#!/bin/sh\n").unwrap();
    let waits = folder.lock().unwrap();
    waits.lock_shared().unwrap();
    assert_eq!(folder.standing().unwrap(), Standing::Unbegun);
    assert_eq!(folder.abandon().unwrap(), Standing::Unbegun);
    drop(waits);
    assert!(!folder.begin().unwrap(), "what was given up while another waited stays so");
}
