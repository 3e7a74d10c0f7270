//! Collect-evidence: a first look at what runs on the device, and what else the order names, sealed to
//! the case's key.
//!
//! Volatile first: processes, sockets, sessions, modules, mounts, accounts, as the endpoint's own files
//! show them at that moment (`look`), which travel in the receipt and are bounded by it. Then memory of
//! processes, logs, files and folders, as far as the order names them: packed, cut into chunks, each
//! sealed here and kept in a spool of the state directory, whence they follow the receipt that names
//! them (`ladder::collections`). Changes nothing on the endpoint but that spool, follows no link, and
//! runs no program of the endpoint. What does not fit is left out, and noted. Not a forensic image.
//!
//! Evidence: `sections` (of each: `name`, `bytes` and `sha256` of what was read, `kept` bytes, whether
//! it `timed_out`), `evidence_sha256` (of the sealed JSON document), `case_key`, `sealed`, and
//! `collection` (see [`Collection`]).

use std::time::Duration;

use protocol::action::{self, Sources};
use protocol::advance::Advance;
use protocol::collection::{Collection, Source};
use protocol::receipt::{Evidence, Failure, FailureKind};
use runtime::{Clock, Entropy};

use self::look::{DOCUMENT_BYTES, SECTIONS};
use self::packer::Packer;
use self::spool::{Spool, SpoolError, Spooled};
use self::tree::Tree;
use super::course::patience;
use super::{Executor, Plan, Recovery, Task, failure, sha256_hex};
use crate::host::Host;

mod look;
mod memory;
mod packer;
mod read;
pub(crate) mod spool;
#[cfg(test)]
mod tests;
mod tree;

/// How long reading may take; what is left then is noted.
const READING: Duration = Duration::from_secs(30 * 60);
/// Where logs lie: the newest are read first.
const LOGS: [&str; 2] = ["/run/log/journal", "/var/log"];

/// The executor of `collect_evidence`.
#[derive(Debug)]
pub struct CollectEvidence(action::CollectEvidence);

impl CollectEvidence {
    /// With those parameters.
    pub fn new(params: action::CollectEvidence) -> Self {
        Self(params)
    }

    /// What the receipt says of the first look.
    fn look(&self, host: &Host, task: &Task, stage: &str) -> Result<Evidence, Failure> {
        let broken = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, stage, error);
        let (manifest, document) = look::collect(host, patience::SECTION, &task.course);
        let document = serde_json::to_vec(&document).map_err(|error| broken(&error))?;
        if document.len() > DOCUMENT_BYTES {
            return Err(broken(&"the sections are longer than they may be together"));
        }
        let about = task.command_id.to_string();
        let sealed = self.0.case_key.seal(&document, about.as_bytes(), Entropy::system().bytes());
        Ok(Evidence::new()
            .with("sections", manifest)
            .with("evidence_sha256", sha256_hex(&document))
            .with("case_key", self.0.case_key.to_string())
            .with("sealed", sealed.map_err(|error| broken(&error))?))
    }

    /// Reads all that the order names into the spool, the most volatile first.
    fn fill(
        &self,
        (host, task): (&Host, &Task),
        sources: &Sources,
        spool: &Spool,
    ) -> Result<Collection, Failure> {
        let about = task.command_id.to_string();
        let sealer = self.0.case_key.chunks(about.as_bytes(), Entropy::system().bytes());
        let sealer = sealer.map_err(|error| failure(FailureKind::Internal, "apply", error))?;
        let clock = Clock::system();
        let until = clock.now() + READING;
        let mut packer = Packer::new((sealer, spool), sources, (clock, until), &task.course);
        task.course.tell(Advance::at("memory"));
        for process in &sources.processes {
            memory::read(&mut packer, host, process).map_err(|error| lost(&error))?;
        }
        let tree = Tree::open(host).map_err(|error| failure(FailureKind::Io, "apply", error))?;
        task.course.tell(Advance::at("logs"));
        if sources.logs {
            let mut logs: Vec<_> = LOGS.iter().flat_map(|path| tree.list(path)).collect();
            logs.sort_by_key(|found| std::cmp::Reverse(found.modified_at));
            read::all(&mut packer, &tree, Source::Log, logs).map_err(|error| lost(&error))?;
        }
        task.course.tell(Advance::at("files"));
        for path in &sources.paths {
            let found = tree.list(path);
            read::all(&mut packer, &tree, Source::Path, found).map_err(|error| lost(&error))?;
        }
        packer.finish().map_err(|error| lost(&error))
    }
}

impl Executor for CollectEvidence {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let names = SECTIONS.map(|(name, _)| name);
        let mut steps =
            vec![format!("read {}, and seal it to {}", names.join(", "), self.0.case_key)];
        let mut facts = Evidence::new()
            .with("sections", names.to_vec())
            .with("case_key", self.0.case_key.to_string());
        if let Some(sources) = &self.0.sources {
            Spool::room(&host.state_dir).map_err(|error| refused(&error))?;
            steps.push(format!(
                "read memory of {} processes, {}logs, {} paths, at most {} bytes, and send them on",
                sources.processes.len(),
                if sources.logs { "" } else { "no " },
                sources.paths.len(),
                sources.total_bytes,
            ));
            facts = facts.with("sources", serde_json::to_value(sources).unwrap_or_default());
        }
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let Some(sources) = &self.0.sources else { return Ok(()) };
        let spool = Spool::of(&host.state_dir, task.command_id);
        let first_look = self.look(host, task, "apply")?;
        spool.begin().map_err(|error| lost(&error))?;
        let collected = self.fill((host, task), sources, &spool).and_then(|collection| {
            let spooled = Spooled { collection, first_look };
            spool.seal(&spooled).map_err(|error| lost(&error))
        });
        collected.inspect_err(|_| spool.remove())
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        if self.0.sources.is_none() {
            return self.look(host, task, "prove");
        }
        let spool = Spool::of(&host.state_dir, task.command_id);
        let Spooled { collection, first_look } =
            spool.verified().map_err(|error| failure(FailureKind::NotProven, "prove", error))?;
        Ok(first_look.merged(collection.evidence()))
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        // What was read of another moment is not gone on with: all of it is read again.
        match Spool::of(&host.state_dir, task.command_id).is_whole() {
            true => Recovery::Applied,
            false => Recovery::Apply,
        }
    }

    fn budget(&self, usual: Duration) -> Option<Duration> {
        Some(self.0.sources.as_ref().map_or(usual, |_| READING + usual))
    }

    fn outlives_the_agent(&self) -> bool {
        self.0.sources.is_some()
    }
}

fn lost(error: &SpoolError) -> Failure {
    let kind = match error {
        SpoolError::Left | SpoolError::Sealing(_) => FailureKind::Internal,
        SpoolError::Disk(_) | SpoolError::Full | SpoolError::Altered => FailureKind::Io,
        SpoolError::Waiting => FailureKind::Precondition,
    };
    failure(kind, "apply", error)
}

fn refused(error: &SpoolError) -> Failure {
    Failure { stage: "plan".to_owned(), ..lost(error) }
}
