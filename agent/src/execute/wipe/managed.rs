//! What this agent, or whoever provisions through it, has written onto the endpoint: the files
//! that go with the company's data, such as profiles of networks, certificates and keytabs.
//!
//! Owns the list in the state directory and the removal. Nothing is removed that is not on the
//! list, no folder, nothing outside the host's root, and nothing on a network file system.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use protocol::receipt::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::{network, volume};
use crate::execute::state_file::StateFile;
use crate::host::Host;

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// Absolute paths, as the endpoint names them.
    pub files: BTreeSet<PathBuf>,
}

impl StateFile for Managed {
    const NAME: &'static str = "managed.json";
}

impl Managed {
    /// Puts files on the list. To be called before they are written: what is listed and missing
    /// is nothing, what is there and not listed stays for ever.
    ///
    /// # Errors
    /// `Io` when the list cannot be read or written.
    pub fn add(host: &Host, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), Failure> {
        let mut managed = Self::load(host, "manage")?.unwrap_or_default();
        managed.files.extend(paths);
        managed.save(host, "manage")
    }
}

/// Why a file stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManagedError {
    /// The system says why.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is somewhere else.
    #[error("leads out of this endpoint")]
    Outside,
    /// It is somebody else's.
    #[error("is on a network file system")]
    Network,
    /// Only files are ever listed.
    #[error("is neither a file nor a link")]
    NoFile,
}

impl ManagedError {
    /// What a receipt calls it.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::PermissionDenied => {
                FailureKind::Permission
            }
            Self::Io(_) | Self::Outside | Self::Network | Self::NoFile => FailureKind::Io,
        }
    }
}

/// Whether anything is at that path.
pub(super) fn is_there(host: &Host, path: &Path) -> bool {
    fs::symlink_metadata(host.path(path)).is_ok()
}

/// Removes one file of the list. A link goes without what it leads to; a file that has no other
/// name is overwritten first.
pub(super) fn remove(host: &Host, path: &Path) -> Result<(), ManagedError> {
    let Some(place) = place(host, path)? else { return Ok(()) };
    let found = match fs::symlink_metadata(&place) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if found.is_file() && found.nlink() == 1 {
        overwrite(&place, found.len())?;
    } else if !found.is_file() && !found.is_symlink() {
        return Err(ManagedError::NoFile);
    }
    fs::remove_file(&place)?;
    let folder = place.parent().unwrap_or(&host.root);
    Ok(File::open(folder)?.sync_all()?)
}

/// Why a file of the list cannot be removed, where that is known before.
pub(super) fn hindrance(host: &Host, path: &Path) -> Option<String> {
    volume::hindrance(host.path(path).parent()?)
}

/// Where the file really is, with no link on the way that leads out; `None`: not even its folder.
fn place(host: &Host, path: &Path) -> Result<Option<PathBuf>, ManagedError> {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ManagedError::Outside);
    };
    if !path.is_absolute() || !path.components().all(is_plain) {
        return Err(ManagedError::Outside);
    }
    let root = host.root.canonicalize()?;
    let folder = match host.path(folder).canonicalize() {
        Ok(folder) => folder,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(inside) = folder.strip_prefix(&root) else { return Err(ManagedError::Outside) };
    let real = Path::new("/").join(inside);
    if network::mounted(host).iter().any(|mount| real.starts_with(mount)) {
        return Err(ManagedError::Network);
    }
    Ok(Some(folder.join(name)))
}

fn overwrite(place: &Path, length: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(place)?;
    let zeros = [0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    file.sync_all()
}
