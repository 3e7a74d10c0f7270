//! The endpoint as the executors see it: everything they may touch, named explicitly.
//!
//! On an enrolled machine the roots are `/`; in a sandbox they are a chroot, a private D-Bus and
//! files that stand for volumes. Nothing outside a `Host` may be read or changed by an executor.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use protocol::receipt::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::addresses::AddressBook;
use crate::execute::course::Course;
use crate::execute::failure;
use crate::execute::quarantine::Firewall;
use crate::execute::tool::Tool;
use crate::execute::wipe;
use crate::identity;
use crate::recognise::Recognise;

#[cfg(test)]
mod tests;

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
    /// Where they were met; all copies of a host share it.
    pub book: AddressBook,
    /// Tells hubs and control plane from whoever answers at their addresses.
    pub recognise: Arc<dyn Recognise>,
    /// The process's hold on a quarantine's tables; all copies of a host share it.
    pub firewall: Firewall,
    /// How long a new quarantine may wait for the control plane before it is rolled back.
    pub confirm_within: Duration,
    /// Volumes (block devices or files) that a wipe destroys, in this order; empty: those that the
    /// machine itself shows.
    pub wipe_targets: Vec<PathBuf>,
    /// Volumes that hold the company's data and nothing else: what a selective wipe destroys.
    pub company_volumes: Vec<PathBuf>,
    /// Directories that fscrypt encrypts, as the endpoint names them, with the company's data and nothing else: a
    /// selective wipe destroys their keys.
    pub company_directories: Vec<PathBuf>,
    /// Users of systemd-homed whose homes are the company's: a selective wipe destroys their keys.
    pub company_homes: Vec<String>,
    /// Codes on the labels of drives, by which a wipe has Opal drives erase themselves.
    pub psids: Psids,
    /// The TPM that a wipe clears.
    pub tpm: WipedTpm,
    /// What the programs of this machine lie on.
    pub ground: Ground,
    /// Accounts that a lock leaves open.
    pub break_glass: Vec<String>,
    /// Who becomes root on a locked device.
    pub superuser: Superuser,
    /// What powering off means here.
    pub power: Power,
    /// Whether executors act at all.
    pub arming: Arming,
    /// How scripts are run.
    pub scripts: ScriptConfig,
    /// How long the step that is on this host may take, and whether anybody waits for it.
    pub course: Course,
}

/// How scripts are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptConfig {
    /// The program that watches over a script in a process of its own: this agent. The running one
    /// when left out.
    pub supervisor: Option<PathBuf>,
    /// The account that scripts run as, unless an order says root.
    pub account: String,
}

impl Default for ScriptConfig {
    fn default() -> Self {
        Self { supervisor: None, account: "nobody".to_owned() }
    }
}

/// Codes on the labels of drives (PSID), by serial number. Whoever has one can erase the drive and nothing else.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Psids(BTreeMap<String, String>);

impl Psids {
    /// The code of the drive with that serial number.
    pub fn of(&self, serial: &str) -> Option<&str> {
        self.0.get(serial).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Psids {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(psids: T) -> Self {
        Self(psids.into_iter().collect())
    }
}

impl fmt::Debug for Psids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The TPM that a wipe clears. Copies are about the same one.
#[derive(Debug, Clone, Default)]
pub struct WipedTpm {
    /// Where it is; nowhere in a sandbox that does not name one.
    pub path: Option<PathBuf>,
    /// The device's own key is in it: then it is cleared when the power goes, and not before.
    pub holds_device_key: bool,
    is_due: Arc<AtomicBool>,
}

impl WipedTpm {
    /// That one.
    pub fn at(path: PathBuf, holds_device_key: bool) -> Self {
        Self { path: Some(path), holds_device_key, is_due: Arc::default() }
    }

    /// Where it is, if it is there.
    pub fn there(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| path.exists())
    }

    /// From now on it goes with the power.
    pub fn goes_with_power(&self) {
        self.is_due.store(true, Ordering::SeqCst);
    }
}

/// What the running system's programs lie on. Copies are about the same.
#[derive(Debug, Clone, Default)]
pub struct Ground(Arc<AtomicBool>);

impl Ground {
    /// From now on it is being erased: programs that are started may be anything.
    pub fn goes(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is being erased, or is gone.
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Who becomes root on a locked device. Root itself logs in only where it is a break-glass account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Superuser {
    /// Break-glass, by `sudo`: whoever is called to a locked device can mend it.
    #[default]
    FromBreakGlass,
    /// Nobody.
    Refused,
}

/// How a device goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It stays off.
    PowerOff,
    /// It comes up again.
    Reboot,
}

impl Shutdown {
    /// The stage that failures name.
    const fn stage(self) -> &'static str {
        match self {
            Self::PowerOff => "power_off",
            Self::Reboot => "reboot",
        }
    }

    /// For the service manager, and for the kernel.
    const fn words(self) -> (&'static str, RebootMode) {
        match self {
            Self::PowerOff => ("poweroff", RebootMode::RB_POWER_OFF),
            Self::Reboot => ("reboot", RebootMode::RB_AUTOBOOT),
        }
    }
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

    /// The root of the endpoint for looking at it. The agent's service has a `/tmp` of its own, and mounts that
    /// are read-only for it alone; what people and programs there see is the first process's.
    pub fn everybodys_root(&self) -> PathBuf {
        let first = Path::new("/proc/1/root");
        let is_reached = self.root == Path::new("/") && std::fs::metadata(first).is_ok();
        if is_reached { first.to_owned() } else { self.root.clone() }
    }

    /// After a wipe, the TPM whose key had to sign the receipt. The power goes whatever becomes of it.
    fn clear_tpm_when_due(&self) {
        let Some(path) = self.tpm.there() else { return };
        if !self.tpm.is_due.load(Ordering::SeqCst) && !wipe::owes_tpm(self) {
            return;
        }
        match identity::clear_tpm(path) {
            Ok(cleared) => tracing::warn!(?cleared, "tpm cleared with the power"),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "tpm was not cleared");
            }
        }
    }

    /// Powers the device off or starts it again, in the sense this host gives to it.
    ///
    /// The service manager is asked first, so that file systems are left clean; when it is not
    /// there or declines, the kernel is told directly (reboot(2)). So it is where the programs are gone: a
    /// service manager that has none to run at the end would stand still with the power on, and what is still in memory
    /// would be written behind the eraser.
    ///
    /// # Errors
    /// `Internal` when only an armed host may do that and this one is not; `Io` or `Permission`
    /// when it did not work.
    pub fn shut_down(&self, how: Shutdown) -> Result<(), Failure> {
        match how {
            Shutdown::PowerOff => self.clear_tpm_when_due(),
            Shutdown::Reboot => {}
        }
        match (&self.power, self.arming) {
            (Power::Recorded(path), _) => {
                record(path, how).map_err(|error| failure(FailureKind::Io, how.stage(), error))
            }
            (Power::Real, Arming::Armed) if self.ground.is_gone() || wipe::took_system(self) => {
                by_kernel(how)
            }
            (Power::Real, Arming::Armed) => really(how),
            (Power::Real, Arming::Sandboxed | Arming::Simulated) => {
                let detail = "a host that is not armed would have shut this machine down";
                Err(failure(FailureKind::Internal, how.stage(), detail))
            }
        }
    }
}

fn record(path: &Path, how: Shutdown) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{}\n", how.stage()).as_bytes())?;
    file.sync_all()
}

fn really(how: Shutdown) -> Result<(), Failure> {
    let (stage, (word, _)) = (how.stage(), how.words());
    let asked = Tool::find("systemctl", stage).and_then(|systemctl| {
        systemctl.args(["--no-block", "--no-wall", "-i", word]).run_ok(stage)
    });
    match asked {
        Ok(_) => Ok(()),
        Err(declined) => {
            tracing::warn!(error = declined.detail, word, "service manager declined");
            nix::unistd::sync();
            by_kernel(how)
        }
    }
}

fn by_kernel(how: Shutdown) -> Result<(), Failure> {
    match reboot(how.words().1) {
        Ok(never) => match never {},
        Err(error) => Err(failure(FailureKind::Permission, how.stage(), error)),
    }
}
