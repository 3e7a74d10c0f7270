//! The agent's configuration, `agent.toml`.
//!
//! Owns the settings, their defaults and their judgement. Reads no file: `main` does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::limits;
use runtime::observability::ObservabilityConfig;
use serde::Deserialize;

use crate::addresses::AddressBook;
use crate::execute::course::Course;
use crate::execute::quarantine::Firewall;
use crate::host::{Arming, Ground, Host, Power, Psids, ScriptConfig, Superuser, WipedTpm};
use crate::identity::{KeyPlace, Made};
use crate::recognise::Nobody;

#[cfg(test)]
mod tests;

/// Where the system D-Bus listens unless somebody says otherwise.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Everything that can be set. Every field may be left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The state directory; `/var/lib/tocsin-agent`.
    pub state_dir: PathBuf,
    /// What to log.
    pub log: ObservabilityConfig,
    /// What keeps the device's key.
    pub key: KeyConfig,
    /// What executors may touch.
    pub host: HostConfig,
    /// Addresses in place of the signed ones, for test benches.
    pub addresses: AddressConfig,
    /// How patient the agent is.
    pub ladder: LadderConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/tocsin-agent"),
            log: ObservabilityConfig::default(),
            key: KeyConfig::default(),
            host: HostConfig::default(),
            addresses: AddressConfig::default(),
            ladder: LadderConfig::default(),
        }
    }
}

/// What keeps the device's key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyConfig {
    /// Where a new key is made; `auto`.
    pub place: KeyPlaceConfig,
    /// The TPM: a device, or the socket of one in software; `/dev/tpmrm0`.
    pub tpm: PathBuf,
}

impl Default for KeyConfig {
    fn default() -> Self {
        Self { place: KeyPlaceConfig::Auto, tpm: PathBuf::from("/dev/tpmrm0") }
    }
}

/// Where a new key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPlaceConfig {
    /// In the TPM where there is one that works, else in a file. In a sandbox always in a file.
    Auto,
    /// In a file.
    File,
    /// In the TPM, and nowhere else.
    Tpm,
}

/// What executors may touch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Whether executors act; `off`.
    pub arming: ArmingConfig,
    /// Root of the endpoint's file system; `/`.
    pub root: PathBuf,
    /// Address of the system D-Bus; the system's own when left out, none when empty.
    pub dbus: Option<String>,
    /// Volumes (block devices or files) that a wipe destroys, in this order; empty: the LUKS
    /// volumes under whatever is mounted, swapped to or named in crypttab.
    pub wipe_targets: Vec<PathBuf>,
    /// Volumes that hold the company's data and nothing else, for a selective wipe; none.
    pub company_volumes: Vec<PathBuf>,
    /// Directories that fscrypt encrypts and that hold the company's data and nothing else, for a selective wipe; none.
    pub company_directories: Vec<PathBuf>,
    /// Users of systemd-homed whose homes hold the company's data and nothing else, for a selective wipe; none.
    pub company_homes: Vec<String>,
    /// Codes on the labels of drives (PSID) by serial number, for Opal drives that a wipe erases; none.
    pub psids: Psids,
    /// Accounts that a lock leaves open; none.
    pub break_glass: Vec<String>,
    /// Who becomes root on a locked device; `from_break_glass`.
    pub superuser: Superuser,
    /// What powering off means; `real`.
    pub power: PowerConfig,
    /// How scripts are run.
    pub scripts: ScriptConfig,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            arming: ArmingConfig::Off,
            root: PathBuf::from("/"),
            dbus: None,
            wipe_targets: Vec::new(),
            company_volumes: Vec::new(),
            company_directories: Vec::new(),
            company_homes: Vec::new(),
            psids: Psids::default(),
            break_glass: Vec::new(),
            superuser: Superuser::default(),
            power: PowerConfig::Real,
            scripts: ScriptConfig::default(),
        }
    }
}

/// Whether executors act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArmingConfig {
    /// Routine verbs only; everything else is refused with `not_armed`.
    Off,
    /// They act on this machine.
    Armed,
    /// They act inside the sandbox that the other settings of the host name.
    Sandboxed,
    /// Each effect is one line in `effects.log`, and nothing else.
    Simulated,
}

/// What powering off means.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerConfig {
    /// The machine goes down.
    Real,
    /// One line is appended to this file instead.
    Record(PathBuf),
}

/// Addresses in place of the signed ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddressConfig {
    /// Agent ports of hubs, `host:port`; empty: the signed ones.
    pub hubs: Vec<String>,
    /// Agent ports of the control plane, `host:port`; empty: the signed ones.
    pub api: Vec<String>,
    /// Authorities (PEM file) in place of those of the enrollment.
    pub ca: Option<PathBuf>,
}

/// How patient the agent is. Shorter than the defaults only in tests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LadderConfig {
    /// Failed attempts in a row before the next rung is taken; 3.
    pub attempts: u32,
    /// First ceiling of the back-off between attempts; 1 s.
    #[serde(with = "runtime::config::duration")]
    pub backoff_base: Duration,
    /// Last ceiling of the back-off; 2 min.
    #[serde(with = "runtime::config::duration")]
    pub backoff_cap: Duration,
    /// For name resolution, TCP and TLS together; 10 s.
    #[serde(with = "runtime::config::duration")]
    pub connect_timeout: Duration,
    /// How long a hub may hold a long-poll; 50 s.
    #[serde(with = "runtime::config::duration")]
    pub long_poll_hold: Duration,
    /// Interval of check-ins on the last rung, ± 20 %; 60 s.
    #[serde(with = "runtime::config::duration")]
    pub check_in: Duration,
    /// The same while a command runs; 15 s.
    #[serde(with = "runtime::config::duration")]
    pub check_in_running: Duration,
    /// The longest interval of check-ins under a healthy session; 15 min.
    #[serde(with = "runtime::config::duration")]
    pub check_in_healthy: Duration,
    /// First and shortest wait before a receipt without confirmation is sent again; 5 s.
    #[serde(with = "runtime::config::duration")]
    pub resend: Duration,
    /// How long a final power-off waits for the confirmation of its receipt; 10 s.
    #[serde(with = "runtime::config::duration")]
    pub power_off_wait: Duration,
    /// How long one step of a command may take, unless its verb needs longer; 10 min.
    #[serde(with = "runtime::config::duration")]
    pub step: Duration,
    /// How long a new credential waits until it is in escrow before it is taken back; 60 s.
    #[serde(with = "runtime::config::duration")]
    pub escrow_wait: Duration,
    /// How long a new quarantine waits for the control plane before it is rolled back; 60 s.
    #[serde(with = "runtime::config::duration")]
    pub confirm: Duration,
    /// How often a quarantine is looked at, and put up again when somebody took it down; 30 s.
    #[serde(with = "runtime::config::duration")]
    pub uphold: Duration,
}

impl Default for LadderConfig {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff_base: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(10),
            long_poll_hold: limits::LONG_POLL_HOLD,
            check_in: limits::CHECK_IN,
            check_in_running: limits::CHECK_IN_RUNNING,
            check_in_healthy: limits::CHECK_IN_HEALTHY,
            resend: Duration::from_secs(5),
            power_off_wait: Duration::from_secs(10),
            step: Duration::from_secs(600),
            escrow_wait: Duration::from_secs(60),
            confirm: Duration::from_secs(60),
            uphold: Duration::from_secs(30),
        }
    }
}

/// A configuration that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// Real power-off on a host that is not armed.
    #[error("host.power must be {{ record = \"<file>\" }} unless host.arming is armed or off")]
    Power,
    /// A sandbox whose root is the machine's.
    #[error("host.root must not be / when host.arming is sandboxed")]
    Sandbox,
    /// An interval of zero.
    #[error("ladder.{0} must be longer than zero")]
    Zero(&'static str),
    /// An address without a port.
    #[error("addresses: {0:?} is not host:port")]
    Address(String),
}

impl Config {
    /// Judges the whole.
    ///
    /// # Errors
    /// The first thing that cannot be meant.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let is_real = self.host.power == PowerConfig::Real;
        match self.host.arming {
            ArmingConfig::Off | ArmingConfig::Armed => {}
            ArmingConfig::Sandboxed if self.host.root == Path::new("/") => {
                return Err(InvalidConfig::Sandbox);
            }
            ArmingConfig::Sandboxed | ArmingConfig::Simulated if is_real => {
                return Err(InvalidConfig::Power);
            }
            ArmingConfig::Sandboxed | ArmingConfig::Simulated => {}
        }
        let ladder = &self.ladder;
        let zero = [
            ("attempts", ladder.attempts == 0),
            ("backoff_cap", ladder.backoff_cap.is_zero()),
            ("connect_timeout", ladder.connect_timeout.is_zero()),
            ("long_poll_hold", ladder.long_poll_hold.is_zero()),
            ("check_in", ladder.check_in.is_zero()),
            ("check_in_running", ladder.check_in_running.is_zero()),
            ("check_in_healthy", ladder.check_in_healthy.is_zero()),
            ("resend", ladder.resend.is_zero()),
            ("step", ladder.step.is_zero()),
            ("escrow_wait", ladder.escrow_wait.is_zero()),
            ("confirm", ladder.confirm.is_zero()),
            ("uphold", ladder.uphold.is_zero()),
        ];
        if let Some((name, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(InvalidConfig::Zero(name));
        }
        let odd = self.addresses.hubs.iter().chain(&self.addresses.api).find(|address| {
            address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
        });
        odd.map_or(Ok(()), |address| Err(InvalidConfig::Address(address.clone())))
    }

    /// Whether anything but routine verbs is carried out.
    pub fn is_armed(&self) -> bool {
        self.host.arming != ArmingConfig::Off
    }

    /// What keeps a new key, and where one in a TPM is.
    pub fn key_place(&self) -> KeyPlace {
        let is_sandbox =
            matches!(self.host.arming, ArmingConfig::Sandboxed | ArmingConfig::Simulated);
        let made = match self.key.place {
            KeyPlaceConfig::Auto if is_sandbox => Made::File,
            KeyPlaceConfig::Auto => Made::TpmOrFile,
            KeyPlaceConfig::File => Made::File,
            KeyPlaceConfig::Tpm => Made::Tpm,
        };
        KeyPlace { tpm: self.key.tpm.clone(), made }
    }

    /// Whether executors act on anything but a log of effects.
    pub fn acts(&self) -> bool {
        self.is_armed() && self.host.arming != ArmingConfig::Simulated
    }

    /// The host that executors get. Control-plane addresses are added once they are known.
    pub fn host(&self) -> Host {
        let host = &self.host;
        let dbus = host.dbus.clone().unwrap_or_else(|| SYSTEM_BUS.to_owned());
        Host {
            root: host.root.clone(),
            state_dir: self.state_dir.clone(),
            dbus_address: Some(dbus).filter(|address| !address.is_empty()),
            control_plane: Vec::new(),
            book: AddressBook::default(),
            recognise: Arc::new(Nobody),
            firewall: Firewall::default(),
            confirm_within: self.ladder.confirm,
            wipe_targets: host.wipe_targets.clone(),
            company_volumes: host.company_volumes.clone(),
            company_directories: host.company_directories.clone(),
            company_homes: host.company_homes.clone(),
            psids: host.psids.clone(),
            tpm: match host.arming {
                ArmingConfig::Armed => WipedTpm::at(self.key.tpm.clone(), false),
                // The machine's TPM is not a sandbox's.
                ArmingConfig::Off | ArmingConfig::Sandboxed | ArmingConfig::Simulated => {
                    WipedTpm::default()
                }
            },
            ground: Ground::default(),
            break_glass: host.break_glass.clone(),
            superuser: host.superuser,
            scripts: host.scripts.clone(),
            course: Course::default(),
            power: match &host.power {
                PowerConfig::Real => Power::Real,
                PowerConfig::Record(path) => Power::Recorded(path.clone()),
            },
            arming: match host.arming {
                ArmingConfig::Armed => Arming::Armed,
                // Reads only: nothing but routine verbs reaches an executor.
                ArmingConfig::Off | ArmingConfig::Sandboxed => Arming::Sandboxed,
                ArmingConfig::Simulated => Arming::Simulated,
            },
        }
    }
}
