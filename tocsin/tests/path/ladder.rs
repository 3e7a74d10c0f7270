//! The ladder: the same order arrives by whichever rung there is, and the socket comes back.

use crate::installation::{Device, Installation, eventually};

const NO_WEBSOCKET: (&str, &str) = ("TOCSIN_UP_HUB__WEBSOCKET", "false");
/// A port where nobody listens: the hub as far as its agents can tell is gone.
const NO_HUB: (&str, &str) = ("TOCSIN_UP_HUB__LISTEN", "127.0.0.1:0");

fn on_rung(device: &Device, rung: &str) {
    eventually(&format!("the agent is on the rung {rung}"), || {
        (device.rung().as_deref() == Some(rung)).then_some(())
    });
}

fn takes_effect(installation: &Installation, device: &Device) {
    let command = installation.order("lock", &device.name);
    assert_eq!(installation.ended(&command)["state"], "succeeded");
    assert_eq!(device.effects(&command), 1);
}

#[test]
fn refused_upgrade_leads_to_long_poll_and_back() {
    let mut installation = Installation::new();
    let device = installation.device("web-1");
    on_rung(&device, "push");
    installation.kill();
    installation.start(&[NO_WEBSOCKET]);
    on_rung(&device, "long_poll");
    takes_effect(&installation, &device);
    on_rung(&device, "long_poll");
    installation.kill();
    installation.start(&[]);
    on_rung(&device, "push");
    takes_effect(&installation, &device);
}

#[test]
fn hub_that_is_down_leads_to_check_in_and_back() {
    let mut installation = Installation::new();
    let device = installation.device("web-1");
    installation.kill();
    installation.start(&[NO_HUB]);
    on_rung(&device, "check_in");
    takes_effect(&installation, &device);
    on_rung(&device, "check_in");
    installation.kill();
    installation.start(&[]);
    on_rung(&device, "push");
    takes_effect(&installation, &device);
}

#[test]
fn order_for_a_device_that_is_off_waits_for_it() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    let command = installation.order("lock", &device.name);
    assert_eq!(installation.command(&command)["state"], "queued");
    device.start();
    assert_eq!(installation.ended(&command)["state"], "succeeded");
    assert_eq!(device.effects(&command), 1);
}
