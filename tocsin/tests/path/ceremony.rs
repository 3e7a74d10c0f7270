//! The trust root changes hands: real programs, root keys that never meet, and a device that goes on.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::installation::{Device, Installation, eventually};

const PASSPHRASE: &str = "correct horse battery";

/// Root keys on machines of their own, each a file.
struct RootKeys {
    files: Vec<String>,
    passphrase: String,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl RootKeys {
    fn new(site: &Installation, many: usize) -> Self {
        let passphrase = text(&site.path("passphrase"));
        fs::write(&passphrase, PASSPHRASE).expect("the folder is ours");
        let make = |at| {
            let file = text(&site.path(&format!("root-{at}.key")));
            let words = ["key", "new", "--out", &file, "--passphrase-file", &passphrase];
            site.succeed(&words);
            file
        };
        Self { files: (0..many).map(make).collect(), passphrase }
    }

    fn public(&self, site: &Installation, at: usize) -> String {
        site.succeed(&["key", "show", &self.files[at]]).trim().to_owned()
    }

    fn sign(&self, site: &Installation, draft: &str, at: usize, in_force: Option<&str>) -> bool {
        let mut words = vec!["trust", "sign", draft, "--yes", "--root-key", &self.files[at]];
        words.extend(["--passphrase-file", &self.passphrase]);
        if let Some(fingerprint) = in_force {
            words.extend(["--in-force", fingerprint]);
        }
        site.tocsin(&words).status.success()
    }
}

/// A draft with those changes.
fn draft(site: &Installation, name: &str, changes: &[&[&str]]) -> String {
    let path = text(&site.path(name));
    site.succeed(&["trust", "init", &path]);
    for change in changes {
        site.succeed(&[&["trust"], *change, &["--draft", &path]].concat());
    }
    path
}

fn in_force(site: &Installation, draft: &str) -> String {
    let shown = site.json(&["trust", "show", "--draft", draft]);
    shown["in_force"].as_str().expect("a fingerprint").to_owned()
}

fn obeys(site: &Installation, device: &Device, verb: &str) {
    let ended = site.ended(&site.order(verb, &device.name));
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

fn command_keys(site: &Installation) -> Value {
    site.json(&["command-key", "show", "--data", &text(&site.path("data"))])
}

#[test]
fn root_keys_of_several_people_take_over_and_rotate_a_stolen_command_key() {
    let mut site = Installation::new();
    let mut device = site.device("desk-1");
    let data = text(&site.path("data"));
    let former_root = text(&site.path("data/root.key"));
    let roots = RootKeys::new(&site, 3);
    let publics: Vec<_> = (0..3).map(|at| roots.public(&site, at)).collect();

    // From one root key on the server's disk to two of three that are elsewhere.
    let old = site.json(&["trust", "show"])["root"]["root"]["keys"][0].clone();
    let old = old.as_str().expect("a key").to_owned();
    let mut changes: Vec<&[&str]> = Vec::new();
    let added: Vec<[&str; 2]> = publics.iter().map(|key| ["add-root-key", key.as_str()]).collect();
    changes.extend(added.iter().map(|change| change.as_slice()));
    let removed = ["remove-root-key", old.as_str()];
    changes.extend([removed.as_slice(), &["set-threshold", "root", "2"]]);
    let first = draft(&site, "take-over.json", &changes);
    let told = in_force(&site, &first);
    let copies = [text(&site.path("copy-0.json")), text(&site.path("copy-1.json"))];
    for (at, copy) in copies.iter().enumerate() {
        fs::copy(&first, copy).expect("the folder is ours");
        assert!(!roots.sign(&site, copy, at, None), "a key that signed nothing believes nothing");
        assert!(roots.sign(&site, copy, at, Some(&told)));
    }
    site.succeed(&["trust", "merge", &first, &copies[0], &copies[1]]);
    assert!(!site.tocsin(&["trust", "publish", &first]).status.success(), "without the old key");
    site.succeed(&["trust", "sign", &first, "--yes", "--root-key", &former_root]);
    site.succeed(&["trust", "publish", &first]);
    obeys(&site, &device, "lock");
    let alone = ["trust", "set-threshold", "lock", "1", "--yes", "--root-key", &former_root];
    assert!(!site.tocsin(&alone).status.success(), "the former root key decides nothing more");

    // The command key was stolen. A switch that the root does not know of yet is no way.
    let prepared = site.json(&["command-key", "prepare", "--data", &data]);
    let stolen = prepared["signs"].as_str().expect("a key").to_owned();
    let next = prepared["next"].as_str().expect("a key").to_owned();
    let both = draft(&site, "both.json", &[&["add-command-key", &next]]);
    assert!(roots.sign(&site, &both, 0, None), "it signed version 2");
    assert!(!site.tocsin(&["trust", "publish", &both]).status.success(), "one of two signed");
    assert!(roots.sign(&site, &both, 1, None));
    site.succeed(&["trust", "publish", &both]);
    let early = draft(&site, "early.json", &[&["remove-command-key", &stolen]]);
    for at in [0, 1] {
        assert!(roots.sign(&site, &early, at, None));
    }
    assert!(!site.tocsin(&["trust", "publish", &early]).status.success(), "it signs with that key");

    site.kill();
    site.succeed(&["command-key", "switch", "--data", &data]);
    site.start(&[]);
    site.online(&device.name);
    obeys(&site, &device, "unlock");
    site.succeed(&["trust", "publish", &early]);
    site.succeed(&["command-key", "retire", "--data", &data]);
    let keys = command_keys(&site);
    assert_eq!((&keys["signs"], &keys["former"]), (&Value::from(next), &Value::Null));
    device.kill();
    device.start();
    site.online(&device.name);
    obeys(&site, &device, "lock");
    assert_eq!(site.events("command_key_changed").len(), 1);
    eventually("the device has the newest version", || {
        let shown = site.json(&["device", "show", &device.name]);
        (shown["trust_version"] == 4).then_some(())
    });
}

/// Whoever put another key into the data folder signs nothing with it.
#[test]
fn hostile_command_key_that_the_trust_root_does_not_name_keeps_the_control_plane_down() {
    let mut site = Installation::new();
    let data = text(&site.path("data"));
    site.kill();
    site.succeed(&["command-key", "prepare", "--data", &data]);
    site.succeed(&["command-key", "switch", "--data", &data]);
    let ended = std::process::Command::new(crate::operator::TOCSIN)
        .args(["up", "--data", &data])
        .env("TOCSIN_UP_ADMIN_LISTEN", "127.0.0.1:0")
        .env("TOCSIN_UP_API__OPERATOR_LISTEN", "127.0.0.1:0")
        .env("TOCSIN_UP_API__AGENT_LISTEN", "127.0.0.1:0")
        .env("TOCSIN_UP_HUB__LISTEN", "127.0.0.1:0")
        .output()
        .expect("tocsin starts");
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("command.key"), "{said}");
    // Taken back, it starts.
    let folder = site.path("data");
    fs::rename(folder.join("command-former.key"), folder.join("command.key")).expect("ours");
    site.start(&[]);
}
