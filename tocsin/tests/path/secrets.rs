//! What must not be written down: a whole life with every part at its most talkative.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use protocol::enrollment::EnrollmentToken;

use crate::installation::Installation;
use crate::orders::approver;

/// How a key file would look in a log: its lines that are nothing but key, or, where it is bytes, a
/// stretch of them in hexadecimal or, however it is aligned, in base64.
fn key_forms(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let forms: Vec<_> = match std::str::from_utf8(&bytes) {
        Ok(text) => {
            let is_key = |line: &&str| line.len() >= 40 && !line.starts_with('-');
            text.lines().filter(is_key).map(str::to_owned).collect()
        }
        Err(_) => {
            let middle = &bytes[bytes.len() / 3..][..27];
            let hex: String = middle.iter().map(|byte| format!("{byte:02x}")).collect();
            let base64 = (0..3).map(|from| BASE64.encode(&middle[from..][..24]));
            std::iter::once(hex).chain(base64).collect()
        }
    };
    assert!(!forms.is_empty(), "{} holds no key", path.display());
    forms
}

#[test]
fn hostile_reader_of_every_log_finds_no_secret() {
    let installation = Installation::traced();
    let owner = fs::read_to_string(installation.path("data/owner.token")).expect("the owner's");
    let mut secrets = BTreeMap::from([("the owner's token", owner.trim().to_owned())]);

    let mut device = installation.enroll("web-1");
    let folder = installation.path("web-1");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let config = config.replace("filter = \"warn\"", "filter = \"trace\"");
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
    fs::write(folder.join("agent.log"), "").expect("a log");
    device.start();
    installation.online("web-1");

    let made = installation.json(&["enroll-token"]);
    let token = made["token"].as_str().expect("a token");
    let token: EnrollmentToken = token.parse().expect("a token");
    secrets.insert("an enrollment token", token.secret);
    let line = ["token", "create", "--label", "a phone", "--scope", "read@*"];
    let made = installation.succeed(&line);
    secrets.insert("an API token", made.trim().to_owned());
    approver(&installation, "alice");
    let passphrase = fs::read_to_string(installation.path("passphrase")).expect("a passphrase");
    secrets.insert("a passphrase", passphrase.trim().to_owned());
    let script = installation.path("script");
    fs::write(&script, "#!/bin/sh\nexport PASSWORD=hunter2-hunter2\n").expect("a script");
    secrets.insert("what a script says", "hunter2-hunter2".to_owned());
    let script = script.display().to_string();
    let order = ["run-script", &script, "web-1", "--reason", "a test", "--yes", "--no-wait"];
    assert!(installation.json(&order)["order"]["id"].is_string(), "it waits for an approval");
    let locked = installation.order("lock", "web-1");
    assert_eq!(installation.ended(&locked)["state"], "succeeded");
    device.kill();

    let mut logs = installation.succeed(&["events", "export"]);
    for log in ["up.log", "web-1/agent.log"] {
        let text = fs::read_to_string(installation.path(log)).expect("a log");
        assert!(text.contains("TRACE") && text.contains("DEBUG"), "{log} is not talkative");
        logs.push_str(&text);
    }
    assert!(logs.contains(&locked), "what is no secret is written down");
    let keys = ["ca.key", "command.key", "root.key", "vault.key"].map(|key| format!("data/{key}"));
    for file in keys.into_iter().chain(["web-1/state/device.key".to_owned()]) {
        for form in key_forms(&installation.path(&file)) {
            assert!(!logs.contains(&form), "{file} is written down");
        }
    }
    for (what, secret) in secrets {
        assert!(secret.len() >= 12, "{what} is too short to look for");
        assert!(!logs.contains(&secret), "{what} is written down");
    }
}
