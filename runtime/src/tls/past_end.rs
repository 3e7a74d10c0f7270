//! A verifier that lets client certificates through although they are past their end.
//!
//! Owns nothing but that one exception: authority, purpose and signatures are verified as ever,
//! as of the last second of the certificate. Whoever uses it must judge the time of every
//! certificate in every handler; a resumed session makes them do so anyway.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::leaf::{Leaf, Standing};

/// The verifier.
#[derive(Debug)]
pub(super) struct PastEnd(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PastEnd {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let error = match self.0.verify_client_cert(end_entity, intermediates, now) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        let is_over = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            )
        );
        let Ok(leaf) = Leaf::read(end_entity) else { return Err(error) };
        let Standing::Over { .. } = leaf.validity.at(now.as_secs()) else { return Err(error) };
        if !is_over {
            return Err(error);
        }
        let then = Duration::from_secs(leaf.validity.not_after_secs);
        self.0.verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(then))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
