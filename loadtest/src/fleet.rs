//! Making devices and unmaking them: enrollment through the front door, and revocation.
//!
//! Each device has a key of its own, made here and kept in memory only. Whatever was enrolled is
//! remembered, however the enrollment of the rest ends, so that all of it can be revoked.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use protocol::enrollment::{AgentConfig, ENROLL_PATH, EnrollRequest, EnrollResponse};
use protocol::id::{DeviceId, GroupName};
use protocol::jws::JwsError;
use protocol::key::{DeviceKey, KeyError};
use protocol::trust::{TrustError, TrustRoot};
use runtime::lifecycle::CancellationToken;
use runtime::tls::pki_types::pem::{Error as PemError, PemObject as _};
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use runtime::tls::{self, PinError, TlsError};
use runtime::{Drain, Entropy};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::http::{HttpError, Line, Peer};
use crate::operator::{self, Desk, Operator, OperatorError};
use crate::swarm::Kind;

/// Devices that are enrolled or revoked at the same time.
const AT_ONCE: usize = 8;

/// For how long whoever is told to come again later does so, for one device.
const PATIENCE: Duration = Duration::from_secs(900);
/// Whoever is told to come again after more than that is beyond a budget, not a rate, and so is everybody behind.
const LONGEST: Duration = Duration::from_secs(60);
/// How much longer each one waits than it was told, at most, in milliseconds.
const SPREAD_MS: u64 = 500;

/// Why a device was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The operator's API gave no token.
    #[error("no enrollment token was made")]
    Operator(#[from] OperatorError),
    /// The agent port was not reached.
    #[error("the agent port did not answer")]
    Http(#[from] HttpError),
    /// The agent port answered otherwise than with an enrollment.
    #[error("the agent port refused the enrollment")]
    Refused(#[source] OperatorError),
    /// The token's pin.
    #[error("the token's pin cannot be used")]
    Pin(#[from] PinError),
    /// The token names no address.
    #[error("the token names no address of the agent port")]
    NoAddress,
    /// The signed configuration names no hub.
    #[error("the platform names no hub")]
    NoHub,
    /// Key or certificate request.
    #[error("no key could be made")]
    Making(#[from] rcgen::Error),
    /// The key is not one for receipts.
    #[error("the key cannot sign")]
    Key(#[from] KeyError),
    /// The certificates that were answered.
    #[error("a certificate is not pem")]
    Pem(#[from] PemError),
    /// TLS could not be set up.
    #[error("tls cannot be set up")]
    Tls(#[from] TlsError),
    /// The trust root that was answered.
    #[error("the trust root cannot be pinned")]
    Trust(#[from] TrustError),
    /// The signed configuration that was answered.
    #[error("the signed configuration cannot be believed")]
    Config(#[from] JwsError),
    /// The answer is not understood.
    #[error("the answer of the agent port is not understood")]
    Answer(#[from] serde_json::Error),
}

/// A device as it came out of its enrollment.
pub struct Enrolled {
    /// Its id.
    pub id: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The key of its certificate and its receipts.
    pub key: DeviceKey,
    /// The TLS client that shows its certificate.
    pub tls: Arc<ClientConfig>,
    /// The trust root that it pinned.
    pub trust: TrustRoot,
    /// Addresses of hubs.
    pub hubs: Vec<String>,
    /// Addresses of the control plane's agent port.
    pub api: Vec<String>,
}

impl std::fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolled").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How an enrollment of many ended.
#[derive(Debug)]
pub struct Enrollment {
    /// Those that are devices now.
    pub devices: Vec<(Kind, Enrolled)>,
    /// What stopped it, if anything did.
    pub error: Option<FleetError>,
}

/// The groups of one run, which no other has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Groups {
    /// Of those that answer.
    pub all: GroupName,
    /// Of those that read nothing.
    pub stalled: GroupName,
}

impl Groups {
    /// Names that are drawn.
    pub fn draw(entropy: &Entropy) -> Self {
        let name = format!("loadtest-{:08x}", entropy.next_u64() >> 32);
        let group =
            |name: &str| name.parse().expect("letters, dashes and hex digits are a group name");
        Self { all: group(&name), stalled: group(&format!("{name}-stalled")) }
    }

    const fn of(&self, kind: Kind) -> &GroupName {
        match kind {
            Kind::Push | Kind::Polling => &self.all,
            Kind::Stalled => &self.stalled,
        }
    }
}

/// How many of each kind a whole swarm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// With a session.
    pub push: u64,
    /// That read nothing.
    pub stalled: u64,
    /// Without a session.
    pub polling: u64,
}

impl Kinds {
    /// How many there are.
    pub const fn total(self) -> u64 {
        self.push + self.stalled + self.polling
    }

    /// The kind of a device by its number: first those with a session, then the stalled, then
    /// those that check in.
    pub const fn of(self, number: u64) -> Kind {
        if number < self.push {
            Kind::Push
        } else if number < self.push + self.stalled {
            Kind::Stalled
        } else {
            Kind::Polling
        }
    }
}

/// Waits as whoever came too often was told.
struct Patience {
    /// For how long in all, before it is given up.
    left: Duration,
    entropy: Entropy,
    /// Nobody waits any more.
    stop: CancellationToken,
}

impl Patience {
    fn new(stop: CancellationToken) -> Self {
        Self { left: PATIENCE, entropy: Entropy::system(), stop }
    }

    /// Waits until that time is over and a moment longer, so that those who were told the same do not come at once;
    /// whether there is another try.
    async fn wait(&mut self, told: Duration) -> bool {
        if told > LONGEST {
            return false;
        }
        let wait = told.saturating_add(Duration::from_millis(self.entropy.below(SPREAD_MS)));
        let Some(left) = self.left.checked_sub(wait) else { return false };
        self.left = left;
        tracing::info!(wait_ms = wait.as_millis(), "told to come again later");
        tokio::time::timeout(wait, self.stop.cancelled()).await.is_err()
    }
}

/// Enrolls devices of those numbers, as fast as the platform lets it. Stops at the first error, and when `drain`
/// begins.
pub async fn enroll(
    operator: &Operator,
    numbers: Range<u64>,
    (kinds, groups): (Kinds, &Groups),
    drain: &Drain,
) -> Enrollment {
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let (operator, groups, soft) = (operator.clone(), groups.clone(), drain.soft().clone());
        let numbers = numbers.clone();
        tasks.spawn(async move {
            let mut clerk = Clerk { desk: operator.desk(), door: None, stop: soft.clone() };
            let mut devices = Vec::new();
            for number in numbers.skip(worker).step_by(AT_ONCE) {
                if soft.is_cancelled() {
                    break;
                }
                let kind = kinds.of(number);
                match Box::pin(clerk.enroll(&groups, kind, number)).await {
                    Ok(device) => devices.push((kind, device)),
                    Err(error) => return (devices, Some(error)),
                }
            }
            (devices, None)
        });
    }
    let mut enrollment = Enrollment { devices: Vec::new(), error: None };
    while let Some(ended) = tasks.join_next().await {
        let (devices, error) = ended.expect("enrolling does not panic");
        enrollment.devices.extend(devices);
        enrollment.error = enrollment.error.or(error);
    }
    enrollment
}

/// Revokes those devices. Answers how many could not be.
pub async fn revoke(operator: &Operator, devices: &[DeviceId], drain: &Drain) -> usize {
    let mut tasks = JoinSet::new();
    for worker in 0..AT_ONCE {
        let mut left: VecDeque<_> = devices.iter().skip(worker).step_by(AT_ONCE).copied().collect();
        let (mut desk, hard) = (operator.desk(), drain.hard().clone());
        tasks.spawn(async move {
            let mut failed = 0;
            while let Some(device) = left.pop_front() {
                if hard.is_cancelled() {
                    return failed + left.len() + 1;
                }
                let mut patience = Patience::new(hard.clone());
                let mut revoked = desk.revoke(device).await;
                while let Err(error) = &revoked {
                    let Some(told) = error.retry_after() else { break };
                    if !patience.wait(told).await {
                        break;
                    }
                    revoked = desk.revoke(device).await;
                }
                if let Err(error) = revoked {
                    tracing::debug!(error = &error as &dyn std::error::Error, "not revoked");
                    failed += 1;
                }
            }
            failed
        });
    }
    tasks.join_all().await.into_iter().sum()
}

/// Enrolls one device after the other, over connections that stay open.
struct Clerk {
    desk: Desk,
    door: Option<Line>,
    stop: CancellationToken,
}

impl FleetError {
    /// For how long the platform asks to be left alone; `None`: to come again would not help.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Operator(error) | Self::Refused(error) => error.retry_after(),
            Self::Http(_)
            | Self::Pin(_)
            | Self::NoAddress
            | Self::NoHub
            | Self::Making(_)
            | Self::Key(_)
            | Self::Pem(_)
            | Self::Tls(_)
            | Self::Trust(_)
            | Self::Config(_)
            | Self::Answer(_) => None,
        }
    }
}

impl Clerk {
    /// Enrolls one. Each try has a token of its own: one that was drawn before a wait may be over after it.
    async fn enroll(
        &mut self,
        groups: &Groups,
        kind: Kind,
        number: u64,
    ) -> Result<Enrolled, FleetError> {
        let mut patience = Patience::new(self.stop.clone());
        loop {
            let error = match Box::pin(self.once(groups, kind, number)).await {
                Ok(enrolled) => return Ok(enrolled),
                Err(error) => error,
            };
            let Some(told) = error.retry_after() else { return Err(error) };
            if !patience.wait(told).await {
                return Err(error);
            }
        }
    }

    async fn once(
        &mut self,
        groups: &Groups,
        kind: Kind,
        number: u64,
    ) -> Result<Enrolled, FleetError> {
        let token = self.desk.enrollment_token(groups.of(kind)).await?;
        if self.door.is_none() {
            let address = token.api.first().ok_or(FleetError::NoAddress)?;
            let config = tls::pinned_client_config(token.ca_spki_sha256.parse()?, &[b"http/1.1"])?;
            self.door = Some(Line::new(Arc::new(Peer::new(address, Arc::new(config))?)));
        }
        let door = self.door.as_mut().expect("it was made just now");
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
        let run = groups.all.as_str().trim_start_matches("loadtest-");
        let name = format!("sim-{run}-{number:05}");
        let request = EnrollRequest { secret: token.secret, name, csr };
        let answer = door.post(ENROLL_PATH, None, serde_json::to_vec(&request)?).await?;
        let answer = operator::success(answer).map_err(FleetError::Refused)?;
        enrolled(serde_json::from_slice(&answer.body)?, &key)
    }
}

fn enrolled(answer: EnrollResponse, key: &rcgen::KeyPair) -> Result<Enrolled, FleetError> {
    let (chain, authorities) = (certificates(&answer.certificate)?, certificates(&answer.ca)?);
    let pkcs8 = key.serialize_der();
    let device_key = DeviceKey::from_pkcs8(&pkcs8)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let tls = client(&authorities, &tls::Identity { chain, key })?;
    let trust = answer.trust.pin()?;
    let AgentConfig { hubs, api, .. } = AgentConfig::verify(&answer.config, &trust)?;
    if hubs.is_empty() {
        return Err(FleetError::NoHub);
    }
    let EnrollResponse { device_id: id, generation, .. } = answer;
    Ok(Enrolled { id, generation, key: device_key, tls, trust, hubs, api })
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}

/// The TLS client of one device. It remembers one session, as it talks to one hub.
///
/// # Errors
/// [`TlsError`].
pub fn client(
    authorities: &[CertificateDer<'static>],
    identity: &tls::Identity,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = tls::client_config(authorities, Some(identity), &[b"http/1.1"])?;
    config.resumption = rustls::client::Resumption::in_memory_sessions(2);
    Ok(Arc::new(config))
}
