//! Secrets of tokens: 256 random bits, kept as a hash.
//!
//! Owns drawing, hashing and comparing them. A hash without salt or stretching is enough for
//! secrets that nobody can guess.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use runtime::Entropy;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A secret as it is shown once.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Draws a secret that begins with `prefix`.
    pub fn draw(prefix: &str, entropy: &Entropy) -> Self {
        let bytes = Zeroizing::new(entropy.bytes::<32>());
        Self(Zeroizing::new(format!("{prefix}{}", BASE64.encode(*bytes))))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its hash.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// SHA-256 of a secret's text.
#[derive(Debug, Clone)]
pub struct SecretHash(Vec<u8>);

impl SecretHash {
    /// The hash of what somebody presents.
    pub fn of(text: &str) -> Self {
        Self(digest(&SHA256, text.as_bytes()).as_ref().to_vec())
    }

    /// The bytes, for the store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a stored hash is this one, in constant time.
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.0.as_slice().ct_eq(stored).into()
    }
}
