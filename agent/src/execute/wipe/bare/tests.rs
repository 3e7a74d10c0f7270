//! Swap is switched off by an armed agent alone, and by the system's own program.

use super::*;
use crate::execute::fixtures::{Sandbox, calls};

#[test]
fn swap_is_switched_off_by_an_armed_agent_and_by_no_other() {
    let sandbox = Sandbox::new();
    let path = sandbox.host.path("/swap file");
    let (kind, place, uuid) = (BareKind::Plain, None, None);
    let swap = Bare { path, place, kind, uuid, bytes: 0, done: 0, erasure: None };
    let called = calls("/usr/sbin/swapoff", || {
        for arming in [Arming::Sandboxed, Arming::Simulated, Arming::Armed] {
            let_go(&Host { arming, ..sandbox.host.clone() }, &swap);
        }
    });
    if let Some(called) = called {
        assert_eq!(called, [swap.path.display().to_string()]);
    }
}
