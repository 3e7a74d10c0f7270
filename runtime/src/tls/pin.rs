//! Trusting a server by the hash of its authority's public key.
//!
//! Owns the pin and the verifier. Must not weaken any other check: name, validity, usage and
//! signatures go through webpki as usual.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

/// The most certificates looked at for the pinned key; a longer chain is refused.
const MAX_CHAIN: usize = 8;

/// SHA-256 of a DER SubjectPublicKeyInfo (RFC 5280, section 4.1), written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiPin([u8; 32]);

/// Why a pin could not be read or computed.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The text is not 64 hexadecimal digits.
    #[error("a pin is 64 hexadecimal digits")]
    Malformed,
    /// The certificate could not be parsed.
    #[error("unreadable certificate")]
    Certificate(#[source] Error),
}

impl SpkiPin {
    /// A pin from the raw hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The pin of a certificate's key.
    ///
    /// # Errors
    /// [`PinError::Certificate`] when `certificate` is not X.509.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PinError> {
        let mut store = RootCertStore::empty();
        store.add(certificate.clone().into_owned()).map_err(PinError::Certificate)?;
        let anchor = store.roots.first().expect("the store holds the certificate just added");
        let spki = sequence(&anchor.subject_public_key_info);
        let hash = digest(&SHA256, &spki);
        Ok(Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes")))
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SpkiPin({self})")
    }
}

impl FromStr for SpkiPin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PinError::Malformed);
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * at..2 * at + 2];
            *byte = u8::from_str_radix(digits, 16).expect("checked to be hexadecimal digits");
        }
        Ok(Self(bytes))
    }
}

/// Puts back the DER header that webpki strips from a trust anchor's key.
fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = length.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    let mut der = vec![0x30];
    match content.len() {
        0..=0x7f => der.push(significant.first().copied().unwrap_or(0)),
        _ => {
            let count = u8::try_from(significant.len()).expect("a length has at most 8 bytes");
            der.push(0x80 | count);
            der.extend(significant);
        }
    }
    der.extend_from_slice(content);
    der
}

/// Accepts a server whose leaf chains, for the expected name, to a certificate with a pinned key: one
/// that is known, or one that the server presents as an issuer.
#[derive(Debug)]
pub(super) struct SpkiPinVerifier {
    pins: Vec<SpkiPin>,
    known: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl SpkiPinVerifier {
    pub(super) fn new(
        pins: &[SpkiPin],
        known: &[CertificateDer<'static>],
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { pins: pins.to_vec(), known: known.to_vec(), provider }
    }

    /// The known authorities and presented issuers that have a pinned key. The leaf is not among them: a
    /// pin names an authority.
    fn anchors(&self, issuers: &[CertificateDer<'_>]) -> RootCertStore {
        let mut anchors = RootCertStore::empty();
        let is_pinned = |pin| self.pins.contains(&pin);
        for issuer in self.known.iter().chain(issuers) {
            if SpkiPin::of(issuer).is_ok_and(is_pinned) {
                anchors.add_parsable_certificates([issuer.clone().into_owned()]);
            }
        }
        anchors
    }
}

impl ServerCertVerifier for SpkiPinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() > MAX_CHAIN {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let anchors = self.anchors(intermediates);
        if anchors.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
