//! The endpoint as the executors see it: everything they may touch, named explicitly.
//!
//! On an enrolled machine the roots are `/`; in a sandbox they are a chroot, a private D-Bus and
//! files that stand for volumes. Nothing outside a `Host` may be read or changed by an executor.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What executors may touch.
#[derive(Debug, Clone)]
pub struct Host {
    /// Root of the endpoint's file system.
    pub root: PathBuf,
    /// The agent's state directory, for what must outlive a reboot.
    pub state_dir: PathBuf,
    /// Address of the system D-Bus, as `DBUS_SYSTEM_BUS_ADDRESS` spells it; `None`: no bus here.
    pub dbus_address: Option<String>,
    /// Addresses of hubs and control plane, from the signed configuration.
    pub control_plane: Vec<SocketAddr>,
    /// Volumes (block devices or files) that a wipe destroys, in this order.
    pub wipe_targets: Vec<PathBuf>,
    /// Accounts that a lock leaves open.
    pub break_glass: Vec<String>,
    /// What powering off means here.
    pub power: Power,
    /// Whether executors act at all.
    pub arming: Arming,
}

/// What powering off means on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// The machine goes down.
    Real,
    /// A sandbox: a line is appended to this file instead.
    Recorded(PathBuf),
}

/// Whether executors act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arming {
    /// They act on this machine: only an enrolled agent that was told so.
    Armed,
    /// They act inside a sandbox that the roots above name.
    Sandboxed,
    /// They act on nothing: each effect is one line in `state_dir/effects.log`.
    Simulated,
}

impl Host {
    /// A path of the endpoint, below this host's root.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }
}
