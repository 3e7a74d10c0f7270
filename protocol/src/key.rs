//! The keys that sign: Ed25519 for people and servers, ECDSA P-256 for devices.
//!
//! A device's key is P-256 because one key serves its TLS certificate and its receipts, and that
//! is the curve a TPM holds. Private keys never leave the value that owns them and never print.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::KeyId;
use crate::jws::{Algorithm, JwsError, Signer, Verifier};

/// A text or bytes that are no usable key. Never says which bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a usable {0} key")]
pub struct KeyError(&'static str);

fn key_id(public: &[u8]) -> KeyId {
    let hash = digest(&SHA256, public);
    KeyId(BASE64.encode(hash.as_ref().get(..16).unwrap_or_default()))
}

/// An Ed25519 key that signs envelopes, approvals or trust roots.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// The key of that 32-byte seed (RFC 8032). The caller draws the seed and wipes its copy.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError("Ed25519"))?;
        let public = PublicKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { pair, public })
    }

    /// Its public half.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

impl Signer for SigningKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn key_id(&self) -> &KeyId {
        &self.public.id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, JwsError> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

/// The public half of an Ed25519 key. As text: `ed25519:` and 43 characters of base64url.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    bytes: [u8; 32],
    id: KeyId,
}

impl PublicKey {
    /// The key of those 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError("Ed25519"))?;
        Ok(Self { id: key_id(&bytes), bytes })
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Its name.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", BASE64.encode(self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let encoded = text.strip_prefix("ed25519:").ok_or(KeyError("Ed25519"))?;
        Self::from_bytes(&BASE64.decode(encoded).map_err(|_| KeyError("Ed25519"))?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Verifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn key_id(&self) -> &KeyId {
        &self.id
    }

    fn is_valid(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

/// A P-256 key that never leaves what holds it, such as a TPM.
pub trait HardwareKey: Send + Sync {
    /// The public half: an uncompressed point, 65 bytes (SEC 1, 2.3.3).
    fn point(&self) -> &[u8];

    /// `r` and `s` of ECDSA over the SHA-256 of a message, 32 bytes each; `None` when it does not sign now.
    fn sign(&self, message: &[u8]) -> Option<[u8; 64]>;
}

/// A device's P-256 key. Made once, on the device.
pub struct DeviceKey {
    held: Held,
    public: DevicePublicKey,
}

enum Held {
    /// In memory.
    Pair(EcdsaKeyPair),
    Hardware(Box<dyn HardwareKey>),
}

impl DeviceKey {
    /// A key that something else holds.
    ///
    /// # Errors
    /// When its public half is no point.
    pub fn of_hardware(key: impl HardwareKey + 'static) -> Result<Self, KeyError> {
        let public = DevicePublicKey::from_point(key.point())?;
        Ok(Self { held: Held::Hardware(Box::new(key)), public })
    }

    /// Whether it is held by hardware, so that no copy of any file is it.
    pub const fn is_of_hardware(&self) -> bool {
        matches!(self.held, Held::Hardware(_))
    }

    /// The key of a PKCS#8 document (RFC 5208), as the state directory keeps it.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| KeyError("P-256"))?;
        let public = DevicePublicKey::from_point(pair.public_key().as_ref())?;
        Ok(Self { held: Held::Pair(pair), public })
    }

    /// Its public half.
    pub fn public(&self) -> DevicePublicKey {
        self.public.clone()
    }

    /// The key ready to sign: ECDSA draws a nonce for each signature.
    pub const fn signer<'a>(&'a self, random: &'a dyn SecureRandom) -> DeviceSigner<'a> {
        DeviceSigner { key: self, random }
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.public.id)
    }
}

/// A device's key together with the randomness that its signatures need.
pub struct DeviceSigner<'a> {
    key: &'a DeviceKey,
    random: &'a dyn SecureRandom,
}

impl fmt::Debug for DeviceSigner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSigner({})", self.key.public.id)
    }
}

impl Signer for DeviceSigner<'_> {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn key_id(&self) -> &KeyId {
        &self.key.public.id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, JwsError> {
        let signature = match &self.key.held {
            Held::Pair(pair) => pair.sign(self.random, message).ok().map(|it| it.as_ref().to_vec()),
            Held::Hardware(key) => key.sign(message).map(Vec::from),
        };
        signature.ok_or(JwsError::Signing)
    }
}

/// The public half of a device's key: an uncompressed P-256 point, 65 bytes (SEC 1, 2.3.3).
#[derive(Clone, PartialEq, Eq)]
pub struct DevicePublicKey {
    point: Vec<u8>,
    id: KeyId,
}

impl DevicePublicKey {
    /// The key of that uncompressed point, as a certificate carries it.
    pub fn from_point(point: &[u8]) -> Result<Self, KeyError> {
        if point.len() != 65 || point.first() != Some(&4) {
            return Err(KeyError("P-256"));
        }
        Ok(Self { point: point.to_vec(), id: key_id(point) })
    }

    /// The uncompressed point.
    pub fn as_point(&self) -> &[u8] {
        &self.point
    }

    /// Its name.
    pub const fn id(&self) -> &KeyId {
        &self.id
    }
}

impl fmt::Debug for DevicePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevicePublicKey({})", self.id)
    }
}

impl Verifier for DevicePublicKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }

    fn key_id(&self) -> &KeyId {
        &self.id
    }

    fn is_valid(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point)
            .verify(message, signature)
            .is_ok()
    }
}
