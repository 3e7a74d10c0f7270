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
