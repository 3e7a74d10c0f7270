//! One command key follows another: made ahead, switched to, and the former let go.
//!
//! Owns the names and the order of the files. Between two steps a version of the trust root has to
//! say so: what devices obey is decided there, and the control plane starts with no key that the
//! version in force does not name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::key::PublicKey;
use runtime::Entropy;

use super::{KeyFileError, create, load};

/// The key that signs.
pub(crate) const PRESENT: &str = "command.key";
/// The one that will.
const NEXT: &str = "command-next.key";
/// The one that did: kept, so that a step too early can be taken back.
const FORMER: &str = "command-former.key";

/// Why a step is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CommandKeyError {
    /// A key cannot be read or written.
    #[error("a command key is not accessible")]
    Key(#[from] KeyFileError),
    /// A file cannot be moved or removed.
    #[error("{} cannot be moved", path.display())]
    Move {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is in the way.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// A file that the step needs.
    #[error("{} is missing: the step before was not taken", .0.display())]
    Missing(PathBuf),
}

/// The public halves of a folder's command keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandKeys {
    /// Of the one that signs.
    pub present: PublicKey,
    /// Of the one that will.
    pub next: Option<PublicKey>,
    /// Of the one that did.
    pub former: Option<PublicKey>,
}

/// What a folder holds.
///
/// # Errors
/// When a file is not accessible.
pub fn show(folder: &Path) -> Result<CommandKeys, CommandKeyError> {
    let public = |name: &str| -> Result<Option<PublicKey>, CommandKeyError> {
        match load(&folder.join(name)) {
            Ok(key) => Ok(Some(key.public().clone())),
            Err(KeyFileError::File(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let present = public(PRESENT)?;
    let missing = || CommandKeyError::Missing(folder.join(PRESENT));
    Ok(CommandKeys {
        present: present.ok_or_else(missing)?,
        next: public(NEXT)?,
        former: public(FORMER)?,
    })
}

/// Makes the successor.
///
/// # Errors
/// When there is one, or a former one is still there.
pub fn prepare(folder: &Path, entropy: &Entropy) -> Result<PublicKey, CommandKeyError> {
    load(&folder.join(PRESENT))?;
    for path in [folder.join(NEXT), folder.join(FORMER)] {
        if path.exists() {
            return Err(CommandKeyError::Exists(path));
        }
    }
    Ok(create(&folder.join(NEXT), entropy)?.public().clone())
}

/// Has the successor sign from the next start on. Interrupted, it is done again.
///
/// # Errors
/// When none was prepared.
pub fn switch(folder: &Path) -> Result<(), CommandKeyError> {
    let [present, next, former] = [PRESENT, NEXT, FORMER].map(|name| folder.join(name));
    if !next.exists() {
        return Err(CommandKeyError::Missing(next));
    }
    load(&next)?;
    if !former.exists() {
        rename(&present, &former)?;
    }
    rename(&next, &present)
}

/// Removes the former key.
///
/// # Errors
/// When there is none.
pub fn retire(folder: &Path) -> Result<(), CommandKeyError> {
    let former = folder.join(FORMER);
    match fs::remove_file(&former) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CommandKeyError::Missing(former))
        }
        Err(source) => Err(CommandKeyError::Move { path: former, source }),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), CommandKeyError> {
    fs::rename(from, to).map_err(|source| CommandKeyError::Move { path: from.to_owned(), source })
}
