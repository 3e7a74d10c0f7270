//! The receipt: what a device did with a command, signed by the device's own key.
//!
//! A receipt is a JWS (`typ` `tocsin-receipt+jws`, ES256). Evidence is what the agent observed
//! afterwards, never the exit code of a tool. The exact bytes that were signed are kept and
//! shown; nothing is serialised again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::action::Verb;
use crate::id::{BootId, CommandId, DeviceId, OrderId};
use crate::jws::{self, CompactJws, JwsError};
use crate::key::{DevicePublicKey, DeviceSigner};
use crate::limits;
use crate::state::CommandState;
use crate::time::Timestamp;

/// The media type of a receipt's JWS header.
pub const TYP: &str = "tocsin-receipt+jws";

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The device that speaks.
    pub iss: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The command.
    pub command_id: CommandId,
    /// The order the command belongs to, when the envelope could be read that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// The verb, when the envelope could be read that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verb: Option<Verb>,
    /// How it ended.
    pub outcome: Outcome,
    /// When the agent began, by the device's clock.
    pub started_at: Timestamp,
    /// When the outcome stood, by the device's clock.
    pub finished_at: Timestamp,
    /// The boot in which it ended.
    pub boot_id: BootId,
    /// Version of the agent.
    pub agent_version: String,
    /// SHA-256 of the envelope as it was received, base64url: what exactly is answered.
    pub envelope_sha256: String,
}

/// How a command ended on the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// The effect was observed.
    Succeeded {
        /// What was observed.
        evidence: Evidence,
    },
    /// The agent tried and could not.
    Failed {
        /// What went wrong.
        failure: Failure,
        /// What was observed all the same.
        evidence: Evidence,
    },
    /// The agent declined; nothing was done.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// The particulars, for a person.
        detail: String,
    },
    /// A crash left it open whether the effect happened.
    InDoubt {
        /// The last stage that is known.
        stage: String,
    },
}

impl Outcome {
    /// The terminal state that this outcome is.
    pub const fn state(&self) -> CommandState {
        match self {
            Self::Succeeded { .. } => CommandState::Succeeded,
            Self::Failed { .. } => CommandState::Failed,
            Self::Refused { .. } => CommandState::Refused,
            Self::InDoubt { .. } => CommandState::InDoubt,
        }
    }
}

/// Observations by name. Names are of `a-z` and `_`; each executor documents its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Evidence(BTreeMap<String, serde_json::Value>);

impl Evidence {
    /// Nothing observed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one observation and returns the whole, for chaining.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The observation of that name.
    pub fn get(&self, name: &str) -> Option<&serde_json::Value> {
        self.0.get(name)
    }

    /// All observations, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// All of `other` added to this.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// What went wrong while acting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The stage at which it happened, such as `precheck` or `apply`.
    pub stage: String,
    /// The particulars, for a person.
    pub detail: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The device lacks something the action needs: a tool, a kernel feature, a break-glass user.
    Precondition,
    /// The operating system forbade it.
    Permission,
    /// Reading, writing or a full disk.
    Io,
    /// A tool or a service answered with an error.
    Tool,
    /// The stage took longer than its budget.
    Timeout,
    /// The effect was applied and could not be observed, or was rolled back.
    NotProven,
    /// The agent's own mistake.
    Internal,
}

/// Why an agent declines a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// Not a well-formed envelope.
    Malformed,
    /// Signed by no key of the trust root, or the signature is wrong.
    BadSignature,
    /// Addressed to another device, or to an earlier enrollment of this one.
    WrongAudience,
    /// Not valid yet.
    NotYetValid,
    /// Not valid any more.
    Expired,
    /// Valid for longer than its class may be.
    ValidityTooLong,
    /// Its sequence number was seen before.
    Replayed,
    /// Its order was carried out under another command id.
    DuplicateOrder,
    /// Fewer approvals from different persons than the trust root asks for.
    MissingApproval,
    /// An approval is not by an approver of the trust root, or its signature is wrong.
    BadApproval,
    /// One person's approval was counted on twice.
    DoubledApproval,
    /// The envelope goes beyond what was approved: action, expiry, order or devices differ.
    WidenedManifest,
    /// The manifest names more devices than its class may.
    TooManyDevices,
    /// The trust root protects this device from what destroys.
    ProtectedDevice,
    /// What would be done is not what was approved: the device's plan has another hash now.
    PlanChanged,
    /// The verb or its parameters are unknown here, or the device cannot do it.
    Unsupported,
    /// Executors are not armed on this device.
    NotArmed,
    /// It was called back before it began.
    Cancelled,
    /// A freeze holds: nothing that destroys begins.
    Frozen,
}

impl RefusalReason {
    /// The reason as the wire spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadSignature => "bad_signature",
            Self::WrongAudience => "wrong_audience",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::ValidityTooLong => "validity_too_long",
            Self::Replayed => "replayed",
            Self::DuplicateOrder => "duplicate_order",
            Self::MissingApproval => "missing_approval",
            Self::BadApproval => "bad_approval",
            Self::DoubledApproval => "doubled_approval",
            Self::WidenedManifest => "widened_manifest",
            Self::TooManyDevices => "too_many_devices",
            Self::ProtectedDevice => "protected_device",
            Self::PlanChanged => "plan_changed",
            Self::Unsupported => "unsupported",
            Self::NotArmed => "not_armed",
            Self::Cancelled => "cancelled",
            Self::Frozen => "frozen",
        }
    }
}

/// Signs a receipt with the device's key.
pub fn sign(receipt: &Receipt, signer: &DeviceSigner<'_>) -> Result<CompactJws, JwsError> {
    jws::sign(TYP, receipt, signer)
}

/// Verifies that a receipt was signed by that device's key, and reads it.
///
/// The caller compares `iss` and `generation` with whom it believes to talk to.
pub fn verify(jws: &CompactJws, key: &DevicePublicKey) -> Result<Receipt, JwsError> {
    let parsed = jws::parse(jws, TYP, limits::RECEIPT_BYTES)?;
    parsed.verify(key)?;
    parsed.claims()
}
