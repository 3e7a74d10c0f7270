//! Sealing a secret under a passphrase, for the files that operators keep.
//!
//! AES-256-GCM under a key that argon2id (RFC 9106) makes of the passphrase. What stands in the clear
//! beside the secret is authenticated with it. Owns no file and no form of one.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use runtime::Entropy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const SALT_BYTES: usize = 16;
/// The shortest passphrase, in characters.
pub const MIN_PASSPHRASE: usize = 8;

/// Why something is not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The passphrase is too short.
    #[error("a passphrase has at least {MIN_PASSPHRASE} characters")]
    TooShort,
    /// Sealing did not work.
    #[error("the secret cannot be sealed")]
    Sealing,
    /// It is nothing that was sealed here.
    #[error("not sealed in a form of this version")]
    Malformed,
    /// The passphrase is not the one, or what stands beside the secret was altered.
    #[error("the passphrase does not open it")]
    Passphrase,
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
    pub const fn is_bounded(self) -> bool {
        self.memory_kib <= 1024 * 1024 && self.passes <= 16
    }
}

/// A sealed secret, each part as base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What the passphrase was salted with.
    pub salt: String,
    /// The nonce.
    pub nonce: String,
    /// The secret under the key, with its tag.
    pub secret: String,
}

/// Seals a secret; `beside` must be the same for whoever opens it.
///
/// # Errors
/// [`SealError::TooShort`], [`SealError::Sealing`].
pub fn seal(
    secret: &[u8],
    (passphrase, cost): (&str, Cost),
    beside: &[u8],
    entropy: &Entropy,
) -> Result<Sealed, SealError> {
    if passphrase.chars().count() < MIN_PASSPHRASE {
        return Err(SealError::TooShort);
    }
    let (salt, nonce) = (entropy.bytes::<SALT_BYTES>(), entropy.bytes::<NONCE_LEN>());
    let key = stretch(passphrase, &salt, cost).ok_or(SealError::Sealing)?;
    let mut sealed = Zeroizing::new(secret.to_vec());
    let once = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(once, Aad::from(beside), &mut *sealed)
        .map_err(|_| SealError::Sealing)?;
    Ok(Sealed {
        salt: BASE64.encode(salt),
        nonce: BASE64.encode(nonce),
        secret: BASE64.encode(&*sealed),
    })
}

impl Sealed {
    /// The secret.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::Passphrase`].
    pub fn open<const N: usize>(
        &self,
        (passphrase, cost): (&str, Cost),
        beside: &[u8],
    ) -> Result<Zeroizing<[u8; N]>, SealError> {
        let decode = |text: &str| BASE64.decode(text).map_err(|_| SealError::Malformed);
        let nonce = decode(&self.nonce)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| SealError::Malformed)?;
        let salt = decode(&self.salt)?;
        let key = stretch(passphrase, &salt, cost).ok_or(SealError::Malformed)?;
        let mut sealed = Zeroizing::new(decode(&self.secret)?);
        let once = Nonce::assume_unique_for_key(nonce);
        let secret = key
            .open_in_place(once, Aad::from(beside), &mut sealed)
            .map_err(|_| SealError::Passphrase)?;
        (&*secret).try_into().map(Zeroizing::new).map_err(|_| SealError::Malformed)
    }
}

fn stretch(passphrase: &str, salt: &[u8], cost: Cost) -> Option<LessSafeKey> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(32)).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon2.hash_password_into(passphrase.as_bytes(), salt, &mut *key).ok()?;
    UnboundKey::new(&AES_256_GCM, &*key).ok().map(LessSafeKey::new)
}
