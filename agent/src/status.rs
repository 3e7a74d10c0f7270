//! What the agent tells about itself: `status.json` in the state directory.
//!
//! Owns the form of that file, which `tocsin-agent status --json` prints as it is, and the task
//! that keeps it current. Decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::action::LockLevel;
use protocol::id::{BootId, CommandId, DeviceId, SessionId};
use protocol::state::PerLane;
use protocol::time::Timestamp;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use runtime::lifecycle::CancellationToken;
use runtime::{Blocking, Clock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::execute::lock;
use crate::execute::quarantine::{self, Level, Recorded};
use crate::host::{Host, Superuser};
use crate::identity::Identity;

/// The shortest time between two writings.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the state of lock and quarantine is looked at when nothing else changes.
const LOOK: Duration = Duration::from_secs(60);
/// Bytes of the largest status file that is read.
const MAX_BYTES: usize = 1024 * 1024;

/// The whole status. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub agent_version: String,
    /// When this was written.
    pub updated_at: Timestamp,
    /// The device.
    pub device_id: DeviceId,
    /// Its enrollment generation.
    pub generation: u32,
    /// The boot it runs in.
    pub boot_id: BootId,
    /// `off`, `armed`, `sandboxed` or `simulated`.
    pub arming: String,
    /// Whether the device's key is in its TPM.
    #[serde(default)]
    pub key_in_tpm: bool,
    /// When the certificate ends.
    pub certificate_ends_at: Timestamp,
    /// The way to the hub or the control plane.
    pub ladder: LadderStatus,
    /// Commands and their journal.
    pub commands: CoreStatus,
    /// Whether the device is locked.
    pub lock: LockStatus,
    /// Whether the device is quarantined.
    pub quarantine: QuarantineStatus,
}

/// The way to the hub or the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LadderStatus {
    /// The rung in use.
    pub rung: Rung,
    /// The session, on the push rung.
    pub session_id: Option<SessionId>,
    /// Where the other end is.
    pub address: Option<String>,
    /// Since when it has not been the push rung.
    pub degraded_since: Option<Timestamp>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// The rungs of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// A session over a WebSocket.
    Push,
    /// Long-poll with a hub.
    LongPoll,
    /// Check-ins with the control plane.
    CheckIn,
    /// None of them, at the moment.
    Down,
}

/// Commands and their journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreStatus {
    /// The newest sequence numbers on disk.
    pub last_seq: PerLane<u64>,
    /// Version of the trust root in force.
    pub trust_version: u32,
    /// A newer one was in force before: no command is believed until it is back.
    #[serde(default)]
    pub trust_rolled_back: bool,
    /// The audit log contradicts what was signed of it before: `checkpoint.json` has both.
    #[serde(default)]
    pub audit_forked: bool,
    /// Records in the journal.
    pub journal_records: usize,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Damage was found when the agent started: records are missing.
    pub journal_damaged: bool,
    /// The journal cannot be written at the moment: no command is taken.
    pub journal_failing: bool,
    /// Receipts that the store has not confirmed.
    pub unconfirmed: usize,
    /// Commands that are being carried out, or wait for the end of their undo window.
    pub running: Vec<CommandId>,
    /// Commands whose undo window is open.
    #[serde(default)]
    pub held: Vec<HeldStatus>,
    /// Until when nothing that destroys begins.
    #[serde(default)]
    pub frozen_until: Option<Timestamp>,
    /// The command that an offline code ended last, since the agent runs.
    #[serde(default)]
    pub ended_offline: Option<CommandId>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// A command whose undo window is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStatus {
    /// The command.
    pub command_id: CommandId,
    /// When the window ends, as far as the device's clock knows.
    pub ends_at: Timestamp,
}

/// Whether the device is locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LockStatus {
    /// It is not.
    Open,
    /// It is.
    Locked {
        /// How far.
        level: LockLevel,
        /// By which command.
        command_id: CommandId,
        /// Who becomes root meanwhile.
        superuser: Superuser,
        /// Who gets in meanwhile.
        break_glass: Vec<String>,
    },
    /// An unlock has begun and not ended.
    Unlocking,
    /// The lock's state cannot be read.
    Unknown,
}

/// Whether the device is quarantined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum QuarantineStatus {
    /// It is not.
    Open,
    /// It is being put up, or tried.
    Trying {
        /// By which command.
        command_id: CommandId,
    },
    /// It stands until a release, or its end.
    Confirmed {
        /// By which command.
        command_id: CommandId,
        /// How far it could go on this kernel; absent when its tables cannot be seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<Level>,
        /// Its end, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// The quarantine's record cannot be read.
    Unknown,
}

/// The parts that the status is made of.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) clock: Clock,
    pub(crate) blocking: Blocking,
    pub(crate) host: Host,
    pub(crate) boot_id: BootId,
    pub(crate) arming: &'static str,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) ladder: watch::Receiver<LadderStatus>,
    pub(crate) core: watch::Receiver<CoreStatus>,
}

impl Sources {
    /// The status of now. Reads two small files, and asks the kernel under a quarantine.
    pub(crate) fn status(&self) -> Status {
        let identity = self.identity.borrow().clone();
        Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            updated_at: Timestamp::from_millis(self.clock.unix_millis()),
            device_id: identity.device_id,
            generation: identity.generation,
            boot_id: self.boot_id,
            arming: self.arming.to_owned(),
            key_in_tpm: identity.key_in_tpm,
            certificate_ends_at: identity.not_after,
            ladder: self.ladder.borrow().clone(),
            commands: self.core.borrow().clone(),
            lock: lock_status(&self.host),
            quarantine: quarantine_status(&self.host),
        }
    }

    /// Keeps the file current until `stop`, and writes it a last time then.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut identity = self.identity.clone();
        let (mut ladder, mut core) = (self.ladder.clone(), self.core.clone());
        loop {
            let sources = self.clone();
            let writing =
                self.blocking.run(move || write(&path(&sources.host.state_dir), &sources.status()));
            let written = writing.await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "status was not written");
                }
                Err(error) => tracing::warn!(%error, "status was not written"),
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => continue,
                () = tokio::time::sleep(PAUSE) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Ok(()) = ladder.changed() => {}
                Ok(()) = core.changed() => {}
                Ok(()) = identity.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// Where the status of a state directory lies.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("status.json")
}

/// The status that an agent left in the state directory of that host, with lock and quarantine as they
/// are now: they change also where no agent runs.
///
/// # Errors
/// When there is none, or it is not one; the text says which.
pub fn read(host: &Host) -> Result<Status, ReadError> {
    let bytes = read_bounded(&path(&host.state_dir), MAX_BYTES)?;
    let left: Status = serde_json::from_slice(&bytes)?;
    Ok(Status { lock: lock_status(host), quarantine: quarantine_status(host), ..left })
}

/// Why a status cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is not there or cannot be read.
    #[error("no status; has the agent run on this state directory?")]
    File(#[from] FileError),
    /// The file is not a status.
    #[error("the status file is damaged")]
    Content(#[from] serde_json::Error),
}

fn write(path: &Path, status: &Status) -> Result<(), FileError> {
    let bytes = serde_json::to_vec_pretty(status).unwrap_or_default();
    write_atomic(path, &bytes, PRIVATE)
}

fn lock_status(host: &Host) -> LockStatus {
    match lock::current(host) {
        Ok(None) => LockStatus::Open,
        Ok(Some(state)) => match state.phase {
            lock::Phase::Locked => LockStatus::Locked {
                level: state.level,
                command_id: state.command_id,
                superuser: state.superuser,
                break_glass: state.break_glass,
            },
            lock::Phase::Unlocking => LockStatus::Unlocking,
        },
        Err(_) => LockStatus::Unknown,
    }
}

fn quarantine_status(host: &Host) -> QuarantineStatus {
    match quarantine::current(host) {
        Ok(None) => QuarantineStatus::Open,
        Ok(Some(Recorded { command_id, is_confirmed: true, until })) => {
            QuarantineStatus::Confirmed { command_id, level: quarantine::level(host), until }
        }
        Ok(Some(Recorded { command_id, is_confirmed: false, .. })) => {
            QuarantineStatus::Trying { command_id }
        }
        Err(_) => QuarantineStatus::Unknown,
    }
}
