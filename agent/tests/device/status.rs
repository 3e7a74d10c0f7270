//! What `tocsin-agent status` prints: what the agent left of itself, and lock and quarantine as they are now.

use std::fs;
use std::process::{Command, Output};

use agent::config::ArmingConfig;
use protocol::action::{Action, Refresh};
use protocol::fixture::{command, device, session};
use protocol::frame::HubFrame;
use serde_json::{Value, json};

use crate::bench::{Bench, confirmed, now, until};
use crate::start::{write_lock, write_root};

/// The program as somebody at the device calls it.
fn status(bench: &Bench, words: &[&str]) -> Output {
    let config = bench.config.state_dir.with_file_name("agent.toml");
    let root = &bench.config.host.root;
    let power = bench.power_log();
    let text = format!(
        "[host]\narming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"\npower = {{ record = {power:?} }}\n"
    );
    fs::write(&config, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tocsin-agent"))
        .arg("status")
        .args(words)
        .arg("--config")
        .arg(config)
        .arg("--state")
        .arg(&bench.config.state_dir)
        .output()
        .unwrap()
}

fn printed(bench: &Bench) -> Value {
    let output = status(bench, &["--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A device in a sandbox.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let root = bench.config.state_dir.with_file_name("root");
    write_root(&root);
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root;
    bench.config.host.dbus = Some(String::new());
    bench
}

#[tokio::test]
async fn status_says_who_this_is_where_it_is_connected_and_what_lies_on_disk() {
    let mut bench = bench();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(bench.command(1, Action::Refresh(Refresh {}), 1))).await;
    let receipt = hub.receipt().await;
    until(|| status(&bench, &[]).status.success()).await;
    until(|| printed(&bench)["commands"]["unconfirmed"] == 1).await;
    hub.send(confirmed(&receipt)).await;
    until(|| printed(&bench)["commands"]["unconfirmed"] == 0).await;

    let mut seen = printed(&bench);
    let mut take = |part: &str, name: &str| {
        let object = if part.is_empty() { &mut seen } else { &mut seen[part] };
        object.as_object_mut().unwrap().remove(name).unwrap()
    };
    let millis = |value: Value| value.as_u64().unwrap();
    let present = now().as_millis();
    assert!(millis(take("", "certificate_ends_at")) > present);
    assert!(millis(take("", "updated_at")).abs_diff(present) < 600_000);
    let bytes = fs::metadata(bench.journal_path()).unwrap().len();
    assert_eq!(millis(take("commands", "journal_bytes")), bytes);
    assert!(millis(take("commands", "journal_records")) > 0);
    // All the rest, so that nothing is printed that nobody expects.
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let expected = json!({
        "agent_version": env!("CARGO_PKG_VERSION"),
        "device_id": device(1),
        "generation": 1,
        "boot_id": boot_id.trim(),
        "arming": "sandboxed",
        "key_in_tpm": false,
        "ladder": {
            "rung": "push",
            "session_id": session(1),
            "address": server.address.to_string(),
            "degraded_since": null,
            "last_error": null,
        },
        "commands": {
            "last_seq": { "urgent": 0, "bulk": 1 },
            "trust_version": 1,
            "trust_rolled_back": false,
            "audit_forked": false,
            "journal_damaged": false,
            "journal_failing": false,
            "unconfirmed": 0,
            "running": [],
            "held": [],
            "frozen_until": null,
            "ended_offline": null,
            "last_error": null,
        },
        "lock": { "state": "open" },
        "quarantine": { "state": "open" },
    });
    assert_eq!(seen, expected);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn status_without_an_agent_shows_lock_and_quarantine_as_they_are_now() {
    let mut bench = bench();
    for arguments in [&["--json"][..], &[]] {
        let none = status(&bench, arguments);
        assert!(!none.status.success() && none.stdout.is_empty(), "{none:?}");
        assert!(String::from_utf8_lossy(&none.stderr).contains("has the agent run"), "{none:?}");
    }
    let mut server = bench.server().await;
    let agent = bench.start();
    let hub = server.session().await;
    until(|| status(&bench, &[]).status.success()).await;
    agent.drain().await.unwrap();
    drop(hub);
    assert_eq!(printed(&bench)["lock"], json!({ "state": "open" }));
    write_lock(&bench.config.host());
    let locked = json!({
        "state": "locked",
        "level": "session",
        "command_id": command(8),
        "superuser": "from_break_glass",
        "break_glass": ["rescue"],
    });
    assert_eq!(printed(&bench)["lock"], locked);
    let text = String::from_utf8(status(&bench, &[]).stdout).unwrap();
    for line in
        ["lock         locked", "quarantine   open", "arming       sandboxed", "trust root   1"]
    {
        assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
    }
    let state = |name: &str| bench.config.state_dir.join(name);
    for (name, part) in [("lock.json", "lock"), ("quarantine.json", "quarantine")] {
        fs::write(state(name), "{").unwrap();
        assert_eq!(printed(&bench)[part], json!({ "state": "unknown" }), "it is not open");
    }
    fs::write(state("status.json"), "{").unwrap();
    let damaged = status(&bench, &["--json"]);
    assert!(!damaged.status.success() && damaged.stdout.is_empty(), "{damaged:?}");
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("damaged"), "{damaged:?}");
}
