//! The demo as a person runs it: to its end, with real parts, and without leaving anything behind.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the demo with its folder in this one, and returns what it said. Into files: a pipe would not
/// end before everybody who was left behind does.
fn demo(folder: &Path) -> String {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| File::create(logs.path().join(name)).expect("a file");
    let status = Command::new(env!("CARGO_BIN_EXE_tocsin"))
        .args(["demo", "--simulated", "1"])
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .status()
        .expect("tocsin starts");
    let [shown, said] = ["out", "err"]
        .map(|name| std::fs::read_to_string(logs.path().join(name)).expect("the file can be read"));
    assert!(status.success(), "the demo failed: {said}\n{shown}");
    shown
}

/// The processes that were started with something in this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc is there").filter_map(Result::ok);
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let folder = folder.display().to_string();
    lines.filter(|line| line.contains(&folder)).collect()
}

#[test]
fn demo_reaches_its_end_with_real_effects() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = demo(folder.path());
    // Those that it killed may not be gone at once; whoever it left behind would never be.
    while !processes_of(folder.path()).is_empty() {
        std::thread::park_timeout(LOOK);
    }
    // The packages of scripts/packages are there, so nothing may be simulated on the first device.
    for observed in [
        "real nftables",
        "died and new ones fail; the hub is there",
        "byte for byte what it was before the lock",
        "no passphrase opens the disk any more",
        "none altered, removed or inserted",
    ] {
        assert!(said.contains(observed), "not observed: {observed}\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "colours although nobody looks at a terminal");
    let left = std::fs::read_dir(folder.path()).expect("the folder can be read").count();
    assert_eq!(left, 0, "the demo leaves files behind");
}

#[tokio::test]
async fn demo_that_is_killed_takes_everybody_along() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_tocsin"))
        .args(["demo", "--simulated", "1"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tocsin starts");
    let agents = || {
        let processes = processes_of(folder.path());
        processes.iter().filter(|line| line.contains("demo-agent run")).count()
    };
    while agents() < 2 {
        assert!(demo.try_wait().expect("the demo runs").is_none(), "the demo ended by itself");
        tokio::time::sleep(LOOK).await;
    }
    demo.kill().expect("the demo is killed");
    demo.wait().expect("the demo was killed");
    while !processes_of(folder.path()).is_empty() {
        tokio::time::sleep(LOOK).await;
    }
}
