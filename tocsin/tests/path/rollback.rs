//! A device whose whole state directory is put back to what it was some commands ago.

use crate::installation::{Installation, eventually};

/// Without WebSockets a device says at each poll what it has.
const NO_WEBSOCKET: (&str, &str) = ("TOCSIN_UP_HUB__WEBSOCKET", "false");

#[test]
fn f04_state_put_back_to_a_snapshot_is_reported_once_and_nothing_is_done_twice() {
    let mut installation = Installation::new();
    let mut device = installation.device("web-1");
    let before = installation.order("lock", &device.name);
    assert_eq!(installation.ended(&before)["state"], "succeeded");
    device.kill();
    let snapshot = device.snapshot();
    device.start();
    let since = ["lock"; 3].map(|verb| installation.order(verb, &device.name));
    for command in &since {
        assert_eq!(installation.ended(command)["state"], "succeeded");
        assert_eq!(device.effects(command), 1);
    }
    device.kill();
    // Of the other lane: it raises no number of the lane that went back.
    let waiting = installation.order("refresh", &device.name);
    installation.kill();
    installation.start(&[NO_WEBSOCKET]);
    device.put_back(&snapshot);
    device.start();

    let told =
        eventually("the control plane notices", || installation.events("journal_rollback").pop());
    let said: serde_json::Value = serde_json::from_str(told["payload"].as_str().expect("a text"))
        .expect("an event's particulars are JSON");
    assert_eq!(said["last_seq"]["urgent"], 1, "{said}");
    // What it had shortly before is not held against it yet.
    let had = said["had_seq"]["urgent"].as_u64().expect("a number");
    assert!((2..=4).contains(&had), "{said}");
    assert_eq!(said["commands"], 0, "all had ended: nothing comes again");
    // The record of what was done went back, too: whatever it shows now was done since.
    assert_eq!(installation.ended(&waiting)["state"], "succeeded");
    let next = installation.order("lock", &device.name);
    assert_eq!(installation.ended(&next)["state"], "succeeded");
    assert_eq!(device.done(), [before, waiting, next]);
    for command in &since {
        assert_eq!(installation.command(command)["state"], "succeeded");
    }
    assert_eq!(installation.events("journal_rollback").len(), 1);
}
