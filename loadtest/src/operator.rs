//! The little of the operator's API that a load test needs: tokens, orders, revocation.
//!
//! Owns the JSON of those three requests as it is on the wire (docs/openapi.json). Orders only
//! name devices by id, and only those that the caller enrolled itself.

use std::path::Path;
use std::sync::Arc;

use protocol::action::{Action, Lock, LockLevel, Refresh};
use protocol::enrollment::{EnrollmentToken, ParseTokenError};
use protocol::id::{CommandId, DeviceId, GroupName};
use runtime::Entropy;
use runtime::tls::{self, PemError, TlsError};
use serde::{Deserialize, Serialize};

use crate::http::{Answer, HttpError, Line, Peer};

/// How long an order is valid: longer than any run waits, and soon over for what is left behind.
const VALID_SECS: u64 = 900;
/// How long an enrollment token is good for.
const TOKEN_SECS: u64 = 300;

/// Why the operator's API did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The authority's certificate.
    #[error("the authority's certificate cannot be used")]
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
        /// The beginning of the answer.
        detail: String,
    },
    /// The answer is not understood.
    #[error("the answer of the operator's port is not understood")]
    Answer(#[from] serde_json::Error),
    /// The answer holds no enrollment token.
    #[error("the enrollment token is not understood")]
    Token(#[from] ParseTokenError),
    /// An order for one device made another number of commands than one.
    #[error("an order for one device made {0} commands")]
    Commands(usize),
}

impl OperatorError {
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
            | Self::Commands(_) => "order answer".to_owned(),
        }
    }
}

/// What is ordered. Nothing that destroys: a slip must stay harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ordered {
    /// `lock`, level `screen`: the urgent lane.
    Lock,
    /// `refresh`: the bulk lane.
    Refresh,
}

impl Ordered {
    /// The action with its parameters.
    pub const fn action(self) -> Action {
        match self {
            Self::Lock => Action::Lock(Lock { level: LockLevel::Screen, message: None }),
            Self::Refresh => Action::Refresh(Refresh {}),
        }
    }
}

/// The operator's port.
#[derive(Debug, Clone)]
pub struct Operator {
    peer: Arc<Peer>,
    entropy: Entropy,
}

impl Operator {
    /// The one at that address, recognised by the authority in `ca` (PEM), with that API token.
    ///
    /// # Errors
    /// [`OperatorError`] when one of the three is unusable. Does not connect.
    pub fn new(url: &str, ca: &Path, token: &str, entropy: Entropy) -> Result<Self, OperatorError> {
        let tls = tls::client_config(&tls::read_certificates(ca)?, None, &[b"http/1.1"])?;
        let peer = Peer::new(url, Arc::new(tls))?.with_token(token)?;
        Ok(Self { peer: Arc::new(peer), entropy })
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
}

#[derive(Deserialize)]
struct TokenMade {
    token: String,
}

#[derive(Serialize)]
struct OrderAsked {
    action: Action,
    targets: Targets,
    reason: &'static str,
    expires_in_secs: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Targets {
    Devices([DeviceId; 1]),
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

    /// Makes a token that enrolls one device into that group.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn enrollment_token(
        &mut self,
        group: &GroupName,
    ) -> Result<EnrollmentToken, OperatorError> {
        let body = serde_json::to_vec(&TokenAsked { group, ttl_secs: TOKEN_SECS })?;
        let answer = success(self.line.post("/v1/enrollment-tokens", None, body).await?)?;
        let made: TokenMade = serde_json::from_slice(&answer.body)?;
        Ok(made.token.parse()?)
    }

    /// Orders that of one device. Answers its command once it is on the store's disk.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub async fn order(
        &mut self,
        ordered: Ordered,
        device: DeviceId,
    ) -> Result<CommandId, OperatorError> {
        let body = serde_json::to_vec(&OrderAsked {
            action: ordered.action(),
            targets: Targets::Devices([device]),
            reason: "load test",
            expires_in_secs: VALID_SECS,
        })?;
        let key: String = self.entropy.bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let answer = success(self.line.post("/v1/orders", Some(&key), body).await?)?;
        let made: OrderMade = serde_json::from_slice(&answer.body)?;
        match made.commands.as_slice() {
            [command] => Ok(command.id),
            commands => Err(OperatorError::Commands(commands.len())),
        }
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
    Err(OperatorError::Status { status: answer.status, detail })
}
