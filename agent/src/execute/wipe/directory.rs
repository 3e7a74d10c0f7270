//! A directory that fscrypt encrypts: its stored keys are destroyed, and the kernel forgets the one that it has.
//!
//! Owns what is destroyed of one, and the look at what is left. How one stored key goes is the part of `kept`. What
//! wraps such a key (a protector, which may be a person's login) is nobody's to destroy and stays byte for byte.
//! Sources: `linux/fscrypt.h`, the kernel's documentation of fscrypt, fscrypt(1), and systemd's `homework-fscrypt.c`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use drive::file::{self, Policy, Presence};
use nix::errno::Errno;
use protocol::receipt::{Failure, FailureKind};
use runtime::clock::BOOT_ID_PATH;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::kept::{Kept, Place};
use super::destroy::kind_of;
use crate::execute::failure;
use crate::host::Host;

mod kept;
mod medium;
mod users;

/// Entries that are looked at for a file to try.
const ENTRIES: usize = 10_000;

/// One directory of a selective wipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory {
    /// Where it is, as the endpoint names it.
    pub(super) path: PathBuf,
    /// By which key it is encrypted: which directory it is.
    policy: Policy,
    /// Where that key is stored, wrapped.
    kept: Vec<Kept>,
    /// Whether zeros were written over the journals that may have held what is stored.
    #[serde(default)]
    journal: Journal,
    /// The boot in which the last of them went.
    #[serde(default)]
    boot: Option<String>,
}

/// What is known of the journal of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Journal {
    /// Zeros were written over it after the keys were overwritten.
    Erased,
    /// Copies may be in it, until it comes round.
    #[default]
    MayHoldCopies,
}

/// Why a directory does not go, or is not known to be gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// The system says why.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else says why.
    #[error("{}", .0.detail)]
    Failed(Failure),
    /// It is somewhere else.
    #[error("leads out of this endpoint")]
    Outside,
    /// There is no key that could be destroyed.
    #[error(
        "is not encrypted, so there is no key to destroy: encrypt a new directory with `fscrypt encrypt`, move what is \
         the company's there, and name that"
    )]
    NotEncrypted,
    /// Whoever has that key brings it along.
    #[error(
        "is encrypted with a key that is stored neither by fscrypt(1) ({0}) nor by systemd-homed: keep it by one of \
         these, so that it can be destroyed"
    )]
    NotStored(String),
    /// What is there under the name of a stored key is something else.
    #[error("its key {} is not a file with one name and at most 64 KiB", .0.display())]
    NoFile(PathBuf),
    /// Another directory is at this path now.
    #[error("is not the directory that was to be destroyed")]
    Stranger,
    /// It was taken away.
    #[error("its key {0} went before it was destroyed: somebody may have it")]
    Gone(Place),
    /// It was found again, or still.
    #[error("its key {0} is still there")]
    Left(Place),
    /// The file system wrote elsewhere.
    #[error("its key {0} was overwritten, and its old bytes are still on the drive")]
    OldBytes(Place),
    /// The kernel has it.
    #[error("the kernel still has its key{0}")]
    Kernel(String),
    /// Something of it can be read.
    #[error("{} can still be opened", .0.display())]
    Readable(PathBuf),
    /// Keyrings of people are nobody else's to look into.
    #[error(
        "has a policy of version 1, whose key may be in somebody's keyring: restart the device and order again, or make \
         it anew with version 2"
    )]
    Keyring,
}

impl From<Failure> for DirectoryError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl DirectoryError {
    /// What a receipt calls it.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Io(error) => kind_of(error),
            Self::Failed(failure) => failure.kind,
            Self::Outside
            | Self::NotEncrypted
            | Self::NotStored(_)
            | Self::NoFile(_)
            | Self::Stranger => FailureKind::Precondition,
            Self::Gone(_)
            | Self::Left(_)
            | Self::OldBytes(_)
            | Self::Kernel(_)
            | Self::Readable(_)
            | Self::Keyring => FailureKind::NotProven,
        }
    }
}

/// The directories at these paths, each with the keys that are there to be destroyed. `former` are those that an earlier
/// wipe began with.
pub(super) fn all(
    host: &Host,
    paths: &[PathBuf],
    former: &[Directory],
    stage: &str,
) -> Result<Vec<Directory>, Failure> {
    let (mut found, mut wrong): (Vec<Directory>, Vec<String>) = (Vec::new(), Vec::new());
    for path in paths {
        if found.iter().any(|directory| directory.path == *path) {
            continue;
        }
        match inspect(host, path, former) {
            Ok(mut directory) => {
                let is_shared = |kept: &Kept| found.iter().any(|other| other.stores(kept));
                directory.kept.retain(|kept| !is_shared(kept));
                found.push(directory);
            }
            Err(error) => wrong.push(format!("{} {error}", path.display())),
        }
    }
    if wrong.is_empty() {
        return Ok(found);
    }
    Err(failure(FailureKind::Precondition, stage, wrong.join("; ")))
}

/// The directory at that path, without touching it.
fn inspect(host: &Host, path: &Path, former: &[Directory]) -> Result<Directory, DirectoryError> {
    let place = real(host, path)?;
    let policy = policy_of(&File::open(&place)?)?;
    let begun = former.iter().find(|former| former.path == path && former.policy == policy);
    let mut kept = kept::find(host, &place, policy)?;
    for former in begun.into_iter().flat_map(|former| &former.kept) {
        match kept.iter_mut().find(|kept| kept.place() == former.place()) {
            Some(kept) if kept.is_what_is_left_of(former) => *kept = former.clone(),
            Some(_) => {}
            None if former.is_destroyed() => kept.push(former.clone()),
            None => {}
        }
    }
    // What was stored may have gone with another directory that has the same key.
    let has_gone = |former: &Directory| former.policy == policy && former.is_begun();
    if kept.is_empty() && !former.iter().any(has_gone) {
        let file = format!(".fscrypt/policies/{}", policy.key_name());
        return Err(DirectoryError::NotStored(file));
    }
    let (journal, boot) =
        begun.map_or_else(Default::default, |former| (former.journal, former.boot.clone()));
    Ok(Directory { path: path.to_owned(), policy, kept, journal, boot })
}

fn policy_of(file: &File) -> Result<Policy, DirectoryError> {
    match file::policy(file) {
        Ok(policy) => policy.ok_or(DirectoryError::NotEncrypted),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            Err(DirectoryError::NotEncrypted)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where that really is; no link on the way leads out.
fn real(host: &Host, path: &Path) -> Result<PathBuf, DirectoryError> {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err(DirectoryError::Outside);
    }
    let (root, place) = (host.root.canonicalize()?, host.path(path).canonicalize()?);
    if place.starts_with(root) { Ok(place) } else { Err(DirectoryError::Outside) }
}

/// A path below this host's root as the endpoint names it.
fn as_named(host: &Host, place: &Path) -> PathBuf {
    let root = host.root.canonicalize().unwrap_or_else(|_| host.root.clone());
    place.strip_prefix(root).map_or_else(|_| place.to_owned(), |inside| Path::new("/").join(inside))
}

impl Directory {
    /// Destroys its stored keys, and has the kernel forget the one that it has. Files that somebody has open do not stop
    /// that: the look afterwards finds them.
    pub(super) fn destroy(
        &mut self,
        host: &Host,
        save: &mut dyn FnMut(&Self) -> Result<(), Failure>,
    ) -> Result<(), DirectoryError> {
        let place = self.open_same(host)?;
        let mut wrong: Vec<DirectoryError> = Vec::new();
        if !self.is_done() {
            // One that resists does not protect the others.
            for at in 0..self.kept.len() {
                wrong.extend(self.kept[at].overwrite(host, &place).err());
            }
            self.journal = self.empty_journals(host, &place);
            self.kept.iter_mut().for_each(|kept| kept.look(host));
            match save(self) {
                Ok(()) => wrong.extend(self.remove_all(host, &place)),
                // What is overwritten opens nothing, and is found again by the next order.
                Err(failure) => wrong.push(failure.into()),
            }
            wrong.extend(save(self).err().map(DirectoryError::from));
        }
        let forgotten = file::remove_key(&beside(&place)?, self.policy);
        wrong.extend(forgotten.err().map(DirectoryError::from));
        wrong.into_iter().next().map_or(Ok(()), Err)
    }

    /// Removes what is left of those that are overwritten.
    fn remove_all(&mut self, host: &Host, place: &Path) -> Vec<DirectoryError> {
        self.boot = this_boot(host);
        let overwritten = self.kept.iter_mut().filter(|kept| kept.is_destroyed());
        overwritten.filter_map(|kept| kept.remove(host, place).err()).collect()
    }

    /// Whether that is the same stored key as one of its own, which two directories may share.
    fn stores(&self, kept: &Kept) -> bool {
        let is_file = matches!(kept.place(), Place::File(_));
        is_file && self.kept.iter().any(|own| own.place() == kept.place())
    }

    /// Where it is, if that is still the one.
    fn open_same(&self, host: &Host) -> Result<PathBuf, DirectoryError> {
        let place = real(host, &self.path)?;
        let is_same = policy_of(&File::open(&place)?)? == self.policy;
        if is_same { Ok(place) } else { Err(DirectoryError::Stranger) }
    }

    /// Whether its stored keys are gone by the record.
    pub(super) fn is_done(&self) -> bool {
        self.kept.iter().all(Kept::is_gone)
    }

    /// Whether any of them is.
    pub(super) fn is_begun(&self) -> bool {
        self.kept.iter().any(Kept::is_destroyed)
    }

    fn empty_journals(&self, host: &Host, place: &Path) -> Journal {
        let emptied = self.kept.iter().all(|kept| {
            let on = kept.folder(host, place);
            let done = File::open(on).and_then(|folder| file::empty_journal(&folder));
            let problem = |error: &io::Error| tracing::warn!(%error, "journal is not emptied");
            done.inspect_err(problem).is_ok()
        });
        if emptied { Journal::Erased } else { Journal::MayHoldCopies }
    }

    /// Looks whether its keys are gone, from where they were stored and from the kernel, and says what was seen.
    pub(super) fn verify(&self, host: &Host) -> Result<Value, DirectoryError> {
        let place = self.open_same(host)?;
        for kept in &self.kept {
            kept.verify(host, &place)?;
        }
        // Whoever wrote it anew in the meantime brought it back.
        if let Some(back) = kept::find(host, &place, self.policy)?.first() {
            return Err(DirectoryError::Left(back.place().clone()));
        }
        match file::key_presence(&beside(&place)?, self.policy)? {
            Presence::Absent => {}
            Presence::Present => return Err(DirectoryError::Kernel(String::new())),
            Presence::FilesOpen => {
                return Err(DirectoryError::Kernel(users::named(host, &place)));
            }
        }
        let tried = try_one(host, &place)?;
        let may_be_in_keyring = match self.policy {
            // No keyring outlives a restart.
            Policy::V1(_) => {
                let restarted = self.boot.clone().zip(this_boot(host));
                restarted.is_none_or(|(then, now)| then == now)
            }
            Policy::V2(_) => false,
        };
        if may_be_in_keyring {
            return Err(DirectoryError::Keyring);
        }
        let mut seen = self.observed();
        seen["kernel_key"] = json!("absent");
        seen["does_not_open"] = json!(tried.map(|tried| as_named(host, &tried)));
        Ok(seen)
    }

    /// What is recorded of it.
    fn observed(&self) -> Value {
        json!({
            "path": self.path,
            "policy_version": self.policy.version(),
            "key": self.policy.key_name(),
            "stored": self.kept.iter().map(Kept::observed).collect::<Vec<_>>(),
            "journal": self.journal,
        })
    }

    /// What a receipt says of it when the whole failed: whether it is destroyed, and what is wrong with it.
    pub(super) fn state(&self, host: &Host) -> Value {
        let seen = self.verify(host);
        let is_destroyed = seen.is_ok();
        let mut state = seen.unwrap_or_else(|error| {
            let mut state = self.observed();
            state["problem"] = json!(format!("{} {error}", self.path.display()));
            state
        });
        state["destroyed"] = json!(is_destroyed);
        state
    }

    /// What identifies it.
    pub(super) fn facts(&self) -> Value {
        json!({
            "path": self.path,
            "policy_version": self.policy.version(),
            "key": self.policy.key_name(),
            "stored": self.kept.iter().map(Kept::facts).collect::<Vec<_>>(),
        })
    }

    /// One line per intended change, for a person.
    pub(super) fn steps(&self, host: &Host) -> Vec<String> {
        let (version, key) = (self.policy.version(), self.policy.key_name());
        let name = format!("{} (fscrypt v{version} {key})", self.path.display());
        let mut steps = Vec::new();
        for kept in self.kept.iter().filter(|kept| !kept.is_gone()) {
            if let Some(why) = kept.hindrance(host, &self.path) {
                steps.push(format!("{name}: what follows will fail, {why}"));
            }
            steps.push(format!("{name}: overwrite and remove its key {}", kept.place()));
        }
        steps.push(format!("{name}: have the kernel forget its key"));
        steps
    }
}

/// What is on the same file system and need not be evicted: the folder that the directory is in.
fn beside(place: &Path) -> io::Result<File> {
    let file_system = fs::metadata(place)?.dev();
    let parent = place
        .parent()
        .filter(|parent| fs::metadata(parent).is_ok_and(|found| found.dev() == file_system));
    File::open(parent.unwrap_or(place))
}

/// Opens a file of the directory, which must not work; answers which one, if there is any.
fn try_one(host: &Host, place: &Path) -> Result<Option<PathBuf>, DirectoryError> {
    let mut open = vec![place.to_owned()];
    let mut seen = 0;
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            seen += 1;
            if seen > ENTRIES {
                return Ok(None);
            }
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                return match File::open(&path) {
                    Err(error) if error.raw_os_error() == Some(Errno::ENOKEY as i32) => {
                        Ok(Some(path))
                    }
                    Err(error) => Err(error.into()),
                    Ok(_) => Err(DirectoryError::Readable(as_named(host, &path))),
                };
            }
        }
    }
    Ok(None)
}

fn this_boot(host: &Host) -> Option<String> {
    let id = fs::read_to_string(host.path(BOOT_ID_PATH)).ok()?;
    Some(id.trim().to_owned())
}
