//! Enrollment on the wire: what a token carries, what an agent asks for, and what it gets.
//!
//! Owns the bodies of `/agent/v1/enroll` and `/agent/v1/renew` on the control plane's agent port,
//! the names inside a device certificate, and the signed configuration. Makes no certificate.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::id::DeviceId;
use crate::jws::{self, CompactJws, JwsError, Signer};
use crate::limits;
use crate::time::Timestamp;
use crate::trust::{SignedTrustRoot, TrustRoot};

/// Path of enrollment: `POST` an [`EnrollRequest`] without a client certificate, `201` with an
/// [`EnrollResponse`].
pub const ENROLL_PATH: &str = "/agent/v1/enroll";
/// Path of renewal: `POST` a [`RenewRequest`] over the old certificate, `200` with a
/// [`RenewResponse`].
pub const RENEW_PATH: &str = "/agent/v1/renew";
/// The media type of the signed configuration's JWS header.
pub const CONFIG_TYP: &str = "tocsin-config+jws";
/// What every enrollment token begins with.
pub const TOKEN_PREFIX: &str = "tocsin-enroll-1.";

/// URI subject alternative name of a device certificate: this and the device id.
pub const DEVICE_URN: &str = "urn:tocsin:device:";
/// URI subject alternative name of a device certificate: this and the enrollment generation.
pub const GENERATION_URN: &str = "urn:tocsin:generation:";

/// Who a device certificate says its holder is, read from its URI names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// The device.
    pub device: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
}

impl DeviceIdentity {
    /// The URI names that a certificate of this identity carries.
    pub fn to_uris(self) -> [String; 2] {
        [format!("{DEVICE_URN}{}", self.device), format!("{GENERATION_URN}{}", self.generation)]
    }

    /// Reads the identity from a certificate's URI names; `None` unless each of the two names is
    /// there exactly once.
    pub fn from_uris<'a>(uris: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut device, mut generation) = (None, None);
        for uri in uris {
            if let Some(text) = uri.strip_prefix(DEVICE_URN) {
                if device.replace(text.parse().ok()?).is_some() {
                    return None;
                }
            } else if let Some(text) = uri.strip_prefix(GENERATION_URN)
                && generation.replace(text.parse().ok()?).is_some()
            {
                return None;
            }
        }
        Some(Self { device: device?, generation: generation? })
    }
}

/// What an operator hands to a new device: one use, minutes. As text:
/// `tocsin-enroll-1.` and base64url of this as JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentToken {
    /// The secret; the control plane keeps only its hash.
    pub secret: String,
    /// Addresses of the control plane's agent port, such as `https://tocsin.example:7443`.
    pub api: Vec<String>,
    /// SHA-256 of the authority's SubjectPublicKeyInfo, 64 hex digits. The server presents the
    /// authority's certificate after its own.
    pub ca_spki_sha256: String,
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentToken(api: {:?}, secret redacted)", self.api)
    }
}

impl fmt::Display for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{TOKEN_PREFIX}{}", BASE64.encode(json))
    }
}

/// A text that is no enrollment token. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enrollment token ({TOKEN_PREFIX}…)")]
pub struct ParseTokenError;

impl FromStr for EnrollmentToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let encoded = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(ParseTokenError)?;
        if encoded.len() > limits::UPGRADE_HEADER_BYTES {
            return Err(ParseTokenError);
        }
        let json = BASE64.decode(encoded).map_err(|_| ParseTokenError)?;
        serde_json::from_slice(&json).map_err(|_| ParseTokenError)
    }
}

/// The body of an enrollment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The token's secret.
    pub secret: String,
    /// What the device calls itself, usually its host name.
    pub name: String,
    /// A certificate signing request (PKCS#10, PEM) made with the device's P-256 key. Only its
    /// key and its proof of possession are looked at.
    pub csr: String,
}

impl fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollRequest(name: {:?}, secret redacted)", self.name)
    }
}

/// The answer to an enrollment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollResponse {
    /// The device's id: new, or the former one when the key was enrolled before.
    pub device_id: DeviceId,
    /// Its enrollment generation, counting from 1.
    pub generation: u32,
    /// The device certificate and its issuer (PEM, leaf first).
    pub certificate: String,
    /// The authorities to trust for hubs and control plane (PEM).
    pub ca: String,
    /// The trust root to pin.
    pub trust: SignedTrustRoot,
    /// Where to connect: an [`AgentConfig`], signed.
    pub config: CompactJws,
}

/// The body of a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// A certificate signing request (PKCS#10, PEM) made with the same key as before.
    pub csr: String,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// The device certificate and its issuer (PEM, leaf first).
    pub certificate: String,
    /// The authorities to trust for hubs and control plane (PEM).
    pub ca: String,
    /// Where to connect: an [`AgentConfig`], signed.
    pub config: CompactJws,
}

/// Where an agent connects, signed by a command key of its trust root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// When it was signed. An agent keeps the newest.
    #[serde(with = "crate::time::numeric_date")]
    pub iat: Timestamp,
    /// Addresses of the control plane's agent port.
    pub api: Vec<String>,
    /// Addresses of hubs' agent ports.
    pub hubs: Vec<String>,
}

impl AgentConfig {
    /// Signs it with a command key.
    pub fn sign(&self, signer: &dyn Signer) -> Result<CompactJws, JwsError> {
        jws::sign(CONFIG_TYP, self, signer)
    }

    /// Reads a configuration that a command key of this trust root signed.
    pub fn verify(jws: &CompactJws, trust: &TrustRoot) -> Result<Self, JwsError> {
        let parsed = jws::parse(jws, CONFIG_TYP, limits::FRAME_BYTES)?;
        let key = trust.command_key(parsed.key_id()).ok_or(JwsError::BadSignature)?;
        parsed.verify(&key.key)?;
        let config: Self = parsed.claims()?;
        let many = config.api.len().max(config.hubs.len());
        if many > limits::LIST_ENTRIES {
            return Err(JwsError::Claims("too many addresses".to_owned()));
        }
        Ok(config)
    }
}
