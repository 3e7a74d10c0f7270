//! Enrollment and renewal: how a machine becomes a device, and stays one.
//!
//! The bodies of `POST /agent/v1/enroll` and `POST /agent/v1/renew` on the control plane's agent
//! port (JSON both ways, at most [`crate::limits::EXCHANGE_BYTES`]), the enrollment token, and
//! the signed directory of addresses that an agent follows.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::action::is_printable;
use crate::id::{BootId, DeviceId};
use crate::jws::{self, CompactJws, JwsError, Signer};
use crate::limits;
use crate::time::Timestamp;
use crate::trust::{SignedTrustRoot, TrustRoot};

#[cfg(test)]
mod tests;

/// Path of enrollment on the control plane's agent port; no client certificate.
pub const ENROLL_PATH: &str = "/agent/v1/enroll";
/// Path of renewal on the control plane's agent port; with the former client certificate.
pub const RENEW_PATH: &str = "/agent/v1/renew";
/// The media type of a signed directory's JWS header.
pub const DIRECTORY_TYP: &str = "tocsin-config+jws";

/// What an enrollment token begins with; the number is the version of its content.
const TOKEN_PREFIX: &str = "tocsin-enroll-1.";
/// The longest text that is looked at as a token, in bytes.
const TOKEN_BYTES: usize = 4096;
/// The longest address, in bytes: a DNS name and a port.
const ADDRESS_BYTES: usize = 262;

/// An enrollment token: lets one machine become one device. As text: `tocsin-enroll-1.` and
/// base64url of its JSON. Debug shows no secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentToken {
    /// Proves the right to enroll, once.
    pub secret: String,
    /// Agent ports of the control plane, each `host:port`; at least one.
    pub api: Vec<String>,
    /// SHA-256 of the authority's DER SubjectPublicKeyInfo, 64 hexadecimal digits: the only
    /// authority that the enrolling machine believes.
    pub ca_spki_sha256: String,
}

/// A text that is no enrollment token. Never says which text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enrollment token; one begins with {TOKEN_PREFIX}")]
pub struct ParseTokenError;

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollmentToken")
            .field("api", &self.api)
            .field("ca_spki_sha256", &self.ca_spki_sha256)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for EnrollmentToken {
    /// Writes the token with its secret: for the operator who asked for it, never for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{TOKEN_PREFIX}{}", BASE64.encode(json))
    }
}

impl FromStr for EnrollmentToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(TOKEN_PREFIX).ok_or(ParseTokenError)?;
        if encoded.len() > TOKEN_BYTES {
            return Err(ParseTokenError);
        }
        let json = BASE64.decode(encoded).map_err(|_| ParseTokenError)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| ParseTokenError)?;
        let is_sound = !token.secret.is_empty()
            && !token.api.is_empty()
            && are_addresses(&token.api)
            && token.ca_spki_sha256.len() == 64;
        if is_sound { Ok(token) } else { Err(ParseTokenError) }
    }
}

/// The body of an enrollment. Repeating it with the same secret and the same key, after an answer
/// that got lost, gives the same device again; with another key it is refused.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The token's secret.
    pub secret: String,
    /// A PKCS#10 request (RFC 2986) for the device's P-256 key, PEM. Its subject is empty: the
    /// control plane names the device.
    pub csr_pem: String,
    /// What people call the machine, usually its host name.
    pub name: String,
    /// Version of the agent.
    pub agent: String,
    /// The boot the machine runs in.
    pub boot_id: BootId,
    /// What the device can do, as in [`crate::frame::Hello`].
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("name", &self.name)
            .field("agent", &self.agent)
            .field("boot_id", &self.boot_id)
            .finish_non_exhaustive()
    }
}

impl EnrollRequest {
    /// Whether every field is within its bound and prints as it reads.
    pub fn is_sound(&self) -> bool {
        self.secret.len() <= 256
            && self.csr_pem.len() <= 16 * 1024
            && (1..=255).contains(&self.name.len())
            && is_printable(&self.name)
            && self.agent.len() <= 64
            && is_printable(&self.agent)
            && self.capabilities.len() <= limits::LIST_ENTRIES
            && self.capabilities.iter().all(|word| word.len() <= 64 && is_printable(word))
    }
}

/// The answer to an enrollment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollResponse {
    /// The device.
    pub device_id: DeviceId,
    /// Its enrollment generation: counts up when the same device enrolls again.
    pub generation: u32,
    /// Its certificate.
    pub certificate: DeviceCertificate,
    /// Every version of the trust root from one that the device pins to the one in force,
    /// oldest first, each succeeding the former; at least one.
    pub trust_roots: Vec<SignedTrustRoot>,
    /// The signed [`Directory`].
    pub directory: CompactJws,
}

/// A device's certificate, with what the agent needs to know of it without reading X.509.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCertificate {
    /// The leaf, then every intermediate, PEM.
    pub chain_pem: String,
    /// The authorities that hubs and control plane are verified with, PEM.
    pub ca_pem: String,
    /// The leaf's `notBefore`.
    pub not_before: Timestamp,
    /// The leaf's `notAfter`.
    pub not_after: Timestamp,
}

impl DeviceCertificate {
    /// When to renew: at two thirds of the certificate's life.
    pub fn renew_at(&self) -> Timestamp {
        self.not_before.plus(self.not_after.since(self.not_before) * 2 / 3)
    }
}

/// The body of a renewal. The device is known by the certificate of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A PKCS#10 request for the same key, PEM.
    pub csr_pem: String,
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// The new certificate, for the same device, generation and key.
    pub certificate: DeviceCertificate,
    /// The signed [`Directory`] of now.
    pub directory: CompactJws,
}

/// Where an agent finds its hubs and control plane. Signed by a command key of the trust root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// When it was signed. An agent follows the newest it has seen.
    pub issued_at: Timestamp,
    /// Agent ports of the control plane, each `host:port`.
    pub api_addresses: Vec<String>,
    /// Agent ports of the hubs, each `host:port`.
    pub hub_addresses: Vec<String>,
}

/// Why a directory is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be read, or its signature does not verify.
    #[error("the directory cannot be believed")]
    Document(#[from] JwsError),
    /// Signed by no command key of the trust root.
    #[error("the directory is signed by no command key of the trust root")]
    Stranger,
    /// It names too many addresses, or texts that are none.
    #[error("the directory names unusable addresses")]
    Addresses,
}

impl Directory {
    /// Signs a directory with a command key.
    pub fn sign(&self, signer: &dyn Signer) -> Result<CompactJws, JwsError> {
        jws::sign(DIRECTORY_TYP, self, signer)
    }

    /// Reads a directory that a command key of that trust root signed.
    pub fn verify(jws: &CompactJws, trust: &TrustRoot) -> Result<Self, DirectoryError> {
        let parsed = jws::parse(jws, DIRECTORY_TYP, limits::FRAME_BYTES)?;
        let key = trust.command_key(parsed.key_id()).ok_or(DirectoryError::Stranger)?;
        parsed.verify(&key.key)?;
        let directory: Self = parsed.claims()?;
        if are_addresses(&directory.api_addresses) && are_addresses(&directory.hub_addresses) {
            Ok(directory)
        } else {
            Err(DirectoryError::Addresses)
        }
    }
}

/// Whether these are few enough and each looks like `host:port`.
fn are_addresses(addresses: &[String]) -> bool {
    let is_address = |address: &String| {
        address.len() <= ADDRESS_BYTES
            && address.bytes().all(|byte| byte.is_ascii_graphic())
            && address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
    };
    addresses.len() <= limits::LIST_ENTRIES && addresses.iter().all(is_address)
}
