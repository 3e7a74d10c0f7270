//! Who is at the other end, by the certificate of the connection.
//!
//! Owns reading it and judging its dates. Whether the enrollment still stands is the store's to
//! say, and must be asked on every request: a resumed TLS session skipped the verifier.

use protocol::enrollment::DeviceIdentity;
use protocol::time::Timestamp;
use runtime::tls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a device certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The device and its enrollment generation.
    pub identity: DeviceIdentity,
    /// When the certificate ends.
    pub expires_at: Timestamp,
}

/// Why a certificate is not one of a device, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is none.
    #[error("a client certificate is needed")]
    Missing,
    /// It is not a device's.
    #[error("the client certificate names no device")]
    NotADevice,
    /// It is past its end, or before its begin.
    #[error("the client certificate is not valid now")]
    Expired,
}

/// Reads the certificate of a connection, at this time.
pub fn read_peer(
    certificate: Option<&CertificateDer<'_>>,
    now: Timestamp,
) -> Result<Peer, PeerError> {
    let certificate = certificate.ok_or(PeerError::Missing)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::NotADevice)?;
    let names = parsed.subject_alternative_name().ok().flatten().ok_or(PeerError::NotADevice)?;
    let uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let identity = DeviceIdentity::from_uris(uris).ok_or(PeerError::NotADevice)?;
    let validity = parsed.validity();
    let secs =
        |time: i64| Timestamp::from_millis(u64::try_from(time).unwrap_or(0).saturating_mul(1000));
    let expires_at = secs(validity.not_after.timestamp());
    if now >= expires_at || now < secs(validity.not_before.timestamp()) {
        return Err(PeerError::Expired);
    }
    Ok(Peer { identity, expires_at })
}
