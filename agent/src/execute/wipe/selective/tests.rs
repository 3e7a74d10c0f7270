//! What is open of a company's volume is closed by an armed agent alone.

use super::*;
use crate::execute::fixtures::{Sandbox, calls};

#[test]
fn mapping_of_a_companys_volume_is_closed_by_an_armed_agent_and_by_no_other() {
    let sandbox = Sandbox::new();
    let volume = sandbox.write("/company", "").canonicalize().unwrap();
    sandbox.write("/sys/block/loop9/loop/backing_file", "/company\n");
    sandbox.write("/sys/block/loop9/holders/dm-0", "");
    sandbox.write("/sys/block/dm-0/dev", "253:0\n");
    let host = Host { root: sandbox.host.root.canonicalize().unwrap(), ..sandbox.host.clone() };
    let called = calls("/usr/sbin/cryptsetup", || {
        for arming in [Arming::Sandboxed, Arming::Simulated, Arming::Armed] {
            close(&Host { arming, ..host.clone() }, &volume);
        }
    });
    if let Some(called) = called {
        assert_eq!(called, ["close --deferred /dev/dm-0"]);
    }
}
