//! Stands in for every verb on a host that is not armed: the effect is one line in a file.
//!
//! Gives demonstrations, load tests and fault tests an effect that can be counted: one line for
//! each time that a command was carried out. It hides no repetition, so that a test which counts
//! one line knows that the journal kept the effect to once. It must never touch anything but that
//! file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use protocol::action::Verb;
use protocol::receipt::{Evidence, Failure, FailureKind};

use super::{Executor, Plan, Recovery, Task, failure};
use crate::host::Host;

#[cfg(test)]
mod tests;

/// The file in the state directory that holds the effects, one line `<verb> <command id>` each.
pub const EFFECTS_LOG: &str = "effects.log";

/// An executor whose only effect is one line in [`EFFECTS_LOG`].
#[derive(Debug)]
pub struct Simulated(Verb);

impl Simulated {
    /// Stands in for that verb.
    pub fn new(verb: Verb) -> Self {
        Self(verb)
    }

    fn line(&self, task: &Task) -> String {
        format!("{} {}\n", self.0, task.command_id)
    }
}

impl Executor for Simulated {
    fn plan(&self, _host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let steps = vec![format!("write one line that stands for {}", self.0)];
        Ok(Plan { steps, facts: Evidence::new().with("simulated", true) })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        append(host, &self.line(task)).map_err(|error| failure(FailureKind::Io, "apply", error))
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let lines = count(host, &self.line(task))
            .map_err(|error| failure(FailureKind::Io, "prove", error))?;
        if lines == 1 {
            return Ok(Evidence::new().with("simulated", true).with("effect_lines", lines));
        }
        let detail = format!("{EFFECTS_LOG} holds {lines} lines of this command");
        Err(failure(FailureKind::NotProven, "prove", detail))
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        match count(host, &self.line(task)) {
            Ok(0) => Recovery::Apply,
            Ok(_) => Recovery::Applied,
            Err(_) => Recovery::InDoubt,
        }
    }
}

fn path(host: &Host) -> PathBuf {
    host.state_dir.join(EFFECTS_LOG)
}

/// Appends the line with a single write and fsyncs it.
///
/// A torn last line, left by a power cut before its fsync, is cut off first: its command never
/// reported an effect.
fn append(host: &Host, line: &str) -> io::Result<()> {
    let path = path(host);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o600)
        .truncate(false)
        .open(path)?;
    file.lock()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = u64::try_from(whole).map_err(io::Error::other)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    // A new file's name is durable only once its folder is (fsync(2)).
    File::open(&host.state_dir)?.sync_all()
}

fn count(host: &Host, line: &str) -> io::Result<usize> {
    match std::fs::read(path(host)) {
        Ok(text) => Ok(occurrences(&text, line)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn occurrences(text: &[u8], line: &str) -> usize {
    text.split_inclusive(|byte| *byte == b'\n').filter(|part| *part == line.as_bytes()).count()
}
