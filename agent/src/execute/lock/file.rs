//! Files of the endpoint, read inside its root and replaced so that a power cut leaves either
//! the old one or the new one.
//!
//! Nothing here knows what a lock is. Symbolic links are followed as a process whose root
//! directory is the host's root would follow them, never out of it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use protocol::receipt::{Failure, FailureKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::execute::failure;
use crate::host::Host;

/// How many symbolic links one path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// A file that could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not what this agent wrote", path.display())]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("{} leads through too many symbolic links", path.display())]
    Links { path: PathBuf },
}

impl FileError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    /// The failure that a receipt carries, with the whole chain as its detail.
    pub(super) fn at(self, stage: &str) -> Failure {
        let (kind, cause) = match &self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                (FailureKind::Permission, source.to_string())
            }
            Self::Io { source, .. } => (FailureKind::Io, source.to_string()),
            Self::Content { source, .. } => (FailureKind::Internal, source.to_string()),
            Self::Links { .. } => (FailureKind::Precondition, "not followed".to_owned()),
        };
        failure(kind, stage, format_args!("{self}: {cause}"))
    }
}

/// Who owns a file, and what they may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    /// The permission bits, with set-id and sticky bits.
    pub(super) mode: u32,
    /// The owner.
    pub(super) uid: u32,
    /// The group.
    pub(super) gid: u32,
}

impl Attributes {
    /// What only the agent reads: its own state.
    pub(super) const PRIVATE: Self = Self { mode: 0o600, uid: 0, gid: 0 };
    /// What everybody reads.
    pub(super) const PUBLIC: Self = Self { mode: 0o644, uid: 0, gid: 0 };
}

/// A regular file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// All of its bytes.
    pub(super) bytes: Vec<u8>,
    /// Its mode and owner.
    pub(super) attributes: Attributes,
}

/// The endpoint's path, with its symbolic links followed inside the host's root.
///
/// Both are absolute paths as the endpoint sees them. What does not exist stays as it is.
pub(super) fn resolve(host: &Host, path: &Path) -> Result<PathBuf, FileError> {
    let mut rest: Vec<OsString> = Vec::new();
    push_reversed(&mut rest, path);
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        match fs::read_link(host.path(&next)) {
            Ok(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(FileError::Links { path: path.to_owned() });
                }
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                push_reversed(&mut rest, &target);
            }
            Err(_) => resolved = next,
        }
    }
    Ok(resolved)
}

fn push_reversed(rest: &mut Vec<OsString>, path: &Path) {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let names: Vec<OsString> = names.collect();
    rest.extend(names.into_iter().rev());
}

/// The regular file at a real path; `None` when nothing, or something else, is there.
pub(super) fn find(path: &Path) -> Result<Option<Found>, FileError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(FileError::io("look at", path)(error)),
    };
    let bytes = fs::read(path).map_err(FileError::io("read", path))?;
    let attributes =
        Attributes { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() };
    Ok(Some(Found { bytes, attributes }))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Replaces the file at a real path: written beside it, synced, renamed, directory synced.
pub(super) fn replace(path: &Path, bytes: &[u8], attributes: Attributes) -> Result<(), FileError> {
    let leftover = beside(path);
    discard_leftover(path)?;
    write_new(&leftover, bytes, attributes).map_err(FileError::io("write", &leftover))?;
    fs::rename(&leftover, path).map_err(FileError::io("replace", path))?;
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8], attributes: Attributes) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    fchown(&file, Some(attributes.uid), Some(attributes.gid))?;
    file.set_permissions(Permissions::from_mode(attributes.mode))?;
    file.sync_all()
}

/// Removes what a crash in the middle of [`replace`] left beside the file.
pub(super) fn discard_leftover(path: &Path) -> Result<(), FileError> {
    remove(&beside(path))
}

/// Where [`replace`] writes before it renames.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tocsin-new");
    path.with_file_name(name)
}

/// Removes the file at a real path, durably; nothing there is fine.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(FileError::io("remove", path)(error)),
    }
}

/// Makes a directory that only its owner enters, durably; one that is there is fine.
pub(super) fn make_private_dir(path: &Path) -> Result<(), FileError> {
    make_dir(path, 0o700)
}

/// Makes a directory that everybody may enter, durably; one that is there is fine.
pub(super) fn make_public_dir(path: &Path) -> Result<(), FileError> {
    make_dir(path, 0o755)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(FileError::io("make", path))?;
    sync_parent(path)
}

/// Removes an empty directory; one that is not there, or not empty, stays as it is.
pub(super) fn remove_empty_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Ok(())
        }
        Err(error) => Err(FileError::io("remove", path)(error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(FileError::io("sync", parent))
}

/// The names in a directory at a real path, sorted; none when it is not there.
pub(super) fn names(path: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(FileError::io("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::io("list", path))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads one of the agent's own documents; `None` when it is not there.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(found) = find(path)? else { return Ok(None) };
    serde_json::from_slice(&found.bytes)
        .map(Some)
        .map_err(|source| FileError::Content { path: path.to_owned(), source })
}

/// Writes one of the agent's own documents.
pub(super) fn save<T: Serialize>(path: &Path, document: &T) -> Result<(), FileError> {
    let bytes = serde_json::to_vec_pretty(document)
        .map_err(|source| FileError::Content { path: path.to_owned(), source })?;
    let owner =
        fs::metadata(path.parent().unwrap_or(path)).map_err(FileError::io("look at", path))?;
    let attributes = Attributes { uid: owner.uid(), gid: owner.gid(), ..Attributes::PRIVATE };
    replace(path, &bytes, attributes)
}
