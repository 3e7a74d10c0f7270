//! Limits that are changed while everything runs.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::operator::{Device, eventually};

fn tell(site: &Installation, text: &str) {
    fs::write(site.path("up.toml"), text).expect("the folder is ours");
    let pid = Pid::from_raw(site.pid().try_into().expect("a pid"));
    kill(pid, Signal::SIGHUP).expect("it is ours");
}

#[test]
fn limits_are_read_again_and_no_session_ends_by_it() {
    let mut site = Installation::new();
    site.kill();
    fs::write(site.path("up.toml"), "[api.first_wave]\ndisruptive_above = 0\n").expect("ours");
    site.start(&[]);
    let devices = ["desk-1", "desk-2"].map(|name| site.device(name));
    let session =
        |device: &Device| device.status()?["ladder"]["session_id"].as_str().map(str::to_owned);
    let sessions = || devices.iter().map(session).collect::<Option<Vec<_>>>();
    let before = eventually("their sessions", sessions);
    let first_wave = || {
        let plan = ["lock", "desk-1", "desk-2", "--reason", "a test", "--dry-run"];
        site.json(&plan)["first_wave"].clone()
    };
    assert_eq!(first_wave(), Value::Null);
    tell(&site, "[api.first_wave]\ndisruptive_above = 1\n");
    eventually("a first wave", || (first_wave() == json!(1)).then_some(()));
    // What cannot be meant changes nothing, and stops nothing.
    tell(&site, "[api.first_wave]\ndisruptive_above = 0\npercent = 99\n");
    tell(&site, "[api.first_wave\n");
    tell(&site, "[api.first_wave]\ndisruptive_above = 0\n");
    eventually("none again", || (first_wave() == Value::Null).then_some(()));
    assert_eq!(sessions(), Some(before));
}

/// The certificates that operators and hubs are told to trust.
fn told(site: &Installation) -> Vec<String> {
    let text = fs::read_to_string(site.path("data/authority.pem")).expect("it is there");
    text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

#[test]
fn hub_and_authority_are_read_again_and_no_session_ends() {
    let mut site = Installation::new();
    site.kill();
    fs::write(site.path("up.toml"), "").expect("ours");
    site.start(&[]);
    let first = site.device("desk-1");
    let session = || first.status()?["ladder"]["session_id"].as_str().map(str::to_owned);
    let before = eventually("its session", session);
    // A hub's part that cannot be meant keeps the control plane's from counting too.
    tell(&site, "[api]\nhub_urls = [\"https://127.0.0.1:1\"]\n[hub]\nheartbeat = \"0s\"\n");
    tell(&site, "[hub]\nwebsocket = false\n");
    let polling = site.device("desk-2");
    eventually("a long-poll", || (polling.rung()? == "long_poll").then_some(()));
    tell(&site, "");

    let data = site.path("data").display().to_string();
    let former = told(&site);
    for (verb, trusted) in [("prepare", 2), ("switch", 2)] {
        site.succeed(&["authority", verb, "--data", &data]);
        tell(&site, "");
        let present = fs::read_to_string(site.path("data/ca.crt")).expect("it is there");
        eventually("the authority", || {
            let told = told(&site);
            (told.len() == trusted && told[0] == present).then_some(())
        });
    }
    assert_ne!(told(&site)[0], former[0]);
    let url = format!("https://{}", site.listeners()[0]);
    site.login(&url, &site.path("data/authority.pem"), &site.path("data/owner.token"));
    assert_eq!(site.events("authority_changed").len(), 1);
    let late = site.device("desk-3");
    eventually("a session", || (late.rung()? == "push").then_some(()));
    assert_eq!(late.enrollment()["ca"].as_str().expect("PEM").matches("BEGIN").count(), 2);
    assert_eq!(session(), Some(before));
}
