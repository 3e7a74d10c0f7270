//! What a rotation keeps on disk: what it is about to change, and how far it came.
//!
//! Written before the first change: a keyslot that a crash leaves behind is this rotation's, and
//! nobody else's, only because the record says so. Holds no secret: what is sealed opens with the
//! recovery key alone, and a password's hash is what `shadow(5)` shows as well.

use std::path::PathBuf;

use protocol::escrow::Subject;
use protocol::id::CommandId;
use protocol::receipt::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::keyslots::Mark;
use crate::execute::state_file::StateFile;
use crate::execute::{Task, failure, sha256_hex};
use crate::host::Host;

/// One rotation. `LOCK`: it is the one of a crypto lock, which has a record of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotation<const LOCK: bool> {
    /// The command that ordered it.
    pub(super) command_id: CommandId,
    /// Its envelope: the justification for going on after a crash.
    pub(super) envelope: String,
    /// How far it came.
    pub(super) phase: Phase,
    /// The volumes that it changes.
    pub(super) turns: Vec<Turn>,
    /// The password that it changes.
    pub(super) password: Option<Password>,
    /// The new credentials as they go to the escrow, once there are any.
    pub(super) sealed: Option<String>,
}

impl<const LOCK: bool> StateFile for Rotation<LOCK> {
    const NAME: &'static str = if LOCK { "crypto_lock.json" } else { "rotation.json" };
}

impl<const LOCK: bool> Rotation<LOCK> {
    /// The rotation of this command.
    pub(super) fn of(host: &Host, task: &Task, stage: &str) -> Result<Self, Failure> {
        let found = Self::load(host, stage)?;
        found.filter(|found| found.command_id == task.command_id).ok_or_else(|| {
            let detail = "no rotation of this command is recorded";
            failure(FailureKind::NotProven, stage, detail)
        })
    }

    /// What the new credentials open.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let account = self.password.iter().map(Password::subject);
        self.turns.iter().map(Turn::subject).chain(account).collect()
    }

    /// What names the escrow in evidence.
    pub(super) fn sealed_sha256(&self) -> Option<String> {
        self.sealed.as_ref().map(|sealed| sha256_hex(sealed.as_bytes()))
    }
}

/// How far a rotation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    /// New keyslots may hold keys that nobody knows.
    Adding,
    /// The new credentials work or are ready, and are sealed.
    Added,
    /// They are not escrowed, and are taken back.
    Withdrawing,
    /// They are taken back.
    Withdrawn,
    /// The former ones are gone.
    Finished,
}

/// The password of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Password {
    /// Whose.
    pub(super) name: String,
    /// The hash of the new one.
    pub(super) field: String,
    /// SHA-256 of the hash of the former one: whether somebody else changed it meanwhile.
    pub(super) former_sha256: String,
}

impl Password {
    fn subject(&self) -> Subject {
        Subject::Account { name: self.name.clone() }
    }
}

/// One volume of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Which it is.
    pub(super) uuid: String,
    /// The keyslot that gets the new key. It was empty.
    pub(super) slot: u32,
    /// The keyslot once it was tried.
    pub(super) new: Option<Mark>,
    /// Keyslots that are emptied when the new one is escrowed.
    pub(super) former: Vec<Mark>,
}

impl Turn {
    pub(super) fn subject(&self) -> Subject {
        let path = self.path.display().to_string();
        Subject::Volume { uuid: self.uuid.clone(), path }
    }
}
