//! The scene of a rotation: a sandboxed host with a real LUKS volume that two people and the agent
//! open, and whoever holds the recovery key.

use std::path::{Path, PathBuf};
use std::process::Command;

use agent::execute::rotate::{CryptoLock, Manage, ManagedVolumes, PATIENCE, RotateCredentials};
use agent::execute::{Executor, Task};
use agent::host::Host;
use protocol::action::{self, Action, Credential};
use protocol::escrow;
use protocol::fixture;
use protocol::sealed::CaseSecret;
use runtime::Entropy;
use std::time::Duration;
use tempfile::TempDir;

use crate::support::host::sandbox;
// Who opens the volume besides the agent has the passphrases.
use crate::support::luks::{self, WEAK};
pub(crate) use crate::support::luks::{FORMATS, PASSPHRASES as USERS, cryptsetup, opens};

const VOLUME_BYTES: u64 = 6 * 1024 * 1024;

pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) volume: PathBuf,
    _folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::of("luks2")
    }

    /// With a volume of that format, which the agent manages.
    pub(crate) fn of(version: &str) -> Self {
        let scene = Self::unmanaged(version);
        scene.manage(USERS[0]);
        scene
    }

    pub(crate) fn unmanaged(version: &str) -> Self {
        let (host, folder) = sandbox();
        let volume = folder.path().join("volume");
        format(&volume, version);
        Self { host, volume, _folder: folder }
    }

    /// Lets the agent manage the volume, on that passphrase's authority.
    pub(crate) fn manage(&self, passphrase: &str) {
        let path = self.volume.clone();
        let manage = Manage { path, recovery_slot: None, in_the_clear: true };
        let passphrase = passphrase.as_bytes();
        ManagedVolumes::add(&self.host, &manage, passphrase, &Entropy::system()).unwrap();
    }
}

/// The rotation of the volumes for the holder of nines.
pub(crate) fn rotate() -> RotateCredentials {
    patient(Credential::Volumes, PATIENCE)
}

/// A rotation that waits so long for a tool.
pub(crate) fn patient(credential: Credential, patience: Duration) -> RotateCredentials {
    let Action::RotateCredentials(params) = fixture::rotate(credential) else {
        unreachable!("it is a rotation")
    };
    RotateCredentials::patient(params, patience)
}

pub(crate) fn crypto_lock() -> CryptoLock {
    CryptoLock::new(&action::CryptoLock { recovery_key: holder().public().unwrap() })
}

fn holder() -> CaseSecret {
    CaseSecret::new([9; 32])
}

/// What the holder of the recovery key reads in what goes into escrow.
pub(crate) fn escrowed(executor: &dyn Executor, host: &Host, task: &Task) -> String {
    let escrowing = executor.escrow(host, task).expect("there is something to escrow");
    assert_eq!(escrowing.recovery_key, holder().public().unwrap());
    let about = format!("escrow {}", task.command_id);
    let opened = holder().open(&escrowing.sealed, about.as_bytes()).unwrap();
    let credentials: Vec<escrow::Credential> = serde_json::from_slice(&opened).unwrap();
    let [credential] = &*credentials else { panic!("one credential") };
    assert_eq!(escrowing.subjects, std::slice::from_ref(&credential.subject));
    credential.secret.clone()
}

/// Formats a file as a volume that both users open.
pub(crate) fn format(path: &Path, version: &str) {
    let command = ["-q", "luksFormat", "--type", version, "--offset", "8192"];
    luks::format(path, VOLUME_BYTES, &command);
}

/// Lets somebody else open the volume as well.
pub(crate) fn let_in(scene: &Scene, passphrase: &str) {
    let first = scene.volume.with_extension("first");
    let command = ["-q", "luksAddKey", "--key-file", first.to_str().unwrap()];
    let volume = scene.volume.to_str().unwrap();
    assert!(cryptsetup(&[&command[..], &WEAK, &[volume]].concat(), passphrase));
}

/// Fills every keyslot of a LUKS1 volume that is left.
pub(crate) fn fill(scene: &Scene) {
    while slots(&scene.volume).len() < 8 {
        let_in(scene, "somebody");
    }
}

/// The keyslots in use, with their salts, as `cryptsetup` shows them.
pub(crate) fn slots(volume: &Path) -> Vec<String> {
    let output = Command::new("/usr/sbin/cryptsetup").arg("luksDump").arg(volume).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tokens = lines.iter().position(|line| *line == "Tokens:").unwrap_or(lines.len());
    let begins = |line: &str| line.ends_with(": ENABLED") || line.ends_with(": luks2");
    let starts = (0..tokens).filter(|at| begins(lines[*at]));
    let slot = |at: usize| {
        let salt = (at..tokens).find(|at| lines[*at].starts_with("Salt:")).unwrap();
        format!("{} {} {}", lines[at], lines[salt], lines[salt + 1])
    };
    starts.map(slot).collect()
}
