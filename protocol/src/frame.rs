//! The frames of `tocsin.v1` and their codec.
//!
//! One JSON object per frame with its `kind`. The same frames travel over the WebSocket, in a
//! long-poll and in a check-in. Unknown kinds are tolerated, so that either side may be newer.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::advance::Advance;
use crate::close::CloseCode;
use crate::id::{BootId, CommandId, SessionId};
use crate::jws::CompactJws;
use crate::limits;
use crate::run::Run;
use crate::state::{Lane, PerLane};
use crate::time::Timestamp;
use crate::trust::SignedTrustRoot;

#[cfg(test)]
mod tests;

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "tocsin.v1";
/// Path of the WebSocket on the hub's agent port.
pub const SOCKET_PATH: &str = "/agent/v1/socket";
/// Path of the long-poll on the hub's agent port.
pub const POLL_PATH: &str = "/agent/v1/poll";
/// Path of the check-in on the control plane's agent port.
pub const CHECK_IN_PATH: &str = "/agent/v1/checkin";

/// How the stage of a command reads that is held in its undo window; the end follows.
pub const UNDO_WINDOW_STAGE: &str = "undo window until ";

/// A frame from an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentFrame {
    /// Opens a session.
    Hello(Hello),
    /// The agent missed something: send everything pending, in order.
    Sync {
        /// The newest sequence number on disk, by lane.
        last_seq: PerLane<u64>,
    },
    /// The command is on the device's disk.
    Ack {
        /// Which command.
        command_id: CommandId,
    },
    /// The command has reached a stage.
    Progress {
        /// Which command.
        command_id: CommandId,
        /// The stage, such as `apply` or `prove`.
        stage: String,
        /// How far the stage has come, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        advance: Option<Advance>,
    },
    /// What the device has proven of a command that still goes on.
    Proof {
        /// Which command.
        command_id: CommandId,
        /// The signed proof.
        jws: CompactJws,
    },
    /// A credential that goes into force once the control plane itself says that it holds this.
    Escrow {
        /// Which command.
        command_id: CommandId,
        /// The signed escrow.
        jws: CompactJws,
    },
    /// How the command ended.
    Receipt {
        /// Which command.
        command_id: CommandId,
        /// The signed receipt.
        jws: CompactJws,
    },
    /// Something happened to a command's effect that nobody ordered.
    Notice {
        /// Which command.
        command_id: CommandId,
        /// The signed notice.
        jws: CompactJws,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The first frame of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the agent.
    pub agent: String,
    /// The boot the agent runs in.
    pub boot_id: BootId,
    /// Enrollment generation of the device.
    pub generation: u32,
    /// Orders the sessions of a device: above that of every earlier one, wherever it was opened.
    /// 0 from an agent that does not number them.
    #[serde(default)]
    pub epoch: u64,
    /// Where this hello stands in the run of its agent, by which two agents of one device are told apart.
    /// None from an agent that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// The newest sequence number on disk, by lane.
    pub last_seq: PerLane<u64>,
    /// Version of the trust root in force.
    pub trust_version: u32,
    /// What the device can do: verbs, and words such as `simulated`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Since when the agent has been on a lower rung of its ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded_since: Option<Timestamp>,
}

/// A frame to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HubFrame {
    /// The session stands.
    Welcome(Welcome),
    /// A command.
    Command(CommandFrame),
    /// The store holds those receipts and proofs: the agent may stop sending them.
    Confirmed {
        /// SHA-256 of the text of each, as [`CompactJws::sha256`] spells it. Receipts, not
        /// commands: a forged envelope's refusal must not confirm the real command's outcome.
        receipts: Vec<String>,
    },
    /// The next version of the trust root.
    Trust {
        /// The signed root.
        root: SignedTrustRoot,
    },
    /// How far the control plane's audit log goes.
    Checkpoint {
        /// The signed checkpoint.
        jws: CompactJws,
    },
    /// How to behave while something behind the hub is away.
    Mode {
        /// How.
        mode: Mode,
        /// Why, for a person.
        reason: String,
    },
    /// Open a session elsewhere, then close this one.
    Reconnect(Reconnect),
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The session.
    pub session_id: SessionId,
    /// Seconds between the hub's pings.
    pub heartbeat_secs: u32,
    /// Seconds between check-ins under this session.
    pub checkin_secs: u32,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// One delivery of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandFrame {
    /// The command.
    pub command_id: CommandId,
    /// Its lane.
    pub lane: Lane,
    /// The sequence number of the newest earlier command in this lane that is still
    /// undelivered; zero when there is none. A hint: an agent that has not seen it asks for all.
    pub after_seq: u64,
    /// The envelope.
    pub jws: CompactJws,
}

/// How an agent behaves on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Commands come by themselves.
    Push,
    /// Keep the session, and check in meanwhile.
    Poll,
}

/// A request to open a session elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconnect {
    /// How long to wait, so that not all come at once.
    pub after_ms: u64,
    /// Addresses to try first; empty: those of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hubs: Vec<String>,
    /// Why, for a person.
    pub reason: String,
}

/// The body of a long-poll or a check-in, and of its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange<F> {
    /// The frames, in order.
    pub frames: Vec<F>,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than a frame may be.
    #[error("longer than {} bytes", limits::FRAME_BYTES)]
    TooBig,
    /// Not a JSON object of a known shape.
    #[error("not a frame: {0}")]
    Malformed(String),
    /// A field is beyond its bound.
    #[error("{0} is beyond its bound")]
    OutOfBounds(&'static str),
}

impl FrameError {
    /// The code that a session is closed with.
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::TooBig => CloseCode::TooBig,
            Self::Malformed(_) | Self::OutOfBounds(_) => CloseCode::Malformed,
        }
    }
}

/// Either direction of frames.
pub trait Frame: Serialize + DeserializeOwned + Sized {
    /// Checks what the types alone cannot say.
    fn check(&self) -> Result<(), FrameError>;

    /// The frame as one text message.
    fn encode(&self) -> Result<String, FrameError> {
        let text = serde_json::to_string(self).map_err(|e| FrameError::Malformed(e.to_string()))?;
        if text.len() > limits::FRAME_BYTES { Err(FrameError::TooBig) } else { Ok(text) }
    }

    /// Reads one text message.
    fn decode(text: &str) -> Result<Self, FrameError> {
        if text.len() > limits::FRAME_BYTES {
            return Err(FrameError::TooBig);
        }
        let frame: Self =
            serde_json::from_str(text).map_err(|e| FrameError::Malformed(e.to_string()))?;
        frame.check()?;
        Ok(frame)
    }
}

impl Frame for AgentFrame {
    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Progress { stage, advance, .. } => {
                within(stage.len() <= 64, "stage")?;
                within(advance.as_ref().is_none_or(Advance::is_sound), "advance")
            }
            Self::Proof { jws, .. } | Self::Receipt { jws, .. } => {
                within(jws.as_str().len() <= limits::RECEIPT_BYTES, "receipt")
            }
            Self::Escrow { jws, .. } => {
                within(jws.as_str().len() <= limits::ESCROW_BYTES, "escrow")
            }
            Self::Notice { jws, .. } => {
                within(jws.as_str().len() <= limits::NOTICE_BYTES, "notice")
            }
            Self::Sync { .. } | Self::Ack { .. } | Self::Unknown => Ok(()),
        }
    }
}

impl AgentFrame {
    /// The command has reached that stage.
    pub const fn stage(command_id: CommandId, stage: String) -> Self {
        Self::Progress { command_id, stage, advance: None }
    }
}

impl Hello {
    fn check(&self) -> Result<(), FrameError> {
        within(self.agent.len() <= 64, "agent")?;
        within(self.epoch <= limits::EPOCH_MAX, "epoch")?;
        within(self.run.as_ref().is_none_or(Run::is_sound), "run")?;
        within(self.capabilities.len() <= limits::LIST_ENTRIES, "capabilities")?;
        within(self.capabilities.iter().all(|word| word.len() <= 64), "capability")
    }
}

impl Frame for HubFrame {
    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::Command(command) => {
                within(command.jws.as_str().len() <= limits::ENVELOPE_BYTES, "envelope")
            }
            Self::Confirmed { receipts } => {
                within(receipts.len() <= limits::CONFIRMED_RECEIPTS, "receipts")
            }
            Self::Reconnect(reconnect) => {
                within(reconnect.hubs.len() <= limits::LIST_ENTRIES, "hubs")
            }
            Self::Checkpoint { jws } => {
                within(jws.as_str().len() <= limits::CHECKPOINT_BYTES, "checkpoint")
            }
            Self::Welcome(_) | Self::Trust { .. } | Self::Mode { .. } | Self::Unknown => Ok(()),
        }
    }
}

const fn within(is_within: bool, field: &'static str) -> Result<(), FrameError> {
    if is_within { Ok(()) } else { Err(FrameError::OutOfBounds(field)) }
}
