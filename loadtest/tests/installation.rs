//! A platform that runs already: the harness enrolls its own swarm, and tidies up whatever happens.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use loadtest::plan::{Platform, Start};
use loadtest::site::Site;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tocsin-loadtest");

/// Devices of the platform, by whether they are revoked.
fn devices(tocsin: &PathBuf, [url, ca, token]: [&str; 3]) -> [usize; 2] {
    let output = Command::new(tocsin)
        .args(["--json", "devices", "--url", url, "--ca", ca, "--token", token])
        .output()
        .expect("tocsin starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let page: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let items = page["items"].as_array().expect("a list");
    let revoked = items.iter().filter(|item| !item["revoked_at"].is_null()).count();
    [items.len() - revoked, revoked]
}

#[tokio::test]
async fn swarm_is_revoked_after_an_interrupt_and_nobody_else_is() {
    let tocsin = PathBuf::from(PROGRAM).with_file_name("tocsin");
    if !tocsin.is_file() {
        println!("skipped: {} is not built; build the whole workspace", tocsin.display());
        return;
    }
    let up = Platform { start: Start::Up, ..Platform::default() };
    let site = Site::start(&up, Some(&tocsin)).await.expect("the platform starts");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("authority.pem");
    let access = site.access();
    std::fs::write(&ca, &access.ca_pem).expect("written");
    let place = [&*access.api, ca.to_str().expect("a plain path"), &*access.token];
    let mut child = Command::new(PROGRAM)
        .args(["idle", "--platform", "given", "--connections", "8", "--secs", "3600"])
        .args(["--api", place[0], "--ca", place[1], "--token", place[2]])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the harness starts");
    let log = BufReader::new(child.stderr.take().expect("its log is ours"));
    let mut lines = log.lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("phase 2")), "everybody is connected");
    assert_eq!(devices(&tocsin, place), [8, 0]);
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it is ours");
    assert!(lines.any(|line| line.contains("revoking 8 devices")));
    lines.for_each(drop);
    let status = child.wait().expect("it is ours");
    assert!(status.success(), "what there was to measure was good: {status}");
    assert_eq!(devices(&tocsin, place), [0, 8]);
    site.stop().await;
}
