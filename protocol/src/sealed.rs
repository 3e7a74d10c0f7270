//! Sealing evidence to a case: only whoever holds the case's key reads it, and nobody on the way.
//!
//! X25519 with a key of one use, HKDF-SHA256, AES-256-GCM. The key is new each time, so the nonce may
//! be the same. As text: base64url of the public half of that key and the sealed bytes. Draws no
//! chance of its own.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::stream::{ChunkOpener, ChunkSealer, TAG_BYTES};

mod stream;
#[cfg(test)]
mod tests;

/// Bytes of either half of a key.
const KEY_BYTES: usize = 32;
/// Keeps keys of this purpose from serving another one.
const PURPOSE: &[u8] = b"tocsin-evidence-v1";

/// The public half of a case's key: what evidence is sealed to. As text: base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaseKey([u8; KEY_BYTES]);

/// The private half.
pub struct CaseSecret([u8; KEY_BYTES]);

impl fmt::Debug for CaseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaseSecret").finish_non_exhaustive()
    }
}

/// Why something cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// Not the text of a key, or of something sealed.
    #[error("not base64url of the right length")]
    Malformed,
    /// A key that no secret can be agreed on with.
    #[error("the key cannot be used")]
    Key,
    /// Sealed to another case or about another command, or altered.
    #[error("sealed to another key or about another command, or altered")]
    Closed,
    /// A chunk after the last.
    #[error("nothing follows the last chunk")]
    Ended,
}

impl CaseKey {
    /// Seals these bytes. `about` must be named again by whoever opens them; `chance` must be used
    /// once and never again.
    ///
    /// # Errors
    /// [`SealedError::Key`] when this is no usable key.
    pub fn seal(
        &self,
        bytes: &[u8],
        about: &[u8],
        chance: [u8; KEY_BYTES],
    ) -> Result<String, SealedError> {
        let once = CaseSecret(chance);
        let public = once.public()?;
        let key = once.agree(PURPOSE, (self, &public, self))?;
        let mut sealed = bytes.to_vec();
        key.seal_in_place_append_tag(nonce(), Aad::from(about), &mut sealed)
            .map_err(|_| SealedError::Closed)?;
        Ok(BASE64.encode([&public.0[..], &sealed].concat()))
    }
}

impl CaseSecret {
    /// From 32 bytes of chance.
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The text that is kept. Whoever has it reads the evidence.
    pub fn reveal(&self) -> String {
        BASE64.encode(self.0)
    }

    /// Its public half.
    ///
    /// # Errors
    /// [`SealedError::Key`] when the bytes are no key.
    pub fn public(&self) -> Result<CaseKey, SealedError> {
        let public = self.private()?.compute_public_key().map_err(|_| SealedError::Key)?;
        public.as_ref().try_into().map(CaseKey).map_err(|_| SealedError::Key)
    }

    /// What was sealed to this case about that.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn open(&self, sealed: &str, about: &[u8]) -> Result<Vec<u8>, SealedError> {
        let bytes = BASE64.decode(sealed).map_err(|_| SealedError::Malformed)?;
        let (once, sealed) =
            bytes.split_first_chunk::<KEY_BYTES>().ok_or(SealedError::Malformed)?;
        let once = CaseKey(*once);
        let key = self.agree(PURPOSE, (&once, &once, &self.public()?))?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .open_in_place(nonce(), Aad::from(about), &mut sealed)
            .map_err(|_| SealedError::Closed)?;
        Ok(opened.to_vec())
    }

    fn private(&self) -> Result<PrivateKey, SealedError> {
        PrivateKey::from_private_key(&X25519, &self.0).map_err(|_| SealedError::Key)
    }

    /// The key that both sides come to with the other's half: of one use and one purpose, bound to
    /// both public halves.
    fn agree(
        &self,
        purpose: &[u8],
        (other, once, case): (&CaseKey, &CaseKey, &CaseKey),
    ) -> Result<LessSafeKey, SealedError> {
        let other = UnparsedPublicKey::new(&X25519, other.0);
        agree(&self.private()?, other, SealedError::Key, |secret| {
            let info = [purpose, &once.0, &case.0];
            let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
            let expanded = extracted.expand(&info, &AES_256_GCM).map_err(|_| SealedError::Key)?;
            Ok(LessSafeKey::new(UnboundKey::from(expanded)))
        })
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn key_bytes(text: &str) -> Result<[u8; KEY_BYTES], SealedError> {
    let bytes = BASE64.decode(text).map_err(|_| SealedError::Malformed)?;
    bytes.try_into().map_err(|_| SealedError::Malformed)
}

impl FromStr for CaseKey {
    type Err = SealedError;

    fn from_str(text: &str) -> Result<Self, SealedError> {
        key_bytes(text).map(Self)
    }
}

impl FromStr for CaseSecret {
    type Err = SealedError;

    fn from_str(text: &str) -> Result<Self, SealedError> {
        key_bytes(text).map(Self)
    }
}

impl fmt::Display for CaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl Serialize for CaseKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CaseKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
