//! The lock state: what says, across reboots, that this device is locked and by which order.
//!
//! It is written before the first door closes and removed after the last one opened, so that
//! whatever happens in between can be finished from it.

use std::path::PathBuf;

use protocol::action::LockLevel;
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::file::{self, FileError};
use crate::host::{Host, Superuser};

/// What is known about the lock of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockState {
    /// Whether the lock stands or is being undone.
    pub phase: Phase,
    /// The command that locked.
    pub command_id: CommandId,
    /// Its envelope as received: the lock's justification at the next boot.
    pub envelope: String,
    /// By what the device knows the code that ends it, where it has one.
    #[serde(default)]
    pub offline_code: Option<Hash>,
    /// How far the lock goes.
    pub level: LockLevel,
    /// What the screen says.
    pub message: Option<String>,
    /// The accounts that stay open, as they were found in the account database.
    pub break_glass: Vec<String>,
    /// Users of a directory who were on the device when it was locked: by name, or by uid where only
    /// that was seen. The proof asks PAM about them.
    #[serde(default)]
    pub strangers: Vec<String>,
    /// Who becomes root meanwhile.
    #[serde(default)]
    pub superuser: Superuser,
    /// When the agent began, by the device's clock.
    pub applied_at: Timestamp,
}

/// Whether a lock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It stands, and is re-asserted at boot.
    Locked,
    /// An unlock has begun; a boot in between must not lock again.
    Unlocking,
}

/// Where the lock state lives.
pub(super) fn path(host: &Host) -> PathBuf {
    host.state_dir.join("lock.json")
}

/// The lock state; `None` when the device is not locked.
pub(super) fn load(host: &Host) -> Result<Option<LockState>, FileError> {
    file::load(&path(host))
}

/// Writes the lock state, durably.
pub(super) fn save(host: &Host, state: &LockState) -> Result<(), FileError> {
    file::make_private_dir(&host.state_dir)?;
    file::save(&path(host), state)
}

/// Removes the lock state, durably.
pub(super) fn remove(host: &Host) -> Result<(), FileError> {
    file::discard_leftover(&path(host))?;
    file::remove(&path(host))
}
