//! Stopping what was ordered, from the operator's line to the device and back: a wipe is called back
//! in its undo window, and a freeze holds until two persons end it.

use crate::installation::{Installation, eventually};
use crate::orders::{approve, approver};

/// A wipe that two persons approved, and the order's id and the command's.
fn wipe(installation: &Installation, keys: [&str; 2], undo: &[&str]) -> (String, String) {
    let order = ["wipe", "web-1", "--reason", "a test", "--yes", "--no-wait"];
    let made = installation.json(&[&order[..], undo].concat());
    let id = |value: &serde_json::Value| value.as_str().expect("an id").to_owned();
    let (order, command) = (id(&made["order"]["id"]), id(&made["commands"][0]["id"]));
    keys.iter().for_each(|key| approve(installation, &order, key));
    (order, command)
}

/// The brake trips on somebody else's rate, and what a device holds in its undo window ends with it.
#[test]
fn wipe_in_its_undo_window_ends_when_the_brake_trips() {
    let mut installation = Installation::new();
    installation.kill();
    installation.start(&[("TOCSIN_UP_API__BUDGETS__BRAKE_ABOVE", "1")]);
    let device = installation.device("web-1");
    let (alice, bob) = (approver(&installation, "alice"), approver(&installation, "bob"));
    let (_, held) = wipe(&installation, [&alice, &bob], &["--undo", "1h"]);
    eventually("the window is open", || {
        let stage = installation.command(&held)["stage"].as_str().unwrap_or("").to_owned();
        stage.starts_with("undo window until ").then_some(())
    });
    let more = ["wipe", "web-1", "--reason", "a test", "--yes", "--no-wait"];
    assert!(!installation.tocsin(&more).status.success(), "the brake trips");
    let story = installation.ended(&held);
    assert_eq!(story["outcome"]["reason"], "frozen", "{story}");
    assert_eq!(device.effects(&held), 0);
}

#[test]
fn wipe_is_called_back_in_its_undo_window_and_a_freeze_holds_until_two_end_it() {
    let installation = Installation::new();
    let device = installation.device("web-1");
    let (alice, bob) = (approver(&installation, "alice"), approver(&installation, "bob"));
    let (_, command) = wipe(&installation, [&alice, &bob], &["--undo", "1h"]);
    eventually("the window is open", || {
        let stage = installation.command(&command)["stage"].as_str().unwrap_or("").to_owned();
        stage.starts_with("undo window until ").then_some(())
    });
    // The command line waits for what the device says, and verifies it.
    let cancelled = installation.json(&["cancel", &command, "--reason", "not ours"]);
    let evidence = &cancelled["commands"][0]["outcome"]["evidence"];
    assert_eq!(evidence["result"], "called_back", "{cancelled}");
    let story = installation.ended(&command);
    assert_eq!(
        (&story["state"], &story["outcome"]["reason"]),
        (&"refused".into(), &"cancelled".into())
    );
    // 3: what is proven is a refusal.
    assert_eq!(installation.tocsin(&["proof", &command]).status.code(), Some(3));
    assert_eq!(device.effects(&command), 0);

    installation.succeed(&["freeze", "--for", "1h", "--reason", "stolen console", "--yes"]);
    let (_, refused) = wipe(&installation, [&alice, &bob], &[]);
    let story = installation.ended(&refused);
    assert_eq!(story["outcome"]["reason"], "frozen", "{story}");

    let thaw = ["thaw", "web-1", "--reason", "it was an exercise", "--yes", "--no-wait"];
    let thawed = installation.json(&thaw);
    let order = thawed["order"]["id"].as_str().expect("an order").to_owned();
    let thaw = thawed["commands"][0]["id"].as_str().expect("a command").to_owned();
    assert_eq!(installation.command(&thaw)["state"], "awaiting_approval");
    approve(&installation, &order, &alice);
    approve(&installation, &order, &bob);
    assert_eq!(installation.ended(&thaw)["state"], "succeeded");
    let (_, done) = wipe(&installation, [&alice, &bob], &[]);
    assert_eq!(installation.ended(&done)["state"], "succeeded");
    assert_eq!((device.effects(&refused), device.effects(&done)), (0, 1));
}
