//! Bad ways between an agent and its hub: slow, late and lossy ones, and a proxy that cuts what is idle.

use std::time::Duration;

use runtime::fixture::{Link, Relay, Shape};
use tokio::runtime::Runtime;

use crate::installation::{Device, Installation, eventually};

/// 32 kbit/s, 200 ms each way, one packet in twenty lost.
const BAD: Link =
    Link::Shaped(Shape { delay: Duration::from_millis(200), bytes_per_sec: 4096, lost: 20 });
/// Orders of one round.
const ORDERS: usize = 6;
/// Rounds, one of which has to do: where this machine itself is silent for seconds, a session may end in one.
const ROUNDS: usize = 3;

/// A device whose way to the hub leads through a relay.
fn device_behind(installation: &Installation, relay: &Relay) -> Device {
    let mut device = installation.enroll("web-1");
    device.configure(&format!("[addresses]\nhubs = [\"https://{}\"]\n", relay.addr));
    device.start();
    installation.online(&device.name);
    device
}

fn session(device: &Device) -> String {
    eventually("a session", || {
        let status = device.status()?;
        (status["ladder"]["rung"] == "push").then_some(())?;
        status["ladder"]["session_id"].as_str().map(str::to_owned)
    })
}

#[test]
fn f15_orders_over_a_slow_lossy_link_arrive_and_end_once_on_one_session() {
    let runtime = Runtime::new().expect("a runtime");
    let installation = Installation::new();
    let relay = runtime.block_on(Relay::start(installation.hub()));
    relay.set(BAD);
    let device = device_behind(&installation, &relay);
    let has_stayed = (0..ROUNDS).any(|_| {
        let begun = session(&device);
        let orders: Vec<_> = (0..ORDERS)
            .map(|at| installation.order(["lock", "refresh"][at % 2], &device.name))
            .collect();
        for command in &orders {
            assert_eq!(installation.ended(command)["state"], "succeeded");
            assert_eq!(device.effects(command), 1);
        }
        session(&device) == begun
    });
    assert!(has_stayed, "the link is slow, and alive");
}

#[test]
fn f22_agent_whose_connections_a_proxy_cuts_comes_back_and_misses_nothing() {
    let runtime = Runtime::new().expect("a runtime");
    let installation = Installation::new();
    // Far below the hub's interval of heartbeats.
    let relay = runtime.block_on(Relay::with_idle_cut(installation.hub(), Duration::from_secs(3)));
    let device = device_behind(&installation, &relay);
    for cuts in 1..=3 {
        eventually("the proxy cuts", || (relay.idled() >= cuts).then_some(()));
        let command = installation.order("lock", &device.name);
        assert_eq!(installation.ended(&command)["state"], "succeeded");
        assert_eq!(device.effects(&command), 1);
    }
}
