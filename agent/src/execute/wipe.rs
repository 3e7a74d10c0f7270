//! Wipe: the keys of every configured LUKS2 volume are destroyed, and that is proven.
//!
//! All targets are inspected before the first byte is touched; one that is not what it should be
//! stops everything. Then the keys and headers of all targets go, which takes well under a
//! second, and only then, at level `data`, the data itself. Each step is recorded, so that a
//! power cut resumes where it was. A mapping that is open stays readable until the device powers
//! off, which is what [`Afterwards::PowerOff`] is for.
//!
//! Evidence: `grade` (`proven`, or `proven_media` when the data is overwritten too) and `targets`,
//! a list of `{path, uuid, headers_before_sha256, headers_after_sha256, keyslots_before,
//! keyslots_left, data_bytes}`, where `data_bytes` counts destroyed data.

use std::path::Path;

use protocol::action::{self, WipeLevel};
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::{Value, json};

use self::destroy::DestroyError;
use self::record::{Progress, Target, Wiping};
use self::volume::{Disk, SystemDisk};
use super::state_file::StateFile as _;
use super::{Afterwards, Executor, Plan, Recovery, Task, failure};
use crate::host::Host;

mod destroy;
mod luks2;
mod record;
pub mod volume;

/// Whether a wipe of this host would be proven fast: there are volumes to be destroyed, and each
/// of them has keys that can go.
pub fn is_provable(host: &Host) -> bool {
    let has_keys = |path: &std::path::PathBuf| destroy::inspect(&SystemDisk, path).is_ok();
    !host.wipe_targets.is_empty() && host.wipe_targets.iter().all(has_keys)
}

/// The executor of `wipe`.
#[derive(Debug)]
pub struct Wipe {
    params: action::Wipe,
    disk: Box<dyn Disk>,
}

impl Wipe {
    /// Wipes as that order says.
    pub fn new(params: action::Wipe) -> Self {
        Self::on(params, Box::new(SystemDisk))
    }

    /// Wipes volumes of that disk instead of the machine's.
    pub fn on(params: action::Wipe, disk: Box<dyn Disk>) -> Self {
        Self { params, disk }
    }

    /// All targets as they are now, or everything that is wrong with them.
    fn inspect(&self, host: &Host, stage: &str) -> Result<Vec<Target>, Failure> {
        let former = Wiping::load(host, stage)?.map(|wiping| wiping.targets).unwrap_or_default();
        let mut targets: Vec<Target> = Vec::new();
        let mut wrong = Vec::new();
        for path in &host.wipe_targets {
            // One volume may be configured under several names.
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            if targets.iter().any(|target| target.path == path) {
                continue;
            }
            match self.inspect_one(&path, &former) {
                Ok(target) => targets.push(target),
                Err(error) => wrong.push(particulars(&path, &error)),
            }
        }
        if targets.is_empty() && wrong.is_empty() {
            wrong.push("no volume is configured to be wiped".to_owned());
        }
        if wrong.is_empty() {
            return Ok(targets);
        }
        Err(failure(FailureKind::Precondition, stage, wrong.join("; ")))
    }

    /// The target at that path: as its headers say, or, where an earlier wipe began with it, as
    /// the record of that wipe says.
    fn inspect_one(&self, path: &Path, former: &[Target]) -> Result<Target, DestroyError> {
        let former = former.iter().find(|target| target.path == path);
        match (destroy::inspect(&*self.disk, path), former) {
            // Headers came back over a wipe that was under way: their keys may have as well.
            (Ok(found), Some(former))
                if found.uuid == former.uuid && former.progress < Progress::Headers =>
            {
                Ok(Target { progress: Progress::Pending, ..former.clone() })
            }
            (Ok(found), _) => Ok(found),
            (Err(error), Some(former)) => {
                if destroy::is_same(&*self.disk, former)? {
                    Ok(former.clone())
                } else {
                    Err(error)
                }
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The wipe of this command as recorded, or a new one.
    fn begin(&self, host: &Host, task: &Task) -> Result<Wiping, Failure> {
        let recorded = Wiping::load(host, "apply")?;
        if let Some(wiping) = recorded.filter(|wiping| wiping.command_id == task.command_id) {
            return Ok(wiping);
        }
        let wiping = Wiping {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            level: self.params.level,
            finished: false,
            targets: self.inspect(host, "apply")?,
        };
        wiping.save(host, "apply")?;
        Ok(wiping)
    }

    /// Takes every target one step of the way. One that fails does not protect the others.
    fn advance(&self, host: &Host, wiping: &mut Wiping, to: Progress) -> Vec<String> {
        let mut wrong = Vec::new();
        for at in 0..wiping.targets.len() {
            // A header goes only when the keys behind it are gone, and the data after both.
            if wiping.targets[at].progress.next() != Some(to) {
                continue;
            }
            let step = self.step(host, wiping, at, to);
            if let Err(error) = step {
                wrong.push(particulars(&wiping.targets[at].path, &error));
            } else if let Err(error) = wiping.save(host, "apply") {
                // Destroying goes on: without the record a crash only repeats this step.
                wrong.push(error.detail);
            }
        }
        wrong
    }

    fn step(
        &self,
        host: &Host,
        wiping: &mut Wiping,
        at: usize,
        to: Progress,
    ) -> Result<(), DestroyError> {
        let mut target = wiping.targets[at].clone();
        let done = match to {
            Progress::Pending => Ok(()),
            Progress::Keys => destroy::keys(&*self.disk, &mut target),
            Progress::Headers => destroy::headers(&*self.disk, &mut target),
            Progress::Data => destroy::data(&*self.disk, &mut target, |target| {
                wiping.targets[at] = target.clone();
                tracing::info!(path = %target.path.display(), bytes = target.data_done, "data wiped");
                if let Err(error) = wiping.save(host, "apply") {
                    tracing::warn!(error = error.detail, "progress could not be recorded");
                }
            }),
        };
        wiping.targets[at] = target;
        done
    }
}

impl Executor for Wipe {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let targets = self.inspect(host, "plan")?;
        let steps = targets.iter().flat_map(|target| steps(target, self.params.level)).collect();
        let facts: Vec<Value> = targets.iter().map(|t| facts(t, self.params.level)).collect();
        Ok(Plan { steps, facts: Evidence::new().with("targets", facts) })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut wiping = self.begin(host, task)?;
        if wiping.finished {
            return Ok(());
        }
        let goal = Progress::goal(wiping.level);
        let mut wrong = Vec::new();
        for to in [Progress::Keys, Progress::Headers, Progress::Data] {
            if to <= goal {
                wrong.extend(self.advance(host, &mut wiping, to));
            }
        }
        if wrong.is_empty() {
            wiping.finished = true;
            return wiping.save(host, "apply");
        }
        Err(failure(FailureKind::Io, "apply", wrong.join("; ")))
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let not_proven = |detail: String| failure(FailureKind::NotProven, "prove", detail);
        let wiping = Wiping::load(host, "prove")?
            .filter(|wiping| wiping.command_id == task.command_id && wiping.finished)
            .ok_or_else(|| not_proven("no finished wipe of this command is recorded".to_owned()))?;
        let mut targets = Vec::new();
        for target in &wiping.targets {
            let after = destroy::verify(&*self.disk, target)
                .map_err(|error| not_proven(particulars(&target.path, &error)))?;
            targets.push(observed(target, &after));
        }
        let grade = match wiping.level {
            WipeLevel::Keys => "proven",
            WipeLevel::Data => "proven_media",
        };
        Ok(Evidence::new().with("grade", grade).with("targets", targets))
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        match Wiping::load(host, "recover") {
            Ok(Some(wiping)) if wiping.command_id == task.command_id && wiping.finished => {
                Recovery::Applied
            }
            // Without a record of its own a command has destroyed nothing yet.
            Ok(Some(_) | None) => Recovery::Apply,
            Err(_) => Recovery::InDoubt,
        }
    }

    fn afterwards(&self) -> Afterwards {
        if self.params.power_off { Afterwards::PowerOff } else { Afterwards::Nothing }
    }
}

fn steps(target: &Target, level: WipeLevel) -> Vec<String> {
    let name = format!("{} (LUKS {})", target.path.display(), target.uuid);
    let (keys, headers) = (&target.key_area, target.header_bytes * 2);
    let mut steps = Vec::new();
    if target.progress < Progress::Headers {
        let slots = target.keyslots;
        steps.push(format!(
            "{name}: overwrite bytes {}..{} with {slots} keyslots",
            keys.start, keys.end
        ));
        steps.push(format!("{name}: overwrite both headers, bytes 0..{headers}"));
    }
    match (&target.data, level) {
        (Some(data), WipeLevel::Data) => {
            steps.push(format!("{name}: overwrite the data, bytes {}..{}", data.start, data.end));
        }
        (Some(_), WipeLevel::Keys) | (None, _) => {}
    }
    steps
}

/// What identifies a target in an approved plan: nothing that differs from one look to the next.
fn facts(target: &Target, level: WipeLevel) -> Value {
    json!({
        "path": target.path,
        "uuid": target.uuid,
        "headers_sha256": target.headers_before_sha256,
        "keyslots": target.keyslots,
        "key_area": [target.key_area.start, target.key_area.end],
        "data": target.data.as_ref().map(|data| [data.start, data.end]),
        "level": level,
    })
}

fn observed(target: &Target, headers_after: &str) -> Value {
    let data = target.data.as_ref().filter(|_| target.progress == Progress::Data);
    json!({
        "path": target.path,
        "uuid": target.uuid,
        "headers_before_sha256": target.headers_before_sha256,
        "headers_after_sha256": headers_after,
        "keyslots_before": target.keyslots,
        "keyslots_left": 0,
        "data_bytes": data.map_or(0, |data| data.end - data.start),
    })
}

/// An error about one volume, with its cause, on one line.
fn particulars(path: &Path, error: &DestroyError) -> String {
    let source = std::error::Error::source(error);
    let source = source.map(|source| format!(": {source}")).unwrap_or_default();
    format!("{} {error}{source}", path.display())
}
