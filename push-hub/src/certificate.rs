//! What a device certificate says, and whether it still counts.
//!
//! Owns reading the identity out of a certificate and the list of revocations. The chain was
//! verified by TLS in the *original* handshake only, so everything that can change since then
//! is judged here, after every handshake.

use dashmap::DashMap;
use protocol::close::CloseCode;
use protocol::enrollment::DeviceIdentity;
use protocol::id::DeviceId;
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::{Leaf, Standing, Validity};

#[cfg(test)]
pub(crate) mod tests;

/// Revocations that are remembered. Certificates are short-lived, and the control plane repeats
/// a revocation when it hears from the device.
const MAX_REVOCATIONS: usize = 1_000_000;

/// Who a certificate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: DeviceId,
    /// The generation of its enrollment.
    pub(crate) generation: u32,
    /// When the certificate counts.
    pub(crate) validity: Validity,
}

/// Why a certificate does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("no device certificate")]
    Missing,
    #[error("certificate names no device")]
    NotADevice,
    #[error("certificate is past its end, or before its begin")]
    Expired,
    #[error("enrollment is revoked")]
    Revoked,
}

impl CertificateError {
    /// What the agent is told.
    pub(crate) const fn close_code(self) -> CloseCode {
        match self {
            Self::Missing | Self::NotADevice => CloseCode::Protocol,
            Self::Expired => CloseCode::CertificateExpired,
            Self::Revoked => CloseCode::Revoked,
        }
    }
}

impl Identity {
    /// Reads a certificate whose chain was verified.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let leaf = Leaf::read(certificate).map_err(|_| CertificateError::NotADevice)?;
        let names = DeviceIdentity::from_uris(leaf.uris.iter().map(String::as_str));
        let DeviceIdentity { device, generation } = names.ok_or(CertificateError::NotADevice)?;
        Ok(Self { device, generation, validity: leaf.validity })
    }

    /// Whether it still counts: its end, and the revocations.
    pub(crate) fn check(
        &self,
        now_secs: u64,
        revocations: &Revocations,
    ) -> Result<(), CertificateError> {
        match self.validity.at(now_secs) {
            Standing::NotYet | Standing::Over { .. } => Err(CertificateError::Expired),
            Standing::Valid if revocations.covers(self.device, self.generation) => {
                Err(CertificateError::Revoked)
            }
            Standing::Valid => Ok(()),
        }
    }
}

/// The enrollments that were revoked, as far as this hub has heard.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    through: DashMap<DeviceId, u32>,
}

impl Revocations {
    /// Refuses generations of the device up to and including this one. Never takes back.
    pub(crate) fn add(&self, device: DeviceId, through_generation: u32) {
        if self.through.len() >= MAX_REVOCATIONS && !self.through.contains_key(&device) {
            tracing::warn!(device.id = %device, "too many revocations, one is not remembered");
            return;
        }
        let mut through = self.through.entry(device).or_insert(through_generation);
        *through = through_generation.max(*through);
    }

    pub(crate) fn covers(&self, device: DeviceId, generation: u32) -> bool {
        self.through.get(&device).is_some_and(|through| generation <= *through)
    }
}
