//! Evidence from a device to the case: sealed there, carried by everybody, read by the case alone.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::installation::Installation;
use crate::operator::{Device, eventually};

/// A device that is a sandbox with a root of its own.
fn sandboxed(installation: &Installation, name: &str) -> Device {
    let mut device = installation.enroll(name);
    let folder = installation.path(name);
    fs::create_dir_all(folder.join("root/etc")).expect("a root for the sandbox");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let root = folder.join("root");
    let host = format!("arming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"");
    let config = config.replace("arming = \"simulated\"", &host);
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
    device.start();
    installation.online(name);
    device
}

#[test]
fn evidence_is_read_by_the_case_and_by_nobody_on_the_way() {
    let installation = Installation::new();
    let _device = sandboxed(&installation, "web-1");
    let secret = "mallory:x:0:0::/:/bin/sh";
    fs::write(installation.path("web-1").join("root/etc/passwd"), secret).expect("an account");

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

/// Key and passphrase of a new case, and its public half.
fn case(installation: &Installation, name: &str) -> ([String; 2], String) {
    let text = |name: &str| installation.path(name).display().to_string();
    let (key, word) = (text(&format!("{name}.key")), text(&format!("{name}-passphrase")));
    fs::write(&word, "correct horse\n").expect("a passphrase");
    let words = ["evidence", "new-key", "--out", &key, "--passphrase-file", &word];
    let made = installation.json(&words);
    ([key, word], made["case_key"].as_str().expect("a key").to_owned())
}

#[test]
fn files_reach_the_case_as_they_were_signed_for_and_say_so_offline() {
    let installation = Installation::new();
    let mut device = sandboxed(&installation, "web-1");
    let root = installation.path("web-1").join("root");
    let place = |name: &str| root.join(name);
    fs::create_dir_all(place("srv/..hidden")).expect("folders");
    fs::create_dir_all(place("var/log")).expect("folders");
    let (big, log) = (b"a-word-of-the-endpoint".repeat(60_000), "Failed password for mallory");
    fs::write(place("srv/big"), &big).expect("a file");
    fs::write(place("srv/..hidden/a\u{1b}b"), "odd").expect("a file");
    fs::write(place("var/log/auth.log"), log).expect("a log");
    let ([key, word], public) = case(&installation, "case");
    let ([other, _], _) = case(&installation, "other");
    let order = [
        &["collect-evidence", "web-1", "--case-key", &public, "--logs"][..],
        &["--path", "/srv", "--reason", "a test", "--yes"],
    ];
    let ended = installation.json(&order.concat());
    let command = ended["commands"][0]["id"].as_str().expect("a command");
    assert_eq!(installation.command(command)["state"], "succeeded");
    // A restart in the middle of it costs nothing.
    device.kill();
    device.start();
    eventually("all of it is there", || {
        (!installation.events("collection_arrived").is_empty()).then_some(())
    });
    let folder = installation.path("fetched");
    let out = folder.display().to_string();
    let with = |key: &str, words: &[&str]| {
        let key = ["--key", key, "--passphrase-file", &word];
        installation.tocsin(&[&["evidence"], words, &key].concat())
    };
    let fetch = ["fetch", command, "--out", &out];
    assert!(!with(&other, &fetch).status.success(), "another case's key opens it");
    assert!(!folder.join("items").exists());
    let fetched = with(&key, &fetch);
    assert!(fetched.status.success(), "{fetched:?}");
    let read = |path: &Path| fs::read(path).expect("a file");
    let index: Value =
        serde_json::from_slice(&read(&folder.join("items/index.json"))).expect("JSON");
    let item =
        |at: usize| read(&folder.join("items").join(index[at]["file"].as_str().expect("a file")));
    let names: Vec<_> = (0..4).map(|at| index[at]["name"].as_str().expect("a name")).collect();
    let expected = ["/var/log/auth.log", "/run/log/journal", "/srv/..hidden/a\\x1bb", "/srv/big"];
    assert_eq!(names, expected);
    assert!(item(0) == log.as_bytes() && item(3) == big);
    // Nobody on the way could read a word of it.
    let files = fs::read_dir(installation.path("data")).expect("the store").flatten();
    let files = files.filter(|entry| entry.path().is_file());
    let store: Vec<u8> = files.flat_map(|entry| read(&entry.path())).collect();
    assert!(store.len() > big.len(), "what was collected is there");
    for word in ["a-word-of-the-endpoint", "Failed password"] {
        assert!(!store.windows(word.len()).any(|bytes| bytes == word.as_bytes()), "{word}");
    }
    // A chunk that rots here is found, named and fetched again; the others are not.
    fs::remove_dir_all(folder.join("items")).expect("gone");
    let kept = |name: &str| folder.join("sealed").join(name);
    let mut rotten = read(&kept("000002"));
    rotten[9] ^= 1;
    fs::write(kept("000002"), &rotten).expect("a chunk");
    let asked = with(&key, &["unpack", &out]);
    let said = String::from_utf8(asked.stderr).expect("text");
    assert!(!asked.status.success() && said.contains("chunk 2 is another"), "{said}");
    let again = with(&key, &fetch);
    let said = String::from_utf8(again.stderr).expect("text");
    assert!(again.status.success() && said.contains("chunk 2 is not what"), "{said}");
    assert!(!said.contains("chunk 1"), "{said}");
    assert!(item(3) == big);
    let unpack = ["unpack", &out];
    only_what_was_signed_for_unpacks(&folder, &|| with(&key, &unpack).status.success());
}

/// Offline: the same again, and not when a chunk was altered, dropped or swapped.
fn only_what_was_signed_for_unpacks(folder: &Path, unpack: &dyn Fn() -> bool) {
    let again = |change: &dyn Fn(&Path)| {
        drop(fs::remove_dir_all(folder.join("items")));
        let (from, to) = (folder.join("sealed"), folder.join("kept"));
        fs::create_dir(&to).expect("a folder");
        for entry in fs::read_dir(&from).expect("chunks").flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
        change(&from);
        let is_done = unpack();
        fs::remove_dir_all(&from).expect("gone");
        fs::rename(&to, &from).expect("back");
        assert_eq!(folder.join("items").exists(), is_done);
        is_done
    };
    assert!(again(&|_| {}));
    assert!(!again(&|sealed| fs::remove_file(sealed.join("000001")).expect("dropped")));
    assert!(!again(&|sealed| {
        fs::copy(sealed.join("000001"), sealed.join("000000")).expect("swapped");
    }));
    assert!(!again(&|sealed| {
        let mut chunk = fs::read(sealed.join("000000")).expect("a chunk");
        chunk[7] ^= 1;
        fs::write(sealed.join("000000"), chunk).expect("altered");
    }));
}
