//! What needs no process: the first line, the words of a receipt, and how a folder is read.

use std::fs;

use protocol::advance::{self, Tail};
use protocol::{fixture, limits};

use super::folder::{Folder, Standing};
use super::order::{Confinement, Order, interpreter};
use super::report::{End, Ended, Heard, Output};
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

/// What is kept of an output that says all this.
fn read(said: &[u8]) -> Output {
    Heard::default().read(said)
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
    let output = read(&long);
    assert_eq!(output.bytes, long.len() as u64);
    assert_eq!(output.sha256, sha256_hex(&long));
    let shown = ["plain", "\u{fffd}[2Jgone\u{fffd}back\u{fffd}over", "a    b"];
    assert_eq!(output.lines, shown);
    assert_eq!(output.last, ["…".to_owned() + &"x".repeat(199)], "its end, and that it is longer");
    let window = limits::OUTPUT_TAIL_BYTES as u64;
    assert_eq!(output.left_out, output.bytes - hostile.len() as u64 - window);
    let one = read("x".repeat(1 << 20).as_bytes());
    assert_eq!(one.lines, ["x".repeat(199) + "…"], "the begin of the only line");
    assert_eq!(read(b"no end").lines, ["no end"]);
}

#[test]
fn first_and_last_lines_are_shown_and_how_much_lies_between() {
    let all: Vec<String> = (0..10_000).map(|number| format!("line {number}")).collect();
    let said = all.join("\n") + "\n";
    let output = read(said.as_bytes());
    let (first, last) = (output.lines.len(), output.last.len());
    assert!(first > 50 && last > 50, "{first} and {last} lines");
    assert_eq!(output.lines, all[..first]);
    assert_eq!(output.last, all[all.len() - last..]);
    let between = all[first..all.len() - last].iter().map(|line| line.len() as u64 + 1);
    assert_eq!(output.left_out, between.sum::<u64>());
    let ended = Ended {
        end: End::Exited { status: 0 },
        took_ms: 1,
        killed_processes: Some(0),
        stdout: Some(output.clone()),
        stderr: Some(read(b"all of it\n")),
    };
    let evidence = serde_json::to_value(ended.evidence(&order())).unwrap();
    assert_eq!(evidence["stdout_left_out_bytes"], output.left_out);
    assert_eq!(evidence["stdout_last"], serde_json::json!(output.last));
    assert!(evidence["stderr_last"].is_null(), "nothing of it is left out");
}

#[test]
fn every_length_of_an_output_is_shown_and_left_out_without_a_rest() {
    for length in (0..300).chain(1990..2110).chain(3580..3720).chain(4030..4170).chain(6000..6010) {
        let said: String = (0..length).map(|at| if at % 23 == 22 { '\n' } else { 'x' }).collect();
        let output = read(said.as_bytes());
        let shown: usize = output.lines.iter().chain(&output.last).map(|line| line.len() + 1).sum();
        let is_cut = usize::from(!said.is_empty() && !said.ends_with('\n'));
        assert_eq!((shown - is_cut) as u64 + output.left_out, output.bytes, "{length}");
        assert_eq!(output.last.is_empty(), output.left_out == 0, "{length}");
    }
}

#[test]
fn tail_is_the_last_of_an_output_and_where_that_begins() {
    let heard = Heard::default();
    assert_eq!(heard.tail(), None);
    heard.read(&b"said\n"[..]);
    assert_eq!(heard.tail(), Some(Tail { from: 0, bytes: b"said\n".to_vec() }));
    heard.read(&[&[b'x'; 70_000][..], b"\nthe end\n"].concat()[..]);
    let tail = heard.tail().unwrap();
    assert_eq!(tail.bytes.len(), limits::OUTPUT_TAIL_BYTES);
    assert!(tail.bytes.ends_with(b"x\nthe end\n"));
    assert_eq!(tail.end(), 5 + 70_000 + 9);
}

#[test]
fn hostile_words_on_what_a_script_says_are_not_told_on() {
    let sandbox = Sandbox::new();
    let folder = Folder::of(&sandbox.host, task(1).command_id);
    folder.prepare(&order(), "#!/bin/sh\n").unwrap();
    assert_eq!(folder.said(), None);
    let said = |from, length| advance::Output {
        stdout: Some(Tail { from, bytes: vec![b'x'; length] }),
        stderr: None,
    };
    let sound = said(7, limits::OUTPUT_TAIL_BYTES);
    folder.tell(&sound).unwrap();
    assert_eq!(folder.said(), Some(sound));
    // As a script that is root may write them.
    for odd in [said(0, limits::OUTPUT_TAIL_BYTES + 1), said(limits::ADVANCE_NUMBER, 1)] {
        folder.tell(&odd).unwrap();
        assert_eq!(folder.said(), None, "{odd:?}");
    }
    let file = sandbox.host.path("/run/tocsin-scripts").join(task(1).command_id.to_string());
    for odd in ["", "{", "7", &"x".repeat(1 << 20)] {
        fs::write(file.join("said"), odd).unwrap();
        assert_eq!(folder.said(), None);
    }
    // Nobody writes into this pipe, and nobody waits for that; nor is a link followed.
    fs::remove_file(file.join("said")).unwrap();
    nix::unistd::mkfifo(&file.join("said"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(folder.said(), None);
    fs::remove_file(file.join("said")).unwrap();
    fs::write(file.join("elsewhere"), "{}").unwrap();
    std::os::unix::fs::symlink(file.join("elsewhere"), file.join("said")).unwrap();
    assert_eq!(folder.said(), None);
}

#[test]
fn output_that_nobody_knows_is_not_said_to_be_empty() {
    let ended = Ended {
        end: End::Exited { status: 0 },
        took_ms: 1,
        killed_processes: None,
        stdout: None,
        stderr: Some(read(b"")),
    };
    let evidence = serde_json::to_value(ended.evidence(&order())).unwrap();
    for name in ["stdout", "stdout_bytes", "stdout_sha256"] {
        assert!(evidence[name].is_null(), "{name}");
    }
    assert_eq!(evidence["stderr_bytes"], 0);
}

#[test]
fn many_short_lines_are_bounded_as_well() {
    let output = read("\n".repeat(1 << 16).as_bytes());
    let lines = output.lines.len() + output.last.len();
    assert!(lines * 4 <= 4 * 1024, "{lines} lines");
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
