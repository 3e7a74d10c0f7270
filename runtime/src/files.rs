//! Files that are whole or absent: atomic durable replacement and bounded reading.
//!
//! Blocking by design; call it from `spawn_blocking` where an executor must not stall. Must not
//! know what the bytes mean.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::entropy::Entropy;

#[cfg(test)]
mod tests;

/// Mode of a file that only its owner may read: keys, tokens, the journal.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everybody may read: certificates, trust roots.
pub const PUBLIC: u32 = 0o644;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written; the former content, if any, is still in place.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than the caller allows.
    #[error("{} is larger than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that would have been read, in bytes.
        max: usize,
    },
}

impl FileError {
    /// Whether the file was simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
            }
            Self::TooLarge { .. } => false,
        }
    }
}

/// Replaces `path` by `bytes` with exactly `mode`, so that after any crash the file holds either
/// all of the old content or all of the new, and after `Ok` the new.
///
/// Temporary file in the same folder, fsync, rename, fsync of the folder (`fsync(2)` says why
/// the last step is needed). A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// [`FileError::Write`]; the temporary file is removed.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    try_write_atomic(path, bytes, mode)
        .map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// The content of `path`, if it has at most `max` bytes.
///
/// # Errors
/// [`FileError::Read`] or [`FileError::TooLarge`].
pub fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

fn try_write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}.tmp", Entropy::system().next_u64()));
    let temporary = folder.join(hidden);
    let outcome = write_new(&temporary, bytes, mode)
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if outcome.is_err() {
        // Best effort: the error that matters is the one above.
        drop(std::fs::remove_file(&temporary));
    }
    outcome
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
    file.write_all(bytes)?;
    // Explicitly, because the mode given to open(2) is reduced by the umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}
