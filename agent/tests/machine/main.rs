//! The armed agent on a whole Debian system that is booted, locked, rebooted and unlocked.
//!
//! Needs root, namespaces, and the Debian packages `systemd-container`, `mmdebstrap`,
//! `util-linux`, `iproute2`, `cryptsetup-bin` and `openssh-client`, and once Debian's mirror. Whatever is missing
//! fails the test by name. Only the network file system of `down` is left out, and said to be, where a kernel
//! has no `/dev/fuse`.
#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

#[path = "../device/bench.rs"]
#[expect(dead_code, reason = "shared with the tests of the device, which use the rest")]
mod bench;
mod console;
mod container;
mod disk;
mod doors;
mod down;
mod evidence;
mod isolation;
mod keys;
#[path = "../support/luks.rs"]
#[expect(dead_code, reason = "shared with the tests of executors, which use the rest")]
mod luks;
#[path = "../support/namespaces.rs"]
mod namespaces;
mod package;
mod root;
mod scene;
mod scripts;
#[path = "../device/server.rs"]
#[expect(dead_code, reason = "shared with the tests of the device, which use the rest")]
mod server;
mod traps;
#[path = "../support/tree.rs"]
mod tree;
mod units;
mod upgrade;
mod vm;

use crate::container::alone;

/// Runs a test's body on a machine of its own.
fn on_a_machine<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    alone(test, || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    });
}
