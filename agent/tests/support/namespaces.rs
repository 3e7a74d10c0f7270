//! Runs a test again inside namespaces of its own, where it may mount, boot and kill.
//!
//! What the machine does not allow makes the test fail with a text that says what is missing.

use std::process::Command;

/// Set for the part of a test that runs inside the namespaces.
const INSIDE: &str = "TOCSIN_TEST_INSIDE";

/// Runs a test's body in new namespaces of these kinds (options of unshare(1)): the test runs
/// itself again inside them.
pub(crate) fn in_namespaces(kinds: &[&str], test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let own = std::env::current_exe().unwrap();
    // A test that is killed takes its namespaces, and all that runs in them, along.
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(kinds)
        .args(["--fork", "--kill-child", "--propagation", "private"])
        .arg(own)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("this test needs setpriv and unshare (Debian package util-linux)");
    assert!(
        output.status.success(),
        "this test needs root and the right to make namespaces ({}); the test inside said:\n{}{}",
        kinds.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(ran, "no test of the name `{test}` ran inside the namespaces");
}
