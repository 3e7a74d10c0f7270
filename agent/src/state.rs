//! The state directory: what a device is and what it believes, each document whole or absent.
//!
//! Owns its lock (one agent per directory), the enrollment, the chain of trust roots, and the
//! lower bound of time. The journal and the executors' documents lie in the same folder and have
//! modules of their own.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::id::DeviceId;
use protocol::jws::CompactJws;
use protocol::time::Timestamp;
use protocol::trust::{SignedTrustRoot, TrustError, TrustRoot};
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Bytes of the largest document: two trust roots with all the signatures they may carry.
const DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// How far the lower bound of time moves before it is written again.
const FLOOR_STEP: Duration = Duration::from_secs(60);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or its lock file cannot be opened.
    #[error("state directory {} is unavailable", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent runs on it.
    #[error("state directory {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// A document cannot be read or written.
    #[error("a document of the state directory is unavailable")]
    File(#[from] FileError),
    /// A document is not what it should be.
    #[error("{name} in the state directory is damaged")]
    Damaged {
        /// The document's file name.
        name: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The trust roots on disk do not follow from one another.
    #[error("the trust roots on disk are not sound")]
    Trust(#[from] TrustError),
    /// There is no enrollment here.
    #[error("{} holds no enrollment; run `tocsin-agent enroll` first", .0.display())]
    NotEnrolled(PathBuf),
}

/// A state directory that this process alone uses.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Who this device became at enrollment, and its certificate of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// The device.
    pub device_id: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// Its certificate chain, leaf first, PEM.
    pub certificate: String,
    /// The authorities of hubs and control plane, PEM.
    pub ca: String,
    /// The newest signed configuration.
    pub config: CompactJws,
}

const ENROLLMENT: &str = "enrollment.json";
const TRUST: &str = "trust-roots.json";
const TRUST_MARK: &str = "trust-version.json";
const TIME: &str = "time.json";
const CHECKPOINT: &str = "checkpoint.json";

impl StateDir {
    /// Opens the folder, makes it when it is missing, and locks it.
    ///
    /// # Errors
    /// [`StateError::InUse`] when another process has it, [`StateError::Folder`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Folder { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the device's private key lies.
    pub fn key_path(&self) -> PathBuf {
        self.path.join("device.key")
    }

    /// Where the journal of that enrollment lies. Each enrollment numbers its commands anew, so
    /// each has a journal of its own.
    pub fn journal_path(&self, enrollment: &Enrollment) -> PathBuf {
        let Enrollment { device_id, generation, .. } = enrollment;
        self.path.join(format!("journal-{device_id}-{generation}"))
    }

    /// The enrollment, if there is one.
    ///
    /// # Errors
    /// [`StateError::File`] or [`StateError::Damaged`].
    pub fn enrollment(&self) -> Result<Option<Enrollment>, StateError> {
        load(&self.path, ENROLLMENT)
    }

    /// What is remembered of the control plane's audit log, if anything is.
    pub(crate) fn checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        load(&self.path, CHECKPOINT)
    }

    /// Replaces what is remembered of the control plane's audit log.
    pub(crate) fn save_checkpoint<T: Serialize>(&self, document: &T) -> Result<(), StateError> {
        save(&self.path, CHECKPOINT, document)
    }

    /// Replaces the enrollment, durably: this is the moment a machine becomes a device.
    ///
    /// # Errors
    /// [`StateError::File`]; the former one stands.
    pub fn save_enrollment(&self, enrollment: &Enrollment) -> Result<(), StateError> {
        save(&self.path, ENROLLMENT, enrollment)
    }
}

/// The trust root in force, and what vouches for it.
///
/// On disk lie two versions: the one in force, and the one before it, whose root keys signed it.
/// That is enough to see that the file is whole, and to prove the next version; older ones prove
/// nothing more to a device that believed them once, and would grow for ever. The number of the
/// newest version lies in a file of its own, so that an earlier trust root that is put back is
/// noticed. A whole state directory that is put back is not: then only the control plane sees
/// that `hello` tells of older numbers than before.
#[derive(Debug)]
pub struct TrustChain {
    folder: PathBuf,
    /// The newest two versions, or the only one.
    chain: Vec<SignedTrustRoot>,
    in_force: TrustRoot,
    /// The newest version that was ever in force here.
    newest: u32,
}

impl TrustChain {
    /// Pins a first trust root in that state directory, in place of any other.
    ///
    /// # Errors
    /// [`StateError::Trust`] when it is not sound, [`StateError::File`].
    pub fn pin(state: &StateDir, first: SignedTrustRoot) -> Result<Self, StateError> {
        let in_force = first.pin()?;
        let (chain, newest) = (vec![first], in_force.version);
        // In this order: between the two the mark is too low at worst, which accuses nobody.
        save(&state.path, TRUST_MARK, &newest)?;
        save(&state.path, TRUST, &chain)?;
        Ok(Self { folder: state.path.clone(), chain, in_force, newest })
    }

    /// The trust root in force: the versions on disk, verified link by link.
    ///
    /// # Errors
    /// [`StateError::NotEnrolled`] when nothing is pinned, else [`StateError`].
    pub fn load(state: &StateDir) -> Result<Self, StateError> {
        let chain: Vec<SignedTrustRoot> =
            load(&state.path, TRUST)?.ok_or_else(|| StateError::NotEnrolled(state.path.clone()))?;
        let mut links = chain.iter();
        let first = links.next().ok_or_else(|| StateError::NotEnrolled(state.path.clone()))?;
        let in_force = links.try_fold(first.pin()?, |current, next| next.succeed(&current))?;
        let mark: u32 = load(&state.path, TRUST_MARK)?.unwrap_or_default();
        let newest = mark.max(in_force.version);
        Ok(Self { folder: state.path.clone(), chain, in_force, newest })
    }

    /// The trust root in force.
    pub const fn in_force(&self) -> &TrustRoot {
        &self.in_force
    }

    /// Whether a newer version was in force here before: somebody put an earlier one back. What
    /// it allows may have been withdrawn since, so nothing is believed until the newest is back.
    pub const fn is_rolled_back(&self) -> bool {
        self.in_force.version < self.newest
    }

    /// Puts the next version in force, once it is on disk.
    ///
    /// # Errors
    /// [`StateError::Trust`] when it does not follow, [`StateError::File`]; the former stands.
    pub fn succeed(&mut self, next: SignedTrustRoot) -> Result<(), StateError> {
        let in_force = next.succeed(&self.in_force)?;
        let chain: Vec<_> = self.chain.last().cloned().into_iter().chain([next]).collect();
        save(&self.folder, TRUST, &chain)?;
        (self.chain, self.in_force) = (chain, in_force);
        if self.in_force.version > self.newest {
            self.newest = self.in_force.version;
            if let Err(error) = save(&self.folder, TRUST_MARK, &self.newest) {
                // The version is in force all the same; the next one raises the mark again.
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "version of the trust root was not marked");
            }
        }
        Ok(())
    }
}

/// The lower bound of time: a clock that was set back does not make an old envelope valid again.
#[derive(Debug)]
pub struct TimeFloor {
    folder: PathBuf,
    document: TimeDocument,
    saved: Timestamp,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeDocument {
    floor: Timestamp,
    /// Commands signed before this are not believed to be new: the journal that knew was damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distrust_before: Option<Timestamp>,
}

impl TimeFloor {
    /// The lower bound on disk; zero when there is none.
    ///
    /// # Errors
    /// [`StateError::File`] or [`StateError::Damaged`].
    pub fn load(state: &StateDir) -> Result<Self, StateError> {
        let document: TimeDocument = load(&state.path, TIME)?.unwrap_or_default();
        Ok(Self { folder: state.path.clone(), document, saved: document.floor })
    }

    /// The later of the clock and everything seen before.
    pub fn now(&self, clock: Timestamp) -> Timestamp {
        clock.max(self.document.floor)
    }

    /// Takes a time that was seen, of the own clock or a server's, but never beyond `cap`: a hub
    /// that lies about the time must not make every later command look expired for ever. Whether
    /// the bound has moved far enough to be written.
    pub fn raise(&mut self, seen: Timestamp, cap: Timestamp) -> bool {
        let floor = seen.min(cap);
        self.document.floor = floor.max(self.document.floor);
        self.document.floor.since(self.saved) >= FLOOR_STEP
    }

    /// The time before which a signature does not make a command new.
    pub const fn distrust_before(&self) -> Option<Timestamp> {
        self.document.distrust_before
    }

    /// From now on distrusts what was signed before `now`: records are missing.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn distrust(&mut self, now: Timestamp) -> Result<(), StateError> {
        self.document.distrust_before = Some(now.max(self.document.floor));
        self.save()
    }

    /// Writes the bound.
    ///
    /// # Errors
    /// [`StateError::File`]; the bound holds in memory all the same.
    pub fn save(&mut self) -> Result<(), StateError> {
        save(&self.folder, TIME, &self.document)?;
        self.saved = self.document.floor;
        Ok(())
    }
}

fn load<T: DeserializeOwned>(folder: &Path, name: &'static str) -> Result<Option<T>, StateError> {
    let bytes = match read_bounded(&folder.join(name), DOCUMENT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let document = serde_json::from_slice(&bytes);
    document.map(Some).map_err(|source| StateError::Damaged { name, source })
}

fn save<T: Serialize>(folder: &Path, name: &'static str, document: &T) -> Result<(), StateError> {
    let bytes =
        serde_json::to_vec(document).map_err(|source| StateError::Damaged { name, source })?;
    Ok(write_atomic(&folder.join(name), &bytes, PRIVATE)?)
}
