//! The states of a command, its lanes, and how its effect may be repeated.

use serde::{Deserialize, Serialize};

/// Where a command stands. Exactly one of the terminal states ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    /// Stored; too few approvals yet. Has no sequence number.
    AwaitingApproval,
    /// Stored; leaves when the first wave of its order has succeeded. Has no sequence number.
    AwaitingWave,
    /// Stored, signed and numbered; no hub has it yet.
    Queued,
    /// Handed to a session; nothing is known of its arrival.
    Sent,
    /// The agent has it on disk.
    Acked,
    /// The agent reports progress.
    Running,
    /// The effect was observed; the receipt proves it.
    Succeeded,
    /// The agent tried; the receipt says what went wrong.
    Failed,
    /// The agent declined; the receipt says why.
    Refused,
    /// Its validity ended before an agent took it.
    Expired,
    /// An operator withdrew it before an agent took it.
    Cancelled,
    /// Lost at a known stage: the effect may or may not have happened.
    InDoubt,
}

impl CommandState {
    /// Every state, in the order of a command's life.
    pub const ALL: [Self; 12] = [
        Self::AwaitingApproval,
        Self::AwaitingWave,
        Self::Queued,
        Self::Sent,
        Self::Acked,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Refused,
        Self::Expired,
        Self::Cancelled,
        Self::InDoubt,
    ];

    /// Whether nothing can follow.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::AwaitingApproval
            | Self::AwaitingWave
            | Self::Queued
            | Self::Sent
            | Self::Acked
            | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::Refused
            | Self::Expired
            | Self::Cancelled
            | Self::InDoubt => true,
        }
    }

    /// Whether an agent may still have to be told of the command.
    pub const fn is_undelivered(self) -> bool {
        match self {
            Self::Queued | Self::Sent => true,
            Self::AwaitingApproval
            | Self::AwaitingWave
            | Self::Acked
            | Self::Running
            | Self::Succeeded
            | Self::Failed
            | Self::Refused
            | Self::Expired
            | Self::Cancelled
            | Self::InDoubt => false,
        }
    }

    /// The state as the wire and the store spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingApproval => "awaiting_approval",
            Self::AwaitingWave => "awaiting_wave",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::InDoubt => "in_doubt",
        }
    }

    /// The state of that spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// The queue a command travels in. Urgent ones never wait behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Lock, wipe, quarantine, their releases, and what stops them.
    Urgent,
    /// Everything else.
    Bulk,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Self; 2] = [Self::Urgent, Self::Bulk];

    /// The lane as the wire and the store spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Bulk => "bulk",
        }
    }

    /// The lane of that spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == name)
    }
}

/// One value per lane, such as the newest sequence number seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerLane<T> {
    /// The value of the urgent lane.
    pub urgent: T,
    /// The value of the bulk lane.
    pub bulk: T,
}

impl<T> PerLane<T> {
    /// The value of that lane.
    pub const fn get(&self, lane: Lane) -> &T {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        }
    }

    /// The value of that lane, to be changed.
    pub const fn get_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

/// What may be done when a crash leaves it open whether an effect happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectClass {
    /// Applying again leads to the same observable state: lock, quarantine.
    Convergent,
    /// Whether it happened can be found out: reboot by boot id.
    Probeable,
    /// It cannot: after a crash in the window the command ends `in_doubt`.
    NotProbeable,
    /// It ends the device; resumable until done: wipe.
    Terminal,
}

/// How much harm a verb can do; decides approvals and limits on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerbClass {
    /// Reads or refreshes.
    Routine,
    /// Interrupts people, can be undone.
    Disruptive,
    /// Cannot be undone.
    Destructive,
    /// Stops what destroys: one person suffices for that.
    Stop,
}
