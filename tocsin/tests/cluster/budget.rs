//! A hub that runs out of descriptors or of memory: it goes on with the sessions that it has, says
//! to the rest that there is no room, and takes them in when there is.

use std::fs;
use std::process::Command;

use crate::operator::{Device, eventually};
use crate::program::Program;
use crate::site::Site;

/// What a hub keeps for everything but sessions (`push_hub::budget`).
const OTHER: usize = 128;
/// Enough for everything that a test does.
const PLENTY: usize = 1024;

/// The most files that a running hub may have open from now on.
fn limit_files(hub: &Program, files: usize) {
    let limit = format!("--nofile={files}:{PLENTY}");
    let pid = hub.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("util-linux is installed").success());
}

fn open_files(hub: &Program) -> usize {
    fs::read_dir(format!("/proc/{}/fd", hub.pid())).expect("it is our child").count()
}

fn on_rung(device: &Device, rung: &str) {
    eventually(&format!("{} is on the rung {rung}", device.name), || {
        (device.rung().as_deref() == Some(rung)).then_some(())
    });
}

#[test]
fn f23_hub_without_descriptors_keeps_its_sessions_and_takes_others_in_later() {
    let site = Site::new(1);
    let hub = &site.hubs[0];
    limit_files(hub, OTHER + 1);
    let first = site.device("web-1");
    on_rung(&first, "push");
    let session = site.session(&first).expect("a session");
    // No room for a second one: it is told so, and served by the lowest rung.
    let mut second = site.enroll("web-2");
    second.start();
    on_rung(&second, "check_in");
    let refused = || hub.metric("tocsin_push_hub_admission_refusals_total", "\"full\"");
    eventually("the hub says that it has no room", || (refused() > 0.0).then_some(()));
    site.obey_in_bulk(std::slice::from_ref(&first));
    site.obey(std::slice::from_ref(&second));
    // Not one more: whoever comes now waits, and nobody who is here notices.
    limit_files(hub, open_files(hub));
    site.obey_in_bulk(std::slice::from_ref(&first));
    site.obey(std::slice::from_ref(&second));
    limit_files(hub, PLENTY);
    on_rung(&second, "push");
    site.obey(std::slice::from_ref(&second));
    assert_eq!(site.session(&first), Some(session), "the same session all along");
    hub.is_ready();
}

#[test]
fn f23_hub_beyond_its_memory_sends_its_agents_to_the_next_rung() {
    // Any process takes more than that.
    let site = Site::with(1, "max_memory_bytes = 1048576\n");
    let mut device = site.enroll("web-1");
    device.start();
    on_rung(&device, "check_in");
    let refused = site.hubs[0].metric("tocsin_push_hub_admission_refusals_total", "\"memory\"");
    assert!(refused > 0.0, "it says why");
    site.obey(&[device]);
    site.hubs[0].is_ready();
}
