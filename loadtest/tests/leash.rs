//! What the harness starts does not outlive it, not even when it has no time to tidy up.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tocsin-loadtest");

/// The processes that this one has started, and those that they have.
fn below(pid: i32) -> Vec<(i32, String)> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<_> = lists.collect();
    let children = lists.iter().flat_map(|list| list.split_whitespace());
    let children: Vec<i32> = children.filter_map(|pid| pid.parse().ok()).collect();
    let name = |pid: i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim().to_owned())
    };
    children.into_iter().flat_map(|pid| [vec![name(pid)], below(pid)].concat()).collect()
}

#[test]
fn servers_and_workers_end_with_a_harness_that_is_killed() {
    let tocsin = PathBuf::from(PROGRAM).with_file_name("tocsin");
    if !tocsin.is_file() {
        println!("skipped: {} is not built; build the whole workspace", tocsin.display());
        return;
    }
    // Whoever loses its parent becomes a child of this test, which can wait for it then.
    prctl::set_child_subreaper(true).expect("the kernel knows how");
    let folder = tempfile::tempdir().expect("a folder");
    let mut harness = Command::new(PROGRAM)
        .args(["idle", "--connections", "4", "--workers", "2", "--secs", "3600", "--tocsin"])
        .arg(&tocsin)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the harness starts");
    let log = BufReader::new(harness.stderr.take().expect("its log is ours"));
    let mut lines = log.lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("phase 2")), "everybody is connected");
    let started = below(i32::try_from(harness.id()).expect("a pid"));
    let count = |name: &str| started.iter().filter(|(_, own)| own.starts_with(name)).count();
    assert_eq!(count("redis-server"), 1, "{started:?}");
    // The control plane, the hub and two workers: names end after 15 letters.
    assert_eq!(started.iter().filter(|(_, name)| name == "tocsin").count(), 2, "{started:?}");
    assert_eq!(count("tocsin-loadtest"), 2, "{started:?}");
    harness.kill().expect("it is ours");
    harness.wait().expect("it is ours");
    for (pid, name) in started {
        waitpid(Pid::from_raw(pid), None).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
