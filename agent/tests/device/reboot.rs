//! A reboot through the whole agent: asked for once per boot, and proven by the next one.

use std::fs;
use std::path::PathBuf;

use agent::config::ArmingConfig;
use protocol::action::{Action, Reboot};
use protocol::frame::HubFrame;
use protocol::receipt::{Evidence, Outcome};

use crate::bench::{Bench, confirmed, until};

const FIRST: &str = "0b9f2c60-6b8e-4d0a-9d38-4f3cbb6e7a01";
const SECOND: &str = "5d1c9c77-90f4-4b39-8f0b-f2f0c7d3b702";

/// A device whose kernel says in which boot it is, and where it says so.
fn booted() -> (Bench, PathBuf) {
    let mut bench = Bench::new();
    let root = bench.config.state_dir.parent().unwrap().join("root");
    let boot_id = root.join("proc/sys/kernel/random/boot_id");
    fs::create_dir_all(boot_id.parent().unwrap()).unwrap();
    fs::write(&boot_id, FIRST).unwrap();
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root;
    bench.config.host.dbus = Some(String::new());
    (bench, boot_id)
}

fn asked(bench: &Bench) -> usize {
    let log = fs::read_to_string(bench.power_log()).unwrap_or_default();
    log.lines().filter(|line| *line == "reboot").count()
}

#[tokio::test]
async fn reboot_ends_in_the_next_boot_and_not_before() {
    let (mut bench, boot_id) = booted();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let envelope = bench.envelope(1, Action::Reboot(Reboot {}), 1);
    let command = bench.organisation.deliver(&envelope, 0);
    hub.send(HubFrame::Command(command)).await;
    until(|| asked(&bench) == 1).await;
    agent.drain().await.unwrap();
    drop(hub);
    // The agent alone started again: the system has not, and is asked once more.
    let agent = bench.start();
    let _hub = server.session().await;
    until(|| asked(&bench) == 2).await;
    bench.kill(agent).await;
    assert!(!bench.journal().contains("\"done\""), "{}", bench.journal());

    fs::write(&boot_id, SECOND).unwrap();
    let agent = bench.start();
    let mut hub = server.session().await;
    let receipt = hub.receipt().await;
    let evidence = Evidence::new().with("boot_id_before", FIRST).with("boot_id_after", SECOND);
    assert_eq!(bench.receipt(&receipt).outcome, Outcome::Succeeded { evidence });
    hub.send(confirmed(&receipt)).await;
    agent.drain().await.unwrap();
    assert_eq!(asked(&bench), 2, "the next boot is not started again");
}
