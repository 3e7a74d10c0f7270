//! Orders and commands as operators send and read them.
//!
//! Owns the JSON shapes only; the command line reuses these types.

use std::collections::BTreeMap;

use protocol::action::{Action, Verb};
use protocol::advance::Advance;
use protocol::grade::Grade;
use protocol::id::{CommandId, DeviceId, GroupName, OrderId, PersonName};
use protocol::jws::CompactJws;
use protocol::manifest::{Hash, Manifest};
use protocol::receipt::Outcome;
use protocol::state::{CommandState, Lane};
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// An order to be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrder {
    /// The verb with its parameters.
    #[schema(value_type = Object, example = json!({"verb": "lock", "params": {"level": "session"}}))]
    pub action: Action,
    /// On which devices.
    pub targets: Targets,
    /// Why. Needed for everything but routine verbs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the order is valid, in seconds; a day by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
    /// The script whose hash `action` names: with `run_script`, and with nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Binds an order that destroys to what its devices signed: the commands of a `plan`, one of
    /// each device. A device that would do something else by then refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub plans: Vec<CommandId>,
    /// How long each device waits before it begins what destroys, in seconds; a day at most. So long
    /// the order can be called back. The trust root may ask for longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_secs: Option<u32>,
    /// By what each device knows the code that ends the order where nobody reaches it: hashes of
    /// codes that only whoever gives the order has. With `lock` and `quarantine`, for devices of the order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub offline_codes: BTreeMap<DeviceId, Hash>,
    /// No devices go first: each gets the order at once, where the control plane has some go first.
    /// Not for what destroys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_at_once: bool,
    /// Gives the order also to devices whose identity two machines are known to hold: one of the
    /// two obeys, and nobody can say which.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_cloned: bool,
    /// For simulated devices: it reaches no other, and whoever acts refuses it. Orders that do not
    /// say so reach no simulated device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// Only says what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// The devices of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// These.
    #[schema(value_type = Vec<String>)]
    Devices(Vec<DeviceId>),
    /// Those of a group, as it is now.
    #[schema(value_type = String)]
    Group(GroupName),
    /// Those with these names; each must name exactly one device.
    Names(Vec<String>),
}

/// What an order would hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DryRun {
    /// Always true; tells this answer from [`CreatedOrder`].
    pub dry_run: bool,
    /// How many devices.
    pub device_count: u32,
    /// How many persons must approve, on the device that asks for most.
    pub approvals_needed: u8,
    /// How many devices would go first, if some would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_wave: Option<u32>,
    /// Until when the order would be valid.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
    /// The devices.
    pub devices: Vec<DryRunDevice>,
    /// Devices of the group that the order passes by: the simulated ones, or in an order for
    /// simulated devices the others.
    #[serde(default, skip_serializing_if = "is_none")]
    pub skipped: u32,
    /// What to think about before giving the order.
    pub warnings: Vec<Warning>,
}

/// One device that an order would hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DryRunDevice {
    /// The device.
    #[schema(value_type = String, format = "uuid")]
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// Whether it has a session; absent when the broker does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// How many persons must approve before it obeys.
    pub approvals_needed: u8,
}

/// What to think about before giving an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Warning {
    /// The kind: `offline`, `no_encrypted_volume`, `verb_not_reported`, `undo_window`,
    /// `no_undo_window`, `no_offline_code`, `too_many_devices`,
    /// `too_few_approvers`, `cloned`.
    pub kind: String,
    /// The device it concerns, if just one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub device_id: Option<DeviceId>,
    /// The particulars, for a person.
    pub detail: String,
}

/// An order that was accepted: it is on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedOrder {
    /// The order.
    pub order: OrderView,
    /// Its commands, one per device.
    pub commands: Vec<CommandSummary>,
    /// Devices of the group that it passes by: the simulated ones, or in an order for simulated
    /// devices the others.
    #[serde(default, skip_serializing_if = "is_none")]
    pub skipped: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_none(count: &u32) -> bool {
    *count == 0
}

/// A command in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommandSummary {
    /// The command.
    #[schema(value_type = String, format = "uuid")]
    pub id: CommandId,
    /// Its device.
    #[schema(value_type = String, format = "uuid")]
    pub device_id: DeviceId,
    /// Where it stands.
    #[schema(value_type = String)]
    pub state: CommandState,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OrderView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: OrderId,
    /// Who gave it.
    #[schema(value_type = String)]
    pub operator: PersonName,
    /// What is ordered.
    #[schema(value_type = Object)]
    pub action: Action,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was given.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// Until when it is valid.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
    /// How many devices.
    pub device_count: u32,
    /// Whether it is for simulated devices.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
    /// How many persons must approve, on the device that asks for most.
    pub approvals_needed: u8,
    /// Who approved.
    pub approvals: Vec<ApprovalView>,
    /// The devices that go first, of an order where some do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_wave: Option<FirstWave>,
    /// How many commands stand where.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub states: BTreeMap<String, u32>,
}

/// The devices of an order that go first. The others follow when all of these succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FirstWave {
    /// How many.
    pub size: u32,
    /// How it goes.
    pub state: WaveState,
    /// Why the others wait for somebody, or who had them follow all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl FirstWave {
    /// One that begins now.
    pub(super) const fn new(size: u32) -> Self {
        Self { size, state: WaveState::Running, why: None }
    }
}

/// How the first wave of an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaveState {
    /// It is not over.
    Running,
    /// The others follow.
    Passed,
    /// One of its devices did not succeed: the others wait for somebody.
    Stopped,
}

impl WaveState {
    /// The state as the store spells it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Stopped => "stopped",
        }
    }

    /// The state of that spelling.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Running, Self::Passed, Self::Stopped].into_iter().find(|s| s.as_str() == name)
    }
}

/// An approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApprovalView {
    /// Whose.
    #[schema(value_type = String)]
    pub person: PersonName,
    /// When it came in.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Time,
}

/// What approvers sign, and what they need to check it by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ManifestView {
    /// The manifest. An approval is a JWS over exactly this.
    #[schema(value_type = Object)]
    pub manifest: Manifest,
    /// The devices: the Merkle root over them must be the manifest's.
    pub devices: Vec<ManifestDevice>,
    /// The script that the action names by its hash, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

/// One device of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ManifestDevice {
    /// The device.
    #[schema(value_type = String, format = "uuid")]
    pub id: DeviceId,
    /// Its name.
    pub name: String,
}

/// An approval that is handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitApproval {
    /// The JWS over the manifest, by an approver's key.
    #[schema(value_type = String)]
    pub jws: CompactJws,
}

/// An approval that is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WithdrawApproval {
    /// Whose.
    #[schema(value_type = String)]
    pub person: PersonName,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why something is withdrawn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Withdraw {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A command that was withdrawn, or is called back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CancelledCommand {
    /// The command.
    #[serde(flatten)]
    pub command: CommandView,
    /// The order that calls it back on its device. Whether it comes in time is in the receipt of
    /// its command. Absent: no device had the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CreatedOrder>,
}

/// An order whose commands were withdrawn, or are called back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CancelledOrder {
    /// The order.
    #[serde(flatten)]
    pub order: OrderView,
    /// The order that calls back what devices had already. Absent: none had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CreatedOrder>,
}

/// How far a command is, as its device told last: a message `advance` of its stream. It is no event
/// and has no number, nobody signed it, and whoever comes back has the newest one only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HowFar {
    /// The command.
    #[schema(value_type = String, format = "uuid")]
    pub command_id: CommandId,
    /// Where it stands.
    #[schema(value_type = String)]
    pub state: CommandState,
    /// The stage that it is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How far the stage has come, and what a script has said last (`output`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub advance: Option<Advance>,
}

/// A command with its whole story. Times are in milliseconds' precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommandView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: CommandId,
    /// Its order.
    #[schema(value_type = String, format = "uuid")]
    pub order_id: OrderId,
    /// Its device.
    #[schema(value_type = String, format = "uuid")]
    pub device_id: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The enrollment it is for.
    pub generation: u32,
    /// What is ordered.
    #[schema(value_type = String)]
    pub verb: Verb,
    /// Its lane.
    #[schema(value_type = String)]
    pub lane: Lane,
    /// Its place in the lane, once it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Where it stands.
    #[schema(value_type = String)]
    pub state: CommandState,
    /// Why it stands where no device could bring it, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<String>,
    /// How many persons must approve before the device obeys.
    pub approvals_needed: u8,
    /// How often it was handed to a session. Zero while queued: no session took it yet.
    pub sends: u32,
    /// The device has had it for longer than its validity and a quarter of an hour, without a
    /// receipt.
    pub overdue: bool,
    /// The stage that the device reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How far that stage has come, as the device told last. Nobody signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub advance: Option<Advance>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// Until when it is valid.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
    /// When it was numbered and signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub queued_at: Option<Time>,
    /// When a session took it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Time>,
    /// When the device had it on disk, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub acked_at: Option<Time>,
    /// When the device reported a stage first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub running_at: Option<Time>,
    /// When it ended, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Time>,
    /// What the device's receipt says: evidence, failure or refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub outcome: Option<Outcome>,
    /// The receipt, signed by the device's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub receipt: Option<CompactJws>,
    /// What the device proved before the end, signed by its key: of a wipe, that the keys are
    /// gone while the data is still being erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub proof: Option<CompactJws>,
    /// How far a destruction is proven, once the device has the command: `proven`,
    /// `proven_media`, `presumed` (it fell silent), `unproven`, `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub grade: Option<Grade>,
}
