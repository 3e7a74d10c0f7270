//! An operator's approval key on disk, sealed with a passphrase.
//!
//! Owns the form of the file: TOML with the public key in the clear, and the Ed25519 seed sealed
//! by AES-256-GCM under a key that argon2id (RFC 9106) makes of the passphrase. Everything in the
//! clear is authenticated with it. The seed leaves this module only inside of a `SigningKey`.

use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::key::{KeyError, PublicKey, SigningKey};
use runtime::Entropy;
use runtime::files::{self, FileError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// Bytes of the largest key file that is read.
const MAX_BYTES: usize = 16 * 1024;
const SALT_BYTES: usize = 16;
/// The shortest passphrase, in characters.
pub const MIN_PASSPHRASE: usize = 8;
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

/// What making a key of a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Cost {
    /// 64 MiB and three passes: the second choice of RFC 9106, 4, with one lane.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3 };

    /// A file may ask for this much and no more: it must not exhaust whoever opens it.
    const fn is_bounded(self) -> bool {
        self.memory_kib <= 1024 * 1024 && self.passes <= 16
    }
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
    let (salt, nonce) = (entropy.bytes::<SALT_BYTES>(), entropy.bytes::<NONCE_LEN>());
    let key = stretch(passphrase, &salt, cost).ok_or(KeyFileError::Sealing)?;
    let mut sealed = Zeroizing::new(seed.to_vec());
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(associated(&public, cost)),
        &mut *sealed,
    )
    .map_err(|_| KeyFileError::Sealing)?;
    let document = Document {
        version: 1,
        public_key: public.clone(),
        salt: BASE64.encode(salt),
        nonce: BASE64.encode(nonce),
        sealed_seed: BASE64.encode(&*sealed),
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
    let wrong = || KeyFileError::Passphrase(path.to_owned());
    let malformed = || KeyFileError::Malformed(path.to_owned());
    let decode = |text: &str| BASE64.decode(text).map_err(|_| malformed());
    let nonce: [u8; NONCE_LEN] = decode(&document.nonce)?.try_into().map_err(|_| malformed())?;
    let salt = decode(&document.salt)?;
    let key = stretch(passphrase, &salt, document.argon2id).ok_or_else(malformed)?;
    let mut sealed = Zeroizing::new(decode(&document.sealed_seed)?);
    let aad = Aad::from(associated(&document.public_key, document.argon2id));
    let seed = key
        .open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
        .map_err(|_| wrong())?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new((&*seed).try_into().map_err(|_| malformed())?);
    let key = SigningKey::from_seed(&seed)?;
    if *key.public() == document.public_key { Ok(key) } else { Err(malformed()) }
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

fn stretch(passphrase: &str, salt: &[u8], cost: Cost) -> Option<LessSafeKey> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon2.hash_password_into(passphrase.as_bytes(), salt, &mut *key).ok()?;
    UnboundKey::new(&AES_256_GCM, &*key).ok().map(LessSafeKey::new)
}
