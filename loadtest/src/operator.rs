//! The little of the operator's API that a load test needs: tokens, orders, revocation.
//!
//! Owns the JSON of those three requests as it is on the wire (docs/openapi.json). Tokens are for
//! simulated devices and orders are marked so: the platform sends none of them to anybody else.
//! Orders name devices by id besides, and only those that the caller enrolled itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use protocol::action::{Action, Lock, LockLevel, Refresh};
use protocol::enrollment::{EnrollmentToken, ParseTokenError};
use protocol::id::{CommandId, DeviceId, GroupName};
use protocol::limits;
use runtime::Entropy;
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::pki_types::pem::{Error as PemError, PemObject as _};
use runtime::tls::{self, TlsError};
use serde::{Deserialize, Serialize};

use crate::http::{Answer, HttpError, Line, Peer};

/// How long an order is valid: longer than any run waits, and soon over for what is left behind.
const VALID_SECS: u64 = 900;
/// The pause of whoever came too often and is not told when to come again.
const UNSAID: Duration = Duration::from_secs(1);
/// How long an enrollment token is good for.
const TOKEN_SECS: u64 = 300;

/// Why the operator's API did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The authority's certificate.
    #[error("the authority's certificate is not pem")]
    Authority(#[from] PemError),
    /// TLS could not be set up.
    #[error("tls cannot be set up")]
    Tls(#[from] TlsError),
    /// There was no answer.
    #[error("the operator's port did not answer")]
    Http(#[from] HttpError),
    /// Another answer than a success.
    #[error("the operator's port answered {status}: {detail}")]
    Status {
        /// The status.
        status: u16,
        /// When to come again, if it says so.
        retry_after: Option<Duration>,
        /// The beginning of the answer.
        detail: String,
    },
    /// The answer is not understood.
    #[error("the answer of the operator's port is not understood")]
    Answer(#[from] serde_json::Error),
    /// The answer holds no enrollment token.
    #[error("the enrollment token is not understood")]
    Token(#[from] ParseTokenError),
    /// An order made no command.
    #[error("the order made no command")]
    NoCommand,
}

impl OperatorError {
    /// For how long it asks to be left alone; `None`: to come again would not help.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { status: 429 | 503, retry_after: Some(wait), .. } => Some(*wait),
            Self::Status { status: 429, retry_after: None, .. } => Some(UNSAID),
            Self::Status { .. }
            | Self::Authority(_)
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Answer(_)
            | Self::Token(_)
            | Self::NoCommand => None,
        }
    }

    /// What went wrong, in few words and without ids.
    pub fn kind(&self) -> String {
        match self {
            Self::Status { status, .. } => format!("order status {status}"),
            Self::Http(HttpError::Connect { .. }) => "order connect".to_owned(),
            Self::Http(HttpError::TimedOut(_)) => "order timeout".to_owned(),
            Self::Http(
                HttpError::Address(_)
                | HttpError::Token
                | HttpError::Exchange(_)
                | HttpError::Body(_),
            ) => "order exchange".to_owned(),
            Self::Authority(_)
            | Self::Tls(_)
            | Self::Answer(_)
            | Self::Token(_)
            | Self::NoCommand => "order answer".to_owned(),
        }
    }
}

/// What is ordered. Nothing that destroys: a slip must stay harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordered {
    /// `lock`, level `screen`: the urgent lane.
    Lock,
    /// `refresh`: the bulk lane.
    Refresh,
}

impl Ordered {
    /// Devices of one order at most, so that it is carried out without an approval.
    pub const fn devices_at_most(self) -> usize {
        match self {
            Self::Lock => DISRUPTIVE_DEVICES,
            Self::Refresh => ORDER_DEVICES,
        }
    }

    /// The action with its parameters.
    pub const fn action(self) -> Action {
        match self {
            Self::Lock => Action::Lock(Lock { level: LockLevel::Screen, message: None }),
            Self::Refresh => Action::Refresh(Refresh {}),
        }
    }
}

/// Where the operator's port is, how to recognise it, and the token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Access {
    /// Its address.
    pub api: String,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// The API token.
    pub token: String,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("api", &self.api).finish_non_exhaustive()
    }
}

/// Whom an order is for.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// One device.
    Device(DeviceId),
    /// These. A group's name is never ordered: somebody may have put another device into it.
    Devices(&'a [DeviceId]),
}

/// Devices of one order at most (`ORDER_DEVICES` of the api).
const ORDER_DEVICES: usize = 10_000;
/// Devices of one order that disrupts, before somebody must approve it.
const DISRUPTIVE_DEVICES: usize = limits::DISRUPTIVE_DEVICES as usize;

/// The operator's port.
#[derive(Debug, Clone)]
pub struct Operator {
    peer: Arc<Peer>,
    entropy: Entropy,
}

impl Operator {
    /// The one that `access` names.
    ///
    /// # Errors
    /// [`OperatorError`] when one of the three is unusable. Does not connect.
    pub fn new(access: &Access, entropy: Entropy) -> Result<Self, OperatorError> {
        let authorities = CertificateDer::pem_slice_iter(access.ca_pem.as_bytes());
        let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
        let tls = tls::client_config(&authorities, None, &[b"http/1.1"])?;
        let peer = Peer::new(&access.api, Arc::new(tls))?.with_token(&access.token)?;
        Ok(Self { peer: Arc::new(peer), entropy })
    }

    /// The same, which waits so long for an answer, or longer. A platform that is slow has not failed:
    /// how slow it is is what a load test wants to know.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.peer = Arc::new((*self.peer).clone().with_patience(patience));
        self
    }

    /// A connection of its own.
    pub fn desk(&self) -> Desk {
        Desk { line: Line::new(self.peer.clone()), entropy: self.entropy.clone() }
    }
}

/// One connection to the operator's port, one request at a time.
#[derive(Debug)]
pub struct Desk {
    line: Line,
    entropy: Entropy,
}

#[derive(Serialize)]
struct TokenAsked<'a> {
    group: &'a GroupName,
    ttl_secs: u64,
    simulated: bool,
}

#[derive(Deserialize)]
struct TokenMade {
    token: String,
}

#[derive(Serialize)]
struct OrderAsked<'a> {
    action: Action,
    targets: TargetsAsked<'a>,
    reason: &'static str,
    expires_in_secs: u64,
    simulated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum TargetsAsked<'a> {
    Devices(&'a [DeviceId]),
}

#[derive(Deserialize)]
struct OrderMade {
    commands: Vec<CommandMade>,
}

#[derive(Deserialize)]
struct CommandMade {
    id: CommandId,
}

impl Desk {
    /// Makes sure that a connection stands, so that what follows is only the request.
    ///
    /// # Errors
    /// [`OperatorError::Http`].
    pub async fn ready(&mut self) -> Result<(), OperatorError> {
        Ok(self.line.ready().await?)
    }

    /// Makes a token that enrolls one simulated device into that group.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn enrollment_token(
        &mut self,
        group: &GroupName,
    ) -> Result<EnrollmentToken, OperatorError> {
        let body =
            serde_json::to_vec(&TokenAsked { group, ttl_secs: TOKEN_SECS, simulated: true })?;
        let answer = success(self.line.post("/v1/enrollment-tokens", None, body).await?)?;
        let made: TokenMade = serde_json::from_slice(&answer.body)?;
        Ok(made.token.parse()?)
    }

    /// Orders that. Answers its commands once they are on the store's disk.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn order(
        &mut self,
        ordered: Ordered,
        targets: Targets<'_>,
    ) -> Result<Vec<CommandId>, OperatorError> {
        let body = serde_json::to_vec(&OrderAsked {
            action: ordered.action(),
            targets: match &targets {
                Targets::Device(device) => TargetsAsked::Devices(std::slice::from_ref(device)),
                Targets::Devices(devices) => TargetsAsked::Devices(devices),
            },
            reason: "load test",
            expires_in_secs: VALID_SECS,
            simulated: true,
        })?;
        let key: String = self.entropy.bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let answer = success(self.line.post("/v1/orders", Some(&key), body).await?)?;
        let made: OrderMade = serde_json::from_slice(&answer.body)?;
        let commands: Vec<_> = made.commands.iter().map(|command| command.id).collect();
        if commands.is_empty() { Err(OperatorError::NoCommand) } else { Ok(commands) }
    }

    /// Ends the enrollment of a device.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn revoke(&mut self, device: DeviceId) -> Result<(), OperatorError> {
        let path = format!("/v1/devices/{device}/revoke");
        success(self.line.post(&path, None, Vec::new()).await?).map(drop)
    }
}

/// The answer, if it is a success.
pub(crate) fn success(answer: Answer) -> Result<Answer, OperatorError> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let text = String::from_utf8_lossy(&answer.body);
    let detail = text.chars().filter(|c| !c.is_control()).take(200).collect();
    let Answer { status, retry_after, .. } = answer;
    Err(OperatorError::Status { status, retry_after, detail })
}
