//! Enrollment and renewal: how this machine becomes a device, and stays one.
//!
//! The key is made first and kept, so that an enrollment that broke off is repeated as the same
//! request. The enrollment document is written last: before it there is no device here.

use std::path::PathBuf;

use protocol::enrollment::{
    AgentConfig, ENROLL_PATH, EnrollRequest, EnrollResponse, EnrollmentToken, RENEW_PATH,
    RenewRequest, RenewResponse,
};
use protocol::jws::JwsError;
use protocol::trust::TrustRoot;
use runtime::tls::{PinError, SpkiPin, TlsError, pinned_client_config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Dialer, HttpError, post};
use crate::identity::{Identity, IdentityError, KeyPair, certificates, pins};
use crate::journal::{Journal, JournalError};
use crate::state::{Enrollment, StateDir, StateError, TrustChain};

/// For name, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// For the request itself: the control plane signs a certificate.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a machine did not become a device, or a certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is an enrollment already.
    #[error("{} holds an enrollment; --force replaces it by a new one", .0.display())]
    Enrolled(PathBuf),
    /// The state directory.
    #[error("the state directory cannot be used")]
    State(#[from] StateError),
    /// The journal of the new enrollment.
    #[error("the journal cannot be made")]
    Journal(#[from] JournalError),
    /// The token's pin.
    #[error("the token's pin cannot be used")]
    Pin(#[from] PinError),
    /// TLS could not be set up.
    #[error("tls cannot be set up")]
    Tls(#[from] TlsError),
    /// Key or certificate.
    #[error("key and certificate do not work together")]
    Identity(#[from] IdentityError),
    /// No control plane answered as hoped.
    #[error("the control plane did not answer as hoped")]
    Http(#[from] HttpError),
    /// There is no address of the control plane.
    #[error("no address of the control plane is known")]
    NoAddress,
    /// The answer is not understood.
    #[error("the answer of the control plane is not understood")]
    Answer(#[from] serde_json::Error),
    /// The signed configuration of the answer.
    #[error("the signed configuration cannot be believed")]
    Config(#[source] JwsError),
}

/// Makes a device of this machine, with that key and token. Answers what it became.
///
/// # Errors
/// [`EnrollError`]; nothing is kept then, and calling again with the same key is safe.
pub async fn enroll(
    state: &StateDir,
    key: &KeyPair,
    token: &EnrollmentToken,
    name: String,
    force: bool,
) -> Result<Enrollment, EnrollError> {
    if state.enrollment()?.is_some() && !force {
        return Err(EnrollError::Enrolled(state.path().to_owned()));
    }
    let pin: SpkiPin = token.ca_spki_sha256.parse()?;
    let tls = Arc::new(pinned_client_config(pin, &[b"http/1.1"])?);
    let csr = key.certificate_request()?;
    let request = EnrollRequest { secret: token.secret.clone(), name, csr };
    let asking = Asking { dialer: &Dialer::default(), addresses: &token.api, tls };
    let answer: EnrollResponse = asking.post(ENROLL_PATH, &request).await?;

    let authorities = certificates(&answer.ca)?;
    let who = (answer.device_id, answer.generation);
    let trust = answer.trust.pin().map_err(StateError::from)?;
    Identity::new(who, key, &answer.certificate, (&authorities, &pins(&trust.authority_pins)))?;
    AgentConfig::verify(&answer.config, &trust).map_err(EnrollError::Config)?;
    let enrollment = Enrollment {
        device_id: answer.device_id,
        generation: answer.generation,
        certificate: answer.certificate,
        ca: answer.ca,
        config: answer.config,
    };
    Journal::create(&state.journal_path(&enrollment))?;
    TrustChain::pin(state, answer.trust)?;
    state.save_enrollment(&enrollment)?;
    Ok(enrollment)
}

/// Asks for a new certificate over the present one. Answers the enrollment as it is to be kept.
///
/// # Errors
/// [`EnrollError`]; the present certificate stands.
pub(crate) async fn renew(
    former: &Enrollment,
    (key, identity, trust): (&KeyPair, &Identity, &TrustRoot),
    (dialer, addresses): (&Dialer, &[String]),
) -> Result<Enrollment, EnrollError> {
    let request = RenewRequest { csr: key.certificate_request()? };
    let asking = Asking { dialer, addresses, tls: identity.tls.clone() };
    let answer: RenewResponse = asking.post(RENEW_PATH, &request).await?;
    // A directory that cannot be believed does not spoil the certificate, nor the former one.
    let config = match AgentConfig::verify(&answer.config, trust) {
        Ok(config) if config.iat >= followed(former).map_or(config.iat, |former| former.iat) => {
            answer.config
        }
        Ok(_) => former.config.clone(),
        Err(error) => {
            tracing::warn!(%error, "signed configuration was not taken");
            former.config.clone()
        }
    };
    let Enrollment { device_id, generation, .. } = *former;
    let (certificate, ca) = (answer.certificate, answer.ca);
    Ok(Enrollment { device_id, generation, certificate, ca, config })
}

/// The configuration that an enrollment follows. It was verified when it was written, and the
/// key that signed it may have gone out of use since.
pub(crate) fn followed(enrollment: &Enrollment) -> Option<AgentConfig> {
    use protocol::enrollment::CONFIG_TYP;
    use protocol::{jws, limits};
    jws::parse(&enrollment.config, CONFIG_TYP, limits::FRAME_BYTES).ok()?.claims().ok()
}

struct Asking<'a> {
    dialer: &'a Dialer,
    addresses: &'a [String],
    tls: Arc<rustls::ClientConfig>,
}

impl Asking<'_> {
    /// Asks one address after the other. A refusal is an answer: nobody else is asked then.
    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, EnrollError> {
        let body = serde_json::to_vec(request)?;
        let mut last = EnrollError::NoAddress;
        for address in self.addresses {
            let asked = async {
                let stream = self.dialer.connect(address, self.tls.clone(), CONNECT).await?;
                post(stream, (address, path), body.clone(), ANSWER).await
            };
            match asked.await {
                Ok(answer) => return Ok(serde_json::from_slice(&answer)?),
                Err(error @ HttpError::Status { status, .. }) if status.is_client_error() => {
                    return Err(error.into());
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }
}
