//! Orders as operators give them: lock, approvals, cancellation, revocation, the audit log.

use crate::installation::{Installation, eventually};

/// Makes an approval key and has the root key name it.
pub(crate) fn approver(installation: &Installation, person: &str) -> String {
    let key = installation.path(&format!("{person}.key")).display().to_string();
    let passphrase = installation.path("passphrase").display().to_string();
    std::fs::write(&passphrase, "a passphrase").expect("the passphrase is written");
    let made = installation.json(&["key", "new", "--out", &key, "--passphrase-file", &passphrase]);
    let public = made["public_key"].as_str().expect("a public key").to_owned();
    let root_key = installation.path("data/root.key").display().to_string();
    let name = ["trust", "add-approver", &public, "--person", person];
    installation.succeed(&[&name[..], &["--root-key", &root_key, "--yes"]].concat());
    key
}

pub(crate) fn approve(installation: &Installation, order: &str, key: &str) {
    let passphrase = installation.path("passphrase").display().to_string();
    let sign = ["--key", key, "--passphrase-file", &passphrase, "--yes"];
    // 7 says that another person has to approve as well, 5 that an undo window is open.
    let output = installation.tocsin(&[&["approve", order], &sign[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 3 | 5 | 7)), "{said}");
}

#[test]
fn lock_is_proved_by_a_receipt_that_verifies_offline() {
    let installation = Installation::new();
    let device = installation.device("web-1");
    installation.succeed(&["lock", &device.name, "--reason", "a test", "--yes"]);
    let listed = installation.json(&["commands"]);
    let id = listed["items"][0]["id"].as_str().expect("one command");
    let command = installation.command(id);
    assert_eq!(command["state"], "succeeded");
    assert_eq!(command["outcome"]["evidence"]["simulated"], true);
    installation.succeed(&["proof", id]);
}

#[test]
fn wipe_takes_two_persons() {
    let installation = Installation::new();
    let device = installation.device("web-1");
    let alice = approver(&installation, "alice");
    let bob = approver(&installation, "bob");
    let arguments = ["wipe", &device.name, "--reason", "a test", "--yes", "--no-wait"];
    let made = installation.json(&arguments);
    let order = made["order"]["id"].as_str().expect("an order").to_owned();
    let command = made["commands"][0]["id"].as_str().expect("a command").to_owned();
    assert_eq!(installation.command(&command)["state"], "awaiting_approval");
    approve(&installation, &order, &alice);
    assert_eq!(installation.command(&command)["state"], "awaiting_approval");
    assert_eq!(device.effects(&command), 0);
    approve(&installation, &order, &bob);
    assert_eq!(installation.ended(&command)["state"], "succeeded");
    assert_eq!(device.effects(&command), 1);
}

#[test]
fn order_that_was_withdrawn_never_takes_effect() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    let withdrawn = installation.order("lock", &device.name);
    installation.succeed(&["cancel", &withdrawn]);
    let kept = installation.order("lock", &device.name);
    device.start();
    assert_eq!(installation.ended(&kept)["state"], "succeeded");
    assert_eq!(installation.command(&withdrawn)["state"], "cancelled");
    assert_eq!(device.effects(&withdrawn), 0);
}

#[test]
fn revoked_device_loses_its_session_and_gets_no_other() {
    let installation = Installation::new();
    let device = installation.device("web-1");
    installation.succeed(&["device", "revoke", &device.name, "--yes"]);
    eventually("the session ends", || {
        let listed = installation.json(&["devices", "--online"]);
        listed["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn audit_log_verifies_offline_after_a_kill() {
    let mut installation = Installation::new();
    let device = installation.device("web-1");
    let command = installation.order("lock", &device.name);
    installation.ended(&command);
    installation.kill();
    let data = installation.path("data").display().to_string();
    installation.succeed(&["events", "verify", "--data", &data]);
}
