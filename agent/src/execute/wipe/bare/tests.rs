//! Swap is switched off by an armed agent alone, and by the system's own program; and the kernel says who holds a device.

use std::os::unix::fs::OpenOptionsExt as _;

use super::super::volume::is_held;
use super::*;
use crate::execute::fixtures::{Sandbox, calls};

#[test]
fn swap_is_switched_off_by_an_armed_agent_and_by_no_other() {
    let sandbox = Sandbox::new();
    let path = sandbox.host.path("/swap file");
    let (kind, place, uuid) = (BareKind::Plain, None, None);
    let swap = Bare { path, place, kind, uuid, bytes: 0, done: 0, erasure: None, marker: None };
    let called = calls("/usr/sbin/swapoff", || {
        for arming in [Arming::Sandboxed, Arming::Simulated, Arming::Armed] {
            let_go(&Host { arming, ..sandbox.host.clone() }, &swap);
        }
    });
    if let Some(called) = called {
        assert_eq!(called, [swap.path.display().to_string()]);
    }
}

#[test]
fn device_that_somebody_holds_is_open_wherever_it_is_mounted() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let losetup = |args: &[&str], path: &Path| {
        let output = std::process::Command::new("/usr/sbin/losetup").args(args).arg(path).output();
        let output = output.unwrap();
        assert!(output.status.success(), "needs root and the kernel module loop: {output:?}");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let device = losetup(&["--find", "--show"], file.path());
    let free = is_held(&device);
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(nix::fcntl::OFlag::O_EXCL.bits());
    let holder = options.open(&device).unwrap();
    let held = is_held(&device);
    drop(holder);
    losetup(&["--detach"], &device);
    assert_eq!((free, held, is_held(file.path())), (false, true, false));
}
