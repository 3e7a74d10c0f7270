//! A wipe from the operator's line to the volume: planned, approved for that plan, proven to the
//! store, and the power last. A real volume in a sandbox.

use std::fs;
use std::process::Command;

use crate::installation::{Installation, eventually};
use crate::orders::{approve, approver};

/// Has the device act on one volume in a sandbox instead of simulating. Answers the volume.
pub(crate) fn sandboxed(installation: &Installation, name: &str) -> String {
    let folder = installation.path(name);
    let (volume, key) = (folder.join("volume"), folder.join("key"));
    fs::create_dir(folder.join("root")).expect("a root for the sandbox");
    fs::File::create(&volume).and_then(|file| file.set_len(6 << 20)).expect("a volume");
    fs::write(&key, "passphrase").expect("a key");
    let output = Command::new("/usr/sbin/cryptsetup")
        .args(["-q", "luksFormat", "--type", "luks2", "--offset", "8192"])
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args([&volume, &key])
        .output()
        .expect("this test needs /usr/sbin/cryptsetup: install the package cryptsetup-bin");
    assert!(output.status.success(), "{output:?}");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let host = format!(
        "arming = \"sandboxed\"\nroot = {:?}\ndbus = \"\"\nwipe_targets = [{volume:?}]",
        folder.join("root")
    );
    let config = config.replace("arming = \"simulated\"", &host);
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
    volume.display().to_string()
}

#[test]
fn wipe_of_a_plan_is_proven_to_the_store_and_the_power_goes_last() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    let volume = sandboxed(&installation, "web-1");
    device.start();
    installation.online("web-1");
    let (alice, bob) = (approver(&installation, "alice"), approver(&installation, "bob"));
    let planned = installation.json(&["plan", "web-1", "--level", "data"]);
    let plan = planned["commands"][0]["id"].as_str().expect("a plan").to_owned();
    let evidence = &planned["commands"][0]["outcome"]["evidence"];
    assert_eq!(evidence["facts"]["targets"][0]["path"], volume.as_str());

    let order = ["wipe", "web-1", "--level", "data", "--plan", &plan];
    let given = ["--reason", "stolen", "--yes", "--no-wait"];
    let made = installation.json(&[&order[..], &given].concat());
    let (order, command) = (&made["order"]["id"], &made["commands"][0]["id"]);
    let command = command.as_str().expect("a command").to_owned();
    let order = order.as_str().expect("an order").to_owned();
    approve(&installation, &order, &alice);
    approve(&installation, &order, &bob);

    let story = installation.ended(&command);
    assert_eq!(story["state"], "succeeded", "{story}");
    assert_eq!(story["grade"], "proven_media");
    assert!(story["proof"].is_string(), "the proof of the keys came first");
    installation.succeed(&["proof", &command]);
    let log = installation.path("events.jsonl").display().to_string();
    installation.succeed(&["events", "export", "--out", &log]);
    let log = fs::read_to_string(log).expect("the exported log");
    let line_of = |kind: &str| {
        let is_it = |line: &str| line.contains(kind) && line.contains(&command);
        log.lines().position(is_it).unwrap_or_else(|| panic!("there is no {kind}"))
    };
    assert!(line_of("\"command_proved\"") < line_of("\"command_finished\""));
    let power = installation.path("web-1").join("power.log");
    eventually("the power goes", || power.exists().then_some(()));
    let left = fs::read(&volume).expect("the volume");
    assert!(left[4 << 20..].iter().all(|byte| *byte == 0), "data is left");
}
