//! Network file systems are let go in one go, and only by an armed agent where everybody sees it.

use super::*;
use crate::execute::fixtures::{Sandbox, calls};

#[test]
fn all_mounts_are_detached_by_one_call_and_nobody_waits_for_each() {
    let sandbox = Sandbox::new();
    let line = |n: usize| format!("{n} 36 0:{n} / /srv/{n} rw - nfs4 server:/{n} rw\n");
    let mounts: String = (1..=40).map(line).collect();
    sandbox.write("/proc/self/mountinfo", mounts);
    let called = calls("/usr/bin/systemd-run", || {
        for arming in [Arming::Sandboxed, Arming::Simulated, Arming::Armed] {
            let host = Host { arming, ..sandbox.host.clone() };
            // However long the stand-in takes to start.
            let_go_within(&host, &mounted(&host), Duration::from_secs(3600));
        }
    });
    if let Some(called) = called {
        let places: Vec<_> = (1..=40).rev().map(|n| format!("/srv/{n}")).collect();
        let words = "--quiet --collect --wait -- umount --lazy --";
        assert_eq!(called, [format!("{words} {}", places.join(" "))], "the innermost first");
    }
}
