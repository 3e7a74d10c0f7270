//! A device that is copied while its machine runs: two agents of one boot that say they are it.

use serde_json::Value;

use crate::installation::{Installation, eventually};

#[test]
fn hostile_copy_beside_its_device_is_told_and_restarts_are_not() {
    let site = Installation::new();
    let mut device = site.device("web-1");
    let session =
        |status: Option<Value>| status?["ladder"]["session_id"].as_str().map(str::to_owned);
    let mut before = eventually("a session", || session(device.status()));
    // Killed at any moment, it comes back as itself.
    for _ in 0..3 {
        device.kill();
        device.start();
        before = eventually("another session", || {
            session(device.status()).filter(|session| *session != before)
        });
    }
    assert!(site.events("device_cloned").is_empty());

    device.kill();
    let mut copy = device.copied();
    device.start();
    eventually("its session", || session(device.status()).filter(|session| *session != before));
    copy.start();
    let told = eventually("two are told apart", || site.events("device_cloned").pop());
    assert!(told["payload"].to_string().contains("runs_us"), "{told}");
    let refused = site.tocsin(&["lock", "web-1", "--reason", "a test"]);
    assert!(!refused.status.success(), "orders wait for somebody who knows");
}
