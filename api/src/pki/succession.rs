//! One authority follows another: made ahead, switched to, and the former let go.
//!
//! Owns the names and the order of the files, so that whatever is interrupted is done again. Between
//! two steps every device has to renew its certificate once: then it trusts what comes next, and
//! shows what the former did not sign.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::time::Timestamp;
use runtime::Entropy;
use runtime::files::{self, FileError};
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::{self, PemError};

use super::{Authority, PkiError, make_authority, private_key};

/// The authority that issues.
const PRESENT: &str = "ca";
/// The one that will: trusted, and issues nothing yet.
const NEXT: &str = "ca-next";
/// The one that did: trusted, and without a key.
const FORMER: &str = "ca-former";
/// The longest file of a certificate.
const CERTIFICATE_BYTES: usize = 16 * 1024;

/// Why a step is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The authority, or its successor, cannot be used.
    #[error("the authority cannot be used")]
    Authority(#[from] PkiError),
    /// A file cannot be read or written.
    #[error("a file of the authority is not accessible")]
    File(#[from] FileError),
    /// A file cannot be written.
    #[error("a file of the authority cannot be written")]
    Pem(#[from] PemError),
    /// A file cannot be moved.
    #[error("{} cannot be moved", path.display())]
    Move {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a successor already.
    #[error("a successor is there already: {}", .0.display())]
    Prepared(PathBuf),
    /// There is no successor.
    #[error("no successor was prepared: {} is missing", .0.display())]
    NotPrepared(PathBuf),
    /// A predecessor is trusted still.
    #[error("the former authority is trusted still: {}", .0.display())]
    NotRetired(PathBuf),
    /// There is no predecessor.
    #[error("no former authority is trusted")]
    NoFormer,
}

fn certificate(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.crt"))
}

fn key(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.key"))
}

/// The authorities of a folder that are trusted beside the one that issues.
pub(super) fn others(folder: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut others = Vec::new();
    for path in [certificate(folder, NEXT), certificate(folder, FORMER)] {
        if path.exists() {
            others.extend(tls::read_certificates(&path)?);
        }
    }
    Ok(others)
}

/// Makes the successor of a folder's authority. It is trusted once that is read again.
///
/// # Errors
/// When there is one, or the one before the present is trusted still.
pub fn prepare(folder: &Path, now: Timestamp, entropy: &Entropy) -> Result<(), SuccessionError> {
    Authority::load(folder, entropy.clone())?;
    let (made, former) = (certificate(folder, NEXT), certificate(folder, FORMER));
    if made.exists() {
        return Err(SuccessionError::Prepared(made));
    }
    if former.exists() {
        return Err(SuccessionError::NotRetired(former));
    }
    let (successor, key_pair) = make_authority(now, entropy)?;
    // The certificate last: it is what says that there is a successor.
    tls::write_key(&key(folder, NEXT), &private_key(&key_pair))?;
    tls::write_certificates(&made, &[successor])?;
    Ok(())
}

/// Puts the successor in the place of a folder's authority, which stays trusted and loses its key.
/// Interrupted, it is done again.
///
/// # Errors
/// When none was prepared.
pub fn switch(folder: &Path) -> Result<(), SuccessionError> {
    let (next, former) = (certificate(folder, NEXT), certificate(folder, FORMER));
    if !next.exists() {
        return Err(SuccessionError::NotPrepared(next));
    }
    if !former.exists() {
        let present = files::read_bounded(&certificate(folder, PRESENT), CERTIFICATE_BYTES)?;
        files::write_atomic(&former, &present, files::PUBLIC)?;
    }
    let next_key = key(folder, NEXT);
    if next_key.exists() {
        rename(&next_key, &key(folder, PRESENT))?;
    }
    rename(&next, &certificate(folder, PRESENT))
}

/// Ends the trust in the predecessor of a folder's authority, once that is read again.
///
/// # Errors
/// When there is none.
pub fn retire(folder: &Path) -> Result<(), SuccessionError> {
    let former = certificate(folder, FORMER);
    match fs::remove_file(&former) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SuccessionError::NoFormer),
        Err(source) => Err(SuccessionError::Move { path: former, source }),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), SuccessionError> {
    fs::rename(from, to).map_err(|source| SuccessionError::Move { path: from.to_owned(), source })
}
