//! The keyslots of one volume: looking at them, filling one, emptying one, trying a key.
//!
//! Looking is this agent's own reading of the headers; whatever changes them is `cryptsetup(8)`,
//! which knows every kind of keyslot and takes the volume's own lock. Knows nothing of why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::receipt::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::secret::Secret;
use crate::execute::course::Course;
use crate::execute::failure;
use crate::execute::tool::Tool;
use crate::execute::wipe::luks::{self, Keys};
use crate::execute::wipe::volume::{Access, Disk as _, SystemDisk};
use crate::host::Host;

/// Keys of 160 bits and more are not guessed: no stretching makes them better, and any slows down
/// a machine that starts.
const UNSTRETCHED: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
/// What `cryptsetup` answers when no keyslot takes the key.
const NO_PERMISSION: i32 = 2;

/// A keyslot with the very key that it had when somebody looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Its number.
    pub(super) slot: u32,
    /// SHA-256 of its salt.
    pub(super) salt_sha256: String,
}

/// A key to be tried.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    /// The content of that file.
    File(&'a Path),
    /// That secret.
    Secret(&'a Secret),
}

/// One volume.
#[derive(Debug, Clone)]
pub(super) struct Keyslots {
    path: PathBuf,
    patience: Duration,
    course: Course,
}

impl Keyslots {
    pub(super) fn of(host: &Host, path: &Path, patience: Duration) -> Self {
        Self { path: path.to_owned(), patience, course: host.course.clone() }
    }

    /// The same, for what has to be done although the step has had its time.
    pub(super) fn unhurried(path: &Path, patience: Duration) -> Self {
        Self { path: path.to_owned(), patience, course: Course::default() }
    }

    /// The keys as the headers tell them.
    pub(super) fn look(&self, stage: &str) -> Result<Keys, Failure> {
        let volume = SystemDisk.open(&self.path, Access::Read);
        let volume = volume.map_err(|error| self.failure(FailureKind::Io, stage, error))?;
        luks::keys(&*volume).map_err(|error| {
            self.failure(FailureKind::Precondition, stage, format_args!("it {error}"))
        })
    }

    /// The mark of that keyslot, if it holds a key.
    pub(super) fn mark(&self, slot: u32, stage: &str) -> Result<Option<Mark>, Failure> {
        let keys = self.look(stage)?;
        let salt = keys.slots.get(&slot);
        Ok(salt.map(|salt| Mark { slot, salt_sha256: salt.clone() }))
    }

    /// Whether that keyslot takes that key, and gives the volume's for it.
    pub(super) fn opens(&self, slot: u32, key: Key<'_>, stage: &str) -> Result<bool, Failure> {
        let slot = slot.to_string();
        let tool = Self::tool(stage, ["open", "--test-passphrase", "--key-slot", &slot])?;
        let tool = match key {
            Key::File(file) => tool.args(["--key-file".as_ref(), file.as_os_str()]),
            Key::Secret(secret) => tool.args(["--key-file", "-"]).stdin(secret.reveal()),
        };
        let tool = tool.args([&self.path]).budget(self.patience).during(&self.course);
        let output = tool.run(stage)?;
        if output.status.code() == Some(NO_PERMISSION) {
            return Ok(false);
        }
        if output.status.success() {
            return Ok(true);
        }
        tool.run_ok(stage).map(|_| true)
    }

    /// Fills an empty keyslot, on the authority of the key in that file.
    pub(super) fn add(
        &self,
        slot: u32,
        secret: &Secret,
        authority: &Path,
        stage: &str,
    ) -> Result<Mark, Failure> {
        let number = slot.to_string();
        Self::tool(stage, ["-q", "luksAddKey", "--key-slot", &number])?
            .args(UNSTRETCHED)
            .args(["--key-file".as_ref(), authority.as_os_str()])
            .args([&self.path])
            .stdin(secret.reveal())
            .budget(self.patience)
            .during(&self.course)
            .run_ok(stage)?;
        self.mark(slot, stage)?.ok_or_else(|| {
            self.failure(FailureKind::NotProven, stage, format_args!("keyslot {slot} is empty"))
        })
    }

    /// Fills an empty keyslot with the key in a file, on the authority of a passphrase.
    pub(super) fn add_file(
        &self,
        slot: u32,
        file: &Path,
        passphrase: &[u8],
        stage: &str,
    ) -> Result<Mark, Failure> {
        let number = slot.to_string();
        Self::tool(stage, ["-q", "luksAddKey", "--key-slot", &number])?
            .args(UNSTRETCHED)
            .args(["--key-file", "-"])
            .args([&self.path, &file.to_owned()])
            .stdin(passphrase)
            .budget(self.patience)
            .during(&self.course)
            .run_ok(stage)?;
        self.mark(slot, stage)?.ok_or_else(|| {
            self.failure(FailureKind::NotProven, stage, format_args!("keyslot {slot} is empty"))
        })
    }

    /// Empties a keyslot. Whoever calls has tried another key before: this asks for none.
    pub(super) fn remove(&self, slot: u32, stage: &str) -> Result<(), Failure> {
        let number = slot.to_string();
        Self::tool(stage, ["-q", "luksKillSlot"])?
            .args([&self.path])
            .args([&number])
            .budget(self.patience)
            .during(&self.course)
            .run_ok(stage)?;
        match self.mark(slot, stage)? {
            None => Ok(()),
            Some(_) => {
                let detail = format_args!("keyslot {slot} still holds a key");
                Err(self.failure(FailureKind::NotProven, stage, detail))
            }
        }
    }

    /// A failure about this volume.
    pub(super) fn failure(
        &self,
        kind: FailureKind,
        stage: &str,
        detail: impl std::fmt::Display,
    ) -> Failure {
        failure(kind, stage, format_args!("{}: {detail}", self.path.display()))
    }

    fn tool<const N: usize>(stage: &str, words: [&str; N]) -> Result<Tool, Failure> {
        Ok(Tool::find("cryptsetup", stage)?.args(words))
    }
}
