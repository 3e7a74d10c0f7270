//! An operator's approval key on disk, sealed with a passphrase.
//!
//! Owns the form of the file: TOML with the public key in the clear, and the Ed25519 seed sealed
//! (`sealing`). Everything in the clear is authenticated with it. The seed leaves this module only inside of a `SigningKey`.

use std::path::{Path, PathBuf};

use protocol::key::{KeyError, PublicKey, SigningKey};
use runtime::Entropy;
use runtime::files::{self, FileError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::sealing::{self, SealError, Sealed};

pub use crate::sealing::{Cost, MIN_PASSPHRASE};

#[cfg(test)]
mod tests;

/// Bytes of the largest key file that is read.
const MAX_BYTES: usize = 16 * 1024;
/// First line of every file.
const HEADER: &str = "# A Tocsin approval key. Useless without its passphrase; keep both apart.\n";

/// Why a key file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("the key file is not usable")]
    File(#[from] FileError),
    /// There is a file already, and a key is never overwritten.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// It is no key file.
    #[error("{} is no key file of this version", .0.display())]
    Malformed(PathBuf),
    /// The passphrase is not the one, or the file was altered.
    #[error("the passphrase does not open {}", .0.display())]
    Passphrase(PathBuf),
    /// The passphrase is too short.
    #[error("a passphrase has at least {MIN_PASSPHRASE} characters")]
    TooShort,
    /// Sealing did not work.
    #[error("the key cannot be sealed")]
    Sealing,
    /// The seed makes no key.
    #[error("the seed makes no key")]
    Key(#[from] KeyError),
    /// A plain key file, as the control plane makes one for the root key, is not usable.
    #[error("the plain key file is not usable")]
    Plain(#[from] api::keys::KeyFileError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u8,
    public_key: PublicKey,
    salt: String,
    nonce: String,
    sealed_seed: String,
    argon2id: Cost,
}

/// Draws a key, seals it and writes its file. An existing file is left alone.
pub fn create(
    path: &Path,
    passphrase: &str,
    cost: Cost,
    entropy: &Entropy,
) -> Result<PublicKey, KeyFileError> {
    if passphrase.chars().count() < MIN_PASSPHRASE {
        return Err(KeyFileError::TooShort);
    }
    if path.exists() {
        return Err(KeyFileError::Exists(path.to_owned()));
    }
    let seed = Zeroizing::new(entropy.bytes::<32>());
    let public = SigningKey::from_seed(&seed)?.public().clone();
    let beside = associated(&public, cost);
    let sealed = sealing::seal(&*seed, (passphrase, cost), &beside, entropy)
        .map_err(|error| of_seal(error, path))?;
    let document = Document {
        version: 1,
        public_key: public.clone(),
        salt: sealed.salt,
        nonce: sealed.nonce,
        sealed_seed: sealed.secret,
        argon2id: cost,
    };
    let text = toml::to_string(&document).map_err(|_| KeyFileError::Sealing)?;
    files::write_atomic(path, format!("{HEADER}{text}").as_bytes(), files::PRIVATE)?;
    Ok(public)
}

/// The public half of a file, which takes no passphrase. It is believed only when the file opens.
pub fn public(path: &Path) -> Result<PublicKey, KeyFileError> {
    Ok(read(path)?.public_key)
}

/// Whether the file is sealed, and so needs a passphrase.
pub fn is_sealed(path: &Path) -> Result<bool, KeyFileError> {
    let bytes = Zeroizing::new(files::read_bounded(path, MAX_BYTES)?);
    Ok(bytes.starts_with(b"#") || bytes.windows(11).any(|part| part == b"sealed_seed"))
}

/// Opens a file with its passphrase.
pub fn open(path: &Path, passphrase: &str) -> Result<SigningKey, KeyFileError> {
    let document = read(path)?;
    let Document { salt, nonce, sealed_seed, argon2id, public_key, .. } = document;
    let sealed = Sealed { salt, nonce, secret: sealed_seed };
    let beside = associated(&public_key, argon2id);
    let seed =
        sealed.open::<32>((passphrase, argon2id), &beside).map_err(|error| of_seal(error, path))?;
    let key = SigningKey::from_seed(&seed)?;
    if *key.public() == public_key {
        Ok(key)
    } else {
        Err(KeyFileError::Malformed(path.to_owned()))
    }
}

pub(crate) fn of_seal(error: SealError, path: &Path) -> KeyFileError {
    match error {
        SealError::TooShort => KeyFileError::TooShort,
        SealError::Sealing => KeyFileError::Sealing,
        SealError::Malformed => KeyFileError::Malformed(path.to_owned()),
        SealError::Passphrase => KeyFileError::Passphrase(path.to_owned()),
    }
}

/// Opens a plain file: the 32-byte seed as base64url, as the first start makes the root key.
pub fn open_plain(path: &Path) -> Result<SigningKey, KeyFileError> {
    Ok(api::keys::load(path)?)
}

fn read(path: &Path) -> Result<Document, KeyFileError> {
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes).ok();
    let document: Option<Document> = text.and_then(|text| toml::from_str(text).ok());
    document
        .filter(|document| document.version == 1 && document.argon2id.is_bounded())
        .ok_or_else(|| KeyFileError::Malformed(path.to_owned()))
}

/// What is in the clear, and must not be exchanged.
fn associated(public: &PublicKey, cost: Cost) -> Vec<u8> {
    format!("tocsin-key-1\n{public}\n{}\n{}", cost.memory_kib, cost.passes).into_bytes()
}
