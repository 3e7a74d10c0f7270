//! Ed25519 key files: the command key that signs envelopes, and the root key of the first start.
//!
//! Owns their form on disk (the 32-byte seed as base64url, mode 0600). Approvers' keys never come
//! here: they live with people.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::key::{KeyError, SigningKey};
use runtime::Entropy;
use runtime::files::{self, FileError};
use zeroize::Zeroizing;

pub mod succession;

/// Why a key file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("key file unavailable")]
    File(#[from] FileError),
    /// It is not 32 bytes of base64url.
    #[error("{} is no key file", .0.display())]
    Malformed(PathBuf),
    /// The seed makes no key.
    #[error("the seed makes no key")]
    Key(#[from] KeyError),
}

/// Reads a key file.
pub fn load(path: &Path) -> Result<SigningKey, KeyFileError> {
    let text = Zeroizing::new(files::read_bounded(path, 1024)?);
    let malformed = || KeyFileError::Malformed(path.to_owned());
    let bytes = Zeroizing::new(BASE64.decode(text.trim_ascii()).map_err(|_| malformed())?);
    let seed: Zeroizing<[u8; 32]> =
        Zeroizing::new(bytes.as_slice().try_into().map_err(|_| malformed())?);
    Ok(SigningKey::from_seed(&seed)?)
}

/// Draws a key and writes its file.
pub fn create(path: &Path, entropy: &Entropy) -> Result<SigningKey, KeyFileError> {
    let seed = Zeroizing::new(entropy.bytes::<32>());
    let text = Zeroizing::new(BASE64.encode(*seed) + "\n");
    files::write_atomic(path, text.as_bytes(), files::PRIVATE)?;
    Ok(SigningKey::from_seed(&seed)?)
}

/// Reads a key file, or makes it when it is not there.
pub fn load_or_create(path: &Path, entropy: &Entropy) -> Result<SigningKey, KeyFileError> {
    match load(path) {
        Err(KeyFileError::File(error)) if error.is_not_found() => create(path, entropy),
        outcome => outcome,
    }
}
