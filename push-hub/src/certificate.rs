//! What a device certificate says, and whether it still counts.
//!
//! Owns reading the identity out of a certificate and the list of revocations. The chain was
//! verified by TLS in the *original* handshake only, so everything that can change since then
//! is judged here, after every handshake.

use dashmap::DashMap;
use protocol::close::CloseCode;
use protocol::id::DeviceId;
use runtime::tls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

#[cfg(test)]
mod tests;

/// The URI that carries the device id.
const DEVICE_URI: &str = "urn:tocsin:device:";
/// The URI that carries the generation of the enrollment.
const GENERATION_URI: &str = "urn:tocsin:generation:";
/// Revocations that are remembered. Certificates are short-lived, and the control plane repeats
/// a revocation when it hears from the device.
const MAX_REVOCATIONS: usize = 1_000_000;

/// Who a certificate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: DeviceId,
    /// The generation of its enrollment.
    pub(crate) generation: u32,
    /// The end of the certificate, in seconds since the Unix epoch.
    pub(crate) not_after_secs: u64,
}

/// Why a certificate does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("no device certificate")]
    Missing,
    #[error("certificate names no device")]
    NotADevice,
    #[error("certificate is past its end")]
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
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::NotADevice)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| CertificateError::NotADevice)?
            .ok_or(CertificateError::NotADevice)?;
        let uris = || names.value.general_names.iter().filter_map(uri);
        let device = only(uris().filter_map(|uri| uri.strip_prefix(DEVICE_URI)))?;
        let generation = only(uris().filter_map(|uri| uri.strip_prefix(GENERATION_URI)))?;
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Self {
            device: device.parse().map_err(|_| CertificateError::NotADevice)?,
            generation: generation.parse().map_err(|_| CertificateError::NotADevice)?,
            not_after_secs: u64::try_from(not_after).unwrap_or(0),
        })
    }

    /// Whether it still counts: its end, and the revocations.
    pub(crate) fn check(
        &self,
        now_secs: u64,
        revocations: &Revocations,
    ) -> Result<(), CertificateError> {
        if now_secs > self.not_after_secs {
            Err(CertificateError::Expired)
        } else if revocations.covers(self.device, self.generation) {
            Err(CertificateError::Revoked)
        } else {
            Ok(())
        }
    }
}

fn uri<'a>(name: &'a GeneralName<'_>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

/// Exactly one: with two names it would be open who it is.
fn only<'a>(mut found: impl Iterator<Item = &'a str>) -> Result<&'a str, CertificateError> {
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None | Some(_), _) => Err(CertificateError::NotADevice),
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
