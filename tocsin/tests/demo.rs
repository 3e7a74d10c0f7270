//! The demo as a person runs it: to its end, with real parts, and without leaving anything behind.

use std::process::{Command, Stdio};

fn demo(folder: &tempfile::TempDir) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tocsin"))
        .args(["demo", "--simulated", "1"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("tocsin starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn demo_reaches_its_end_with_real_effects() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let said = demo(&folder);
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
