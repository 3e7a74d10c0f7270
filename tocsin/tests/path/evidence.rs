//! Evidence from a device to the case: sealed there, carried by everybody, read by the case alone.

use std::fs;

use serde_json::Value;

use crate::installation::Installation;

#[test]
fn evidence_is_read_by_the_case_and_by_nobody_on_the_way() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    let folder = installation.path("web-1");
    fs::create_dir_all(folder.join("root/etc")).expect("a root for the sandbox");
    let secret = "mallory:x:0:0::/:/bin/sh";
    fs::write(folder.join("root/etc/passwd"), secret).expect("an account");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let root = folder.join("root");
    let host = format!("arming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"");
    let config = config.replace("arming = \"simulated\"", &host);
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
    device.start();
    installation.online("web-1");

    let text = |name: &str| installation.path(name).display().to_string();
    let (case, other, out) = (text("case.key"), text("other.key"), text("evidence.json"));
    let (word, wrong) = (text("case-passphrase"), text("other-passphrase"));
    fs::write(&word, "correct horse\n").expect("a passphrase");
    fs::write(&wrong, "incorrect horse\n").expect("a passphrase");
    let word = word.as_str();
    let new_key = |key| ["evidence", "new-key", "--out", key, "--passphrase-file", word];
    let made = installation.json(&new_key(case.as_str()));
    installation.succeed(&new_key(other.as_str()));
    let key = made["case_key"].as_str().expect("a key");
    let order = ["collect-evidence", "web-1", "--case-key", key, "--reason", "a test", "--yes"];
    let ended = installation.json(&order);
    let command = ended["commands"][0]["id"].as_str().expect("a command");
    let story = installation.command(command);
    assert_eq!(story["state"], "succeeded", "{story}");
    assert!(!story.to_string().contains("mallory"));
    assert!(!installation.succeed(&["events", "export"]).contains("mallory"));

    let opening = |key: &str, what: &str, word: &str| {
        let words = ["evidence", "open", what, "--key", key, "--out", out.as_str()];
        installation.tocsin(&[&words[..], &["--passphrase-file", word]].concat())
    };
    let with = |key: &str, what: &str| opening(key, what, word);
    assert!(!opening(&case, command, &wrong).status.success(), "another passphrase opens it");
    assert!(!with(&other, command).status.success(), "another case's key opens it");
    assert!(!installation.path("evidence.json").exists());
    // Also offline, from the receipt alone; and not when somebody altered it.
    let proof = installation.succeed(&["proof", command, "--json"]);
    fs::write(text("proof.json"), &proof).expect("a proof");
    let opened = with(&case, &text("proof.json"));
    assert!(opened.status.success(), "{opened:?}");
    let read: Value = serde_json::from_slice(&fs::read(&out).expect("evidence")).expect("JSON");
    assert_eq!(read["accounts"][0], secret);
    let altered = proof.replacen("\"receipt\":\"ey", "\"receipt\":\"eY", 1);
    let altered = altered.replacen("\"receipt\": \"ey", "\"receipt\": \"eY", 1);
    assert_ne!(altered, proof);
    fs::write(text("proof.json"), altered).expect("a proof");
    assert!(!with(&case, &text("proof.json")).status.success());
}
