//! kill -9 at every step: the command still ends exactly once, in the right state.
//!
//! A trap kills the process at its n-th write, fsync, rename or send after the device is online;
//! n goes up until the process outlives its command.

use crate::installation::{Installation, eventually};
use crate::trap::{Trap, is_possible};

/// More steps than this, and something goes round in circles.
const MOST_STEPS: u32 = 500;

#[test]
fn agent_killed_at_every_step_does_everything_exactly_once() {
    if !is_possible() {
        return;
    }
    let installation = Installation::new();
    let mut device = installation.device("web-1");
    for step in 1..MOST_STEPS {
        let trap = Trap::set(device.pid(), step);
        let command = installation.order("lock", &device.name);
        let survived = eventually("the agent dies, or ends its command", || {
            let has_ended = || installation.command(&command)["finished_at"].is_string();
            if device.has_died() { Some(false) } else { has_ended().then_some(true) }
        });
        let was_killed = trap.release();
        if was_killed {
            device.kill();
            device.start();
        }
        let ended = installation.ended(&command);
        assert_eq!(ended["state"], "succeeded", "killed at step {step}: {ended}");
        assert_eq!(device.effects(&command), 1, "killed at step {step}");
        installation.online(&device.name);
        if survived && !was_killed {
            assert!(step > 10, "only {step} steps: the trap does not work");
            return;
        }
    }
    panic!("the agent never outlived its command");
}

#[test]
fn platform_killed_at_every_step_loses_nothing() {
    if !is_possible() {
        return;
    }
    let mut installation = Installation::new();
    let device = installation.device("web-1");
    for step in 1..MOST_STEPS {
        let trap = Trap::set(installation.pid(), step);
        let output = installation.tocsin(&[
            "lock",
            &device.name,
            "--reason",
            "a test",
            "--yes",
            "--no-wait",
            "--json",
        ]);
        let accepted = output.status.success();
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let command = made["commands"][0]["id"].as_str().map(str::to_owned);
        let survived = eventually("the platform dies, or ends its command", || {
            if installation.has_died() {
                return Some(false);
            }
            let Some(command) = &command else { return Some(true) };
            let output = installation.tocsin(&["command", "show", command, "--json"]);
            let shown: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_default();
            shown["finished_at"].is_string().then_some(true)
        });
        let was_killed = trap.release();
        if was_killed {
            installation.kill();
            installation.start(&[]);
        }
        installation.online(&device.name);
        if let Some(known) = device.last_effect() {
            let shown = installation.tocsin(&["command", "show", &known]);
            assert!(shown.status.success(), "{known} was done and not stored, at step {step}");
        }
        match command {
            // What was answered is kept.
            Some(command) => {
                let ended = installation.ended(&command);
                assert_eq!(ended["state"], "succeeded", "killed at step {step}: {ended}");
                assert_eq!(device.effects(&command), 1, "killed at step {step}");
            }
            // What was not answered may or may not have been stored; what is stored ends.
            None => {
                assert!(!accepted, "an accepted order without a command at step {step}");
                let listed = installation.json(&["commands"]);
                for stored in listed["items"].as_array().expect("a list") {
                    let id = stored["id"].as_str().expect("an id");
                    assert_eq!(installation.ended(id)["state"], "succeeded");
                    assert_eq!(device.effects(id), 1, "killed at step {step}");
                }
            }
        }
        if survived && !was_killed {
            assert!(step > 10, "only {step} steps: the trap does not work");
            return;
        }
    }
    panic!("the platform never outlived an order");
}
