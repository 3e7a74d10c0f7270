//! SIGTERM begins the drain and a second one ends it: in a process of its own test binary,
//! because signals reach every test of a process.

use std::process::Command;
use std::time::Duration;

use runtime::Drain;

fn signal_self() {
    let pid = std::process::id().to_string();
    let status = Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .expect("kill(1) is part of every system");
    assert!(status.success());
}

#[tokio::test]
async fn first_signal_drains_and_second_stops() {
    let drain = Drain::on_signals(Duration::from_secs(3600)).unwrap();
    signal_self();
    drain.soft().cancelled().await;
    assert!(!drain.hard().is_cancelled());
    signal_self();
    drain.hard().cancelled().await;
}
