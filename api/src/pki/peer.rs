//! Who is at the other end, by the certificate of the connection.
//!
//! Owns reading it and judging its dates. Whether the enrollment still stands is the store's to
//! say, and must be asked on every request: a resumed TLS session skipped the verifier, and the
//! verifier lets through what is past its end.

use std::time::Duration;

use protocol::enrollment::DeviceIdentity;
use protocol::time::Timestamp;
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::{Leaf, Standing};

/// What a device certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The device and its enrollment generation.
    pub identity: DeviceIdentity,
    /// How long the certificate has been past its end; `None` while it counts.
    pub over_for: Option<Duration>,
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

/// Reads the certificate of a connection, at this time. One that is past its end by no more than
/// `grace` is answered too.
pub fn read_peer(
    certificate: Option<&CertificateDer<'_>>,
    now: Timestamp,
    grace: Duration,
) -> Result<Peer, PeerError> {
    let certificate = certificate.ok_or(PeerError::Missing)?;
    let leaf = Leaf::read(certificate).map_err(|_| PeerError::NotADevice)?;
    let identity = DeviceIdentity::from_uris(leaf.uris.iter().map(String::as_str));
    let identity = identity.ok_or(PeerError::NotADevice)?;
    let over_for = match leaf.validity.at(now.as_millis() / 1000) {
        Standing::NotYet => return Err(PeerError::Expired),
        Standing::Valid => None,
        Standing::Over { secs } => Some(Duration::from_secs(secs)),
    };
    if over_for.is_some_and(|over_for| over_for > grace) {
        return Err(PeerError::Expired);
    }
    Ok(Peer { identity, over_for })
}
