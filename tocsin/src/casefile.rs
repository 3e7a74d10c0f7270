//! The private half of a case key or a recovery key on disk, sealed with a passphrase.
//!
//! Owns the form of the file: TOML with the public half in the clear, and the secret sealed
//! (`sealing`). Everything in the clear is authenticated with it. Plain files of former versions are
//! read, and no longer made.

use std::path::Path;

use protocol::sealed::{CaseKey, CaseSecret};
use runtime::Entropy;
use runtime::files;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keyfile::{KeyFileError, of_seal};
use crate::sealing::{self, Cost, Sealed};

#[cfg(test)]
mod tests;

/// Bytes of the largest file that is read.
const MAX_BYTES: usize = 16 * 1024;
/// Bytes of the secret as text: 32 in base64url.
const SECRET_BYTES: usize = 43;
/// First line of every file.
const HEADER: &str =
    "# A key that things are sealed to. Useless without its passphrase; keep both apart.\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u8,
    public_key: CaseKey,
    salt: String,
    nonce: String,
    sealed_secret: String,
    argon2id: Cost,
}

/// Draws a key, seals it and writes its file. An existing file is left alone.
///
/// # Errors
/// [`KeyFileError`].
pub fn create(
    path: &Path,
    (passphrase, cost): (&str, Cost),
    entropy: &Entropy,
) -> Result<CaseKey, KeyFileError> {
    if path.exists() {
        return Err(KeyFileError::Exists(path.to_owned()));
    }
    let secret = CaseSecret::new(entropy.bytes());
    let public_key = secret.public().map_err(|_| KeyFileError::Sealing)?;
    let text = Zeroizing::new(secret.reveal());
    let beside = associated(&public_key, cost);
    let sealed = sealing::seal(text.as_bytes(), (passphrase, cost), &beside, entropy)
        .map_err(|error| of_seal(error, path))?;
    let (salt, nonce, sealed_secret) = (sealed.salt, sealed.nonce, sealed.secret);
    let document = Document { version: 1, public_key, salt, nonce, sealed_secret, argon2id: cost };
    let text = toml::to_string(&document).map_err(|_| KeyFileError::Sealing)?;
    files::write_atomic(path, format!("{HEADER}{text}").as_bytes(), files::PRIVATE)?;
    Ok(public_key)
}

/// Whether the file is sealed, and so needs a passphrase.
///
/// # Errors
/// [`KeyFileError::File`].
pub fn is_sealed(path: &Path) -> Result<bool, KeyFileError> {
    let bytes = Zeroizing::new(files::read_bounded(path, MAX_BYTES)?);
    Ok(bytes.starts_with(b"#"))
}

/// Opens a file with its passphrase.
///
/// # Errors
/// [`KeyFileError`].
pub fn open(path: &Path, passphrase: &str) -> Result<CaseSecret, KeyFileError> {
    let malformed = || KeyFileError::Malformed(path.to_owned());
    let bytes = files::read_bounded(path, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes).ok();
    let document: Option<Document> = text.and_then(|text| toml::from_str(text).ok());
    let Document { version, public_key, salt, nonce, sealed_secret, argon2id } =
        document.ok_or_else(malformed)?;
    if version != 1 || !argon2id.is_bounded() {
        return Err(malformed());
    }
    let sealed = Sealed { salt, nonce, secret: sealed_secret };
    let beside = associated(&public_key, argon2id);
    let text = sealed
        .open::<SECRET_BYTES>((passphrase, argon2id), &beside)
        .map_err(|error| of_seal(error, path))?;
    let secret: Option<CaseSecret> = std::str::from_utf8(&*text).ok().and_then(|t| t.parse().ok());
    let secret = secret.ok_or_else(malformed)?;
    if secret.public().ok() == Some(public_key) { Ok(secret) } else { Err(malformed()) }
}

/// Opens a file that is not sealed: the secret in base64url.
///
/// # Errors
/// [`KeyFileError::File`], [`KeyFileError::Malformed`].
pub fn open_plain(path: &Path) -> Result<CaseSecret, KeyFileError> {
    let bytes = Zeroizing::new(files::read_bounded(path, MAX_BYTES)?);
    let secret = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
    secret.ok_or_else(|| KeyFileError::Malformed(path.to_owned()))
}

/// What is in the clear, and must not be exchanged.
fn associated(public: &CaseKey, cost: Cost) -> Vec<u8> {
    format!("tocsin-case-key-1\n{public}\n{}\n{}", cost.memory_kib, cost.passes).into_bytes()
}
