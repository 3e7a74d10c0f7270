//! Credentials from the operator's line into escrow and out of it: approved, confirmed by the store,
//! read with a reason, and opened by whoever has the recovery key. A real volume in a sandbox.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::installation::Installation;
use crate::operator::TOCSIN;
use crate::orders::{approve, approver};

fn opens(volume: &Path, passphrase: &str) -> bool {
    let key = volume.with_file_name("tried");
    fs::write(&key, passphrase).expect("a key");
    let output = Command::new("/usr/sbin/cryptsetup")
        .args(["open", "--test-passphrase", "--key-file"])
        .args([key.as_path(), volume])
        .output();
    output.expect("cryptsetup").status.success()
}

/// Has the device act in a sandbox, where it manages one volume and has one account.
fn sandboxed(installation: &Installation, name: &str) -> std::path::PathBuf {
    let volume = crate::wipe::sandboxed(installation, name);
    let folder = installation.path(name);
    fs::create_dir(folder.join("root/etc")).expect("a folder");
    let shadow = "rescue:$6$salt$former:19000:0:99999:7:::\n";
    fs::write(folder.join("root/etc/shadow"), shadow).expect("an account");
    let mut manage = Command::new(TOCSIN)
        .args(["agent", "manage-volume", &volume, "--in-the-clear", "--config"])
        .arg(folder.join("agent.toml"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("the agent starts");
    let mut stdin = manage.stdin.take().expect("its input");
    stdin.write_all(b"passphrase\n").expect("it reads");
    drop(stdin);
    assert!(manage.wait().expect("it ends").success());
    volume.into()
}

#[test]
fn credential_goes_into_escrow_and_comes_out_only_for_the_recovery_key() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    let volume = sandboxed(&installation, "web-1");
    device.start();
    installation.online("web-1");
    let alice = approver(&installation, "alice");
    let text = |name: &str| installation.path(name).display().to_string();
    let (recovery, other, out) = (text("recovery.key"), text("other.key"), text("opened.json"));
    let word = text("recovery-passphrase");
    fs::write(&word, "correct horse\n").expect("a passphrase");
    let word = word.as_str();
    let new_key = |key| ["escrow", "new-key", "--out", key, "--passphrase-file", word];
    let made = installation.json(&new_key(recovery.as_str()));
    installation.succeed(&new_key(other.as_str()));
    let key = made["recovery_key"].as_str().expect("a key");
    let ordered = |what: &[&str]| {
        let order = ["web-1", "--recovery-key", key, "--reason", "a test", "--yes", "--no-wait"];
        let made = installation.json(&[what, &order].concat());
        assert_eq!(made["commands"][0]["state"], "awaiting_approval");
        approve(&installation, made["order"]["id"].as_str().expect("an order"), &alice);
        let command = made["commands"][0]["id"].as_str().expect("a command").to_owned();
        let story = installation.ended(&command);
        assert_eq!(story["state"], "succeeded", "{story}");
        (command, story)
    };
    let open = |command: &str, key: &str| {
        let why = ["--key", key, "--reason", "a test of the way out", "--out", &out];
        let with = ["--passphrase-file", word];
        installation.tocsin(&[&["escrow", "open", command], &why[..], &with].concat())
    };
    let (command, story) = ordered(&["rotate-credentials", "--volumes"]);
    assert!(!open(&command, &other).status.success(), "another key opens it");
    let opened = open(&command, &recovery);
    assert!(opened.status.success(), "{opened:?}");
    let read: Value = serde_json::from_slice(&fs::read(&out).expect("it")).expect("JSON");
    let secret = read[0]["secret"].as_str().expect("a passphrase").to_owned();
    assert!(opens(&volume, &secret) && opens(&volume, "passphrase"));
    // Whoever read it, tried or not, is told.
    let log = installation.succeed(&["events", "export"]);
    assert_eq!(log.matches("\"escrow_read\"").count(), 2);
    assert!(!log.contains(&secret) && !story.to_string().contains("\"sealed\""));

    ordered(&["rotate-credentials", "--account", "rescue"]);
    let shadow = fs::read_to_string(installation.path("web-1").join("root/etc/shadow"));
    assert!(!shadow.expect("it is there").contains("former"));
    ordered(&["rotate-credentials", "--volumes"]);
    assert!(!opens(&volume, &secret), "the former one is gone");
    let listed = installation.json(&["escrow", "list", "web-1"]);
    let states: Vec<_> = listed.as_array().expect("a list").iter().map(|it| &it["state"]).collect();
    assert_eq!(states, ["superseded", "in_force", "in_force"]);
}
