//! The volumes whose keys this agent manages, and the key by which it does.
//!
//! A keyslot of its own on each, whose key lies in the state directory: without one no keyslot can
//! be added, and the volume's own key is the kernel's. So the state directory must lie on an
//! encrypted volume itself, or whoever has the disk has the key.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::receipt::{Failure, FailureKind};
use runtime::Entropy;
use runtime::files::{PRIVATE, write_atomic};
use serde::{Deserialize, Serialize};

use super::keyslots::{Key, Keyslots, Mark};
use super::secret::Secret;
use crate::execute::failure;
use crate::execute::state_file::StateFile;
use crate::execute::wipe::volume::hindrance;
use crate::host::Host;

/// The folder of the keys in the state directory.
const FOLDER: &str = "volume-keys";
/// The stage that failures of managing name.
const STAGE: &str = "manage";
/// Devices that may stand on one another.
const DEPTH: usize = 16;

/// The volumes by their UUIDs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedVolumes {
    pub(super) volumes: BTreeMap<String, ManagedVolume>,
}

impl StateFile for ManagedVolumes {
    const NAME: &'static str = "volumes.json";
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagedVolume {
    /// Where it is.
    pub(super) path: PathBuf,
    /// The agent's own keyslot; none after a crypto lock.
    pub(super) own: Option<Mark>,
    /// The keyslot whose key is in escrow, if one is, or the one that the first rotation replaces.
    pub(super) recovery: Option<Mark>,
}

/// What is to be managed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manage {
    /// The volume.
    pub path: PathBuf,
    /// The keyslot of a recovery key that the first rotation replaces, if there is one.
    pub recovery_slot: Option<u32>,
    /// Whether the key may lie on a disk that is not encrypted.
    pub in_the_clear: bool,
}

/// Where the agent's own key for that volume lies.
pub(super) fn key_file(host: &Host, uuid: &str) -> PathBuf {
    host.state_dir.join(FOLDER).join(uuid)
}

impl ManagedVolumes {
    /// Begins to manage a volume, on the authority of a passphrase that opens it. Does nothing to
    /// one that is managed already.
    ///
    /// # Errors
    /// `Precondition` when it is no LUKS volume, has no room, or the key would lie in the clear;
    /// `Tool` when the passphrase does not open it.
    pub fn add(
        host: &Host,
        manage: &Manage,
        passphrase: &[u8],
        entropy: &Entropy,
    ) -> Result<(), Failure> {
        let mut managed = Self::load(host, STAGE)?.unwrap_or_default();
        let path = manage.path.canonicalize().map_err(|error| {
            failure(FailureKind::Io, STAGE, format_args!("{}: {error}", manage.path.display()))
        })?;
        let keyslots = Keyslots::of(host, &path, super::PATIENCE);
        let lacks = |detail: &str| keyslots.failure(FailureKind::Precondition, STAGE, detail);
        if !manage.in_the_clear && !is_encrypted(&host.state_dir) {
            return Err(lacks(
                "the state directory lies on no encrypted volume, and so would its key",
            ));
        }
        let keys = keyslots.look(STAGE)?;
        let file = key_file(host, &keys.uuid);
        let known = managed.volumes.get(&keys.uuid);
        let own = known.and_then(|known| known.own.clone());
        let works = |mark: &Mark| keyslots.opens(mark.slot, Key::File(&file), STAGE);
        let own = match own.filter(|mark| file.is_file() && works(mark).unwrap_or(false)) {
            Some(own) => own,
            None => {
                let slot = keys.free_slot().ok_or_else(|| lacks("no keyslot is free"))?;
                write_key(host, &file, entropy)?;
                keyslots.add_file(slot, &file, passphrase, STAGE)?
            }
        };
        let recovery = match manage.recovery_slot {
            Some(slot) => {
                Some(keyslots.mark(slot, STAGE)?.ok_or_else(|| lacks("that keyslot is empty"))?)
            }
            None => known.and_then(|known| known.recovery.clone()),
        };
        managed.volumes.insert(keys.uuid, ManagedVolume { path, own: Some(own), recovery });
        managed.save(host, STAGE)
    }
}

fn write_key(host: &Host, file: &Path, entropy: &Entropy) -> Result<(), Failure> {
    let io = |error: &dyn std::fmt::Display| failure(FailureKind::Io, STAGE, error);
    let folder = host.state_dir.join(FOLDER);
    if !folder.is_dir() {
        fs::create_dir(&folder).map_err(|error| io(&error))?;
    }
    let secret = Secret::new(entropy.bytes());
    write_atomic(file, secret.reveal().as_bytes(), PRIVATE).map_err(|error| io(&error))
}

impl ManagedVolume {
    /// The keyslots, the file of the agent's own key, and its keyslot, if the volume is the one
    /// that is meant and takes that key.
    pub(super) fn checked(
        &self,
        (host, uuid): (&Host, &str),
        patience: Duration,
        stage: &str,
    ) -> Result<(Keyslots, PathBuf, Mark), Failure> {
        let keyslots = Keyslots::of(host, &self.path, patience);
        let lacks = |detail: &str| Err(keyslots.failure(FailureKind::Precondition, stage, detail));
        if let Some(why) = hindrance(&self.path) {
            return lacks(&why);
        }
        if keyslots.look(stage)?.uuid != uuid {
            return lacks("it is another volume than the one that is managed");
        }
        let file = key_file(host, uuid);
        let Some(own) = self.own.clone() else {
            return lacks("it was locked, and is not managed any more");
        };
        if !file.is_file() || !keyslots.opens(own.slot, Key::File(&file), stage)? {
            return lacks("the agent's own key does not open it any more");
        }
        Ok((keyslots, file, own))
    }
}

/// Whether a folder lies on an encrypted volume, as sysfs shows the devices below it.
fn is_encrypted(folder: &Path) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return false };
    let (major, minor) =
        (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    is_encrypted_device(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")), DEPTH)
}

/// All that a device stands on must be encrypted.
fn is_encrypted_device(device: &Path, depth: usize) -> bool {
    let is_mapping =
        fs::read_to_string(device.join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("CRYPT-"));
    let below = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let mut below = below.map(|entry| entry.path()).peekable();
    is_mapping
        || depth > 0
            && below.peek().is_some()
            && below.all(|device| is_encrypted_device(&device, depth - 1))
}
