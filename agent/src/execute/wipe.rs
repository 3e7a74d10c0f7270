//! Wipe: the keys of every target are destroyed, and that is proven before anything else goes.
//!
//! All targets are inspected before the first byte is touched; one that is not what it should be
//! stops everything. `apply` destroys the keys and headers of all targets, which takes well under
//! a second. At level `data` that is proved first, and only when its proof had time to leave does
//! `finish` erase the data itself. Each step is recorded, so that a power cut resumes where it
//! was. A mapping that is open stays readable until the device powers off, which is what
//! [`Afterwards::PowerOff`] is for.
//!
//! Before that the doors are closed as a lock closes them, and sessions end: best effort, see [`wiping`]. They open again
//! when the wipe is over and the power stays on, which the agent sees to.
//!
//! The order is: the record, what makes it hard to kill, the doors, the keys. Whoever kills the agent before the record
//! leaves the device as it was; after it the wipe goes on, in this boot or the next.
//!
//! What lies on drives that erase themselves is erased so, the whole drive and everything on it; what does not,
//! or would not, is erased range by range. The TPM is cleared after the proof of the keys.
//!
//! Evidence: `grade` (`proven`, or `proven_media` when all data is erased too, and where no targets are named
//! nothing of the machine's own stays), `header_backup_opens` (whether a backup of the headers that somebody made
//! earlier still opens what data there is), `targets`, a list of `{path, format, uuid, headers_before_sha256,
//! headers_after_sha256, keyslots_before, keyslots_left, data_bytes, erasure}`, where `data_bytes`
//! counts destroyed data and `erasure` says in which way, and `ways` are other paths to the same bytes, if any; where there is any, `still_open`, the paths of targets that
//! a mapping still has open, and of file systems that are mounted, `swaps`, a list of `{path, kind, grade, erasure}`, `file_systems`, the same
//! with `uuid` of those that are not encrypted and are erased with the data, `unencrypted`, the paths of what stays
//! readable, `left`, a list of `{path, uuid, why}` of other LUKS volumes, `left_unnamed`, how many more of either there
//! are, `drives`, a list of `{path, model, serial, method, passed_over, places_changed}` with the method that erased
//! the drive and the obstacles of better ones, and `tpm` (`pending`, `cleared`, `not_authorized`, `failed`,
//! `with_power`, `kept_for_key`), and `doors`, as they were after the keys: `{closed, break_glass, sessions_left,
//! processes_left, gaps}`. Of a wipe that failed before its proof: `volumes_destroyed` (as they are seen),
//! `volumes_recorded` (whose keys went by the record, be they seen so or not), and `targets`, of each in addition
//! `destroyed`, `progress` (`pending`, `keys`, `headers`, `data`) and, if there is one, its `problem`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::action;
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::Value;

use self::course::Course;
use self::destroy::DestroyError;
use self::endurance::{Endurance, PATIENCE};
use self::record::{TpmFate, Wiping};
use self::volume::{Disk, SystemDisk};
use super::lock::wiping;
use super::state_file::StateFile as _;
use super::{Afterwards, Executor, Plan, Recovery, Task, failure};
use crate::host::Host;

mod ask;
mod bare;
mod course;
mod deadline;
mod destroy;
mod directory;
mod drives;
mod endurance;
mod file_system;
mod graph;
mod home;
pub(in crate::execute) mod luks;
pub mod managed;
mod mapping;
mod moved;
mod network;
mod place;
mod record;
pub mod selective;
mod survey;
mod tpm;
pub mod volume;
mod window;

/// The observation that says how many volumes a wipe that failed has destroyed all the same.
const DESTROYED: &str = "volumes_destroyed";
/// The one that says of how many it is recorded: a drive that no longer answers shows nothing.
const RECORDED: &str = "volumes_recorded";

/// Whether a wipe that failed has destroyed volumes all the same: as they are seen, or as it was recorded when they
/// were read back.
pub fn has_destroyed_some(evidence: &Evidence) -> bool {
    let count = |name| evidence.get(name).and_then(Value::as_u64);
    [DESTROYED, RECORDED].into_iter().filter_map(count).any(|count| count > 0)
}

/// How often the doors are looked at while data is erased.
const UPHOLD: Duration = Duration::from_secs(30);

/// Whether a wipe of this host would be proven fast: there are volumes to be destroyed, and each
/// of them has keys that can go.
pub fn is_provable(host: &Host) -> bool {
    survey::is_provable(&system(), host)
}

fn system() -> Arc<dyn Disk> {
    Arc::new(SystemDisk)
}

/// A wipe that has begun and is not at its end, as its record says.
///
/// # Errors
/// `Io` when there is a record that cannot be read.
pub fn unfinished(host: &Host) -> Result<Option<CommandId>, Failure> {
    let recorded = Wiping::load(host, "reassert")?.filter(|wiping| !wiping.finished);
    Ok(recorded.map(|wiping| wiping.command_id))
}

/// A wipe that is at its end, as its record says.
///
/// # Errors
/// `Io` when there is a record that cannot be read.
pub fn ended(host: &Host) -> Result<Option<CommandId>, Failure> {
    let recorded = Wiping::load(host, "reassert")?.filter(|wiping| wiping.finished);
    Ok(recorded.map(|wiping| wiping.command_id))
}

/// Destroys what keys are left of such a wipe, and looks whether they are gone. The rest is left to its
/// command: what is proven is told before the data goes.
///
/// # Errors
/// The first volume that resisted; the others are destroyed all the same.
pub fn resume(host: &Host) -> Result<(), Failure> {
    let Some(wiping) = Wiping::load(host, "reassert")?.filter(|wiping| !wiping.finished) else {
        return Ok(());
    };
    let disk = system();
    let mut course = Course::of(&disk, host, wiping);
    course.destroy_keys(&|_| {})?;
    let seen = course.observe();
    seen.map(|_| ()).map_err(|detail| failure(FailureKind::NotProven, "reassert", detail))
}

/// Whether a wipe has come to its end and left the TPM to the moment when the power goes.
pub fn owes_tpm(host: &Host) -> bool {
    let recorded = Wiping::load(host, "power_off").unwrap_or_default();
    recorded.is_some_and(|wiping| wiping.finished && wiping.tpm == Some(TpmFate::WithPower))
}

/// Whether the system that runs here has gone with the data of a wipe, as its record says. Nothing of it may be needed any
/// more, also by an agent that was started again since.
pub fn took_system(host: &Host) -> bool {
    let recorded = Wiping::load(host, "power_off").unwrap_or_default();
    recorded.is_some_and(|wiping| {
        let is_gone = wiping.finished && wiping.level == action::WipeLevel::Data;
        is_gone && graph::carry_system(host, &wiping.going())
    })
}

/// Every volume that a wipe of this host would find: see [`survey::inventory`].
pub(super) fn inventory(host: &Host) -> Vec<Value> {
    survey::inventory(&system(), host)
}

/// A volume that a wipe of this host would destroy, and whose UUID is not known so.
pub(super) fn unmanaged(host: &Host, is_known: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let volumes = survey::volumes(&system(), host).into_iter();
    volumes.into_iter().find_map(|(path, uuid)| (!is_known(&uuid)).then_some(path))
}

/// The executor of `wipe`.
#[derive(Debug)]
pub struct Wipe {
    params: action::Wipe,
    disk: Arc<dyn Disk>,
    /// Held from the first step to the last.
    endurance: Mutex<Option<Endurance>>,
    /// The record as it is at the end: the disk that it should be on may have gone with the rest.
    ended: Mutex<Option<Wiping>>,
    /// The record as it was when something failed: the disk that it should be on may be full.
    failed: Mutex<Option<Wiping>>,
    doors: Mutex<Doors>,
}

/// What this process knows of the doors.
#[derive(Debug, Default)]
struct Doors {
    /// What did not work when they were closed.
    gaps: Vec<String>,
    /// What was seen of them before any data went.
    seen: Option<Value>,
    /// When they were last looked at.
    looked_at: Option<Instant>,
}

impl Wipe {
    /// Wipes as that order says.
    pub fn new(params: action::Wipe) -> Self {
        Self::on(params, Box::new(SystemDisk))
    }

    /// Wipes volumes of that disk instead of the machine's.
    pub fn on(params: action::Wipe, disk: Box<dyn Disk>) -> Self {
        Self {
            params,
            disk: disk.into(),
            endurance: Mutex::default(),
            ended: Mutex::default(),
            failed: Mutex::default(),
            doors: Mutex::default(),
        }
    }

    /// The wipe of this command as recorded, or a new one.
    fn begin<'a>(&'a self, host: &'a Host, task: &Task) -> Result<Course<'a>, Failure> {
        if let Some(course) = Course::load(&self.disk, host, task.command_id, "apply")? {
            return Ok(course);
        }
        let survey = survey::wipe(&self.disk, host, self.params.level, "apply")?;
        let wiping = Wiping {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            level: self.params.level,
            finished: false,
            targets: survey.targets,
            bare: survey.bare,
            unencrypted: survey.unencrypted,
            left: survey.left,
            files: Vec::new(),
            directories: Vec::new(),
            homes: Vec::new(),
            drives: survey.drives,
            tpm: tpm::fate(host, self.params.power_off),
        };
        wiping.save(host, "apply")?;
        Ok(Course { disk: &*self.disk, host, wiping })
    }

    /// The wipe of this command, as it ended in this process or as it is recorded.
    fn known<'a>(
        &'a self,
        host: &'a Host,
        task: &Task,
        stage: &str,
    ) -> Result<Option<Course<'a>>, Failure> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match ended.filter(|wiping| wiping.command_id == task.command_id) {
            Some(wiping) => Ok(Some(Course { disk: &*self.disk, host, wiping })),
            None => Course::load(&self.disk, host, task.command_id, stage),
        }
    }

    /// Becomes hard to kill, if that did not happen yet.
    fn endure(&self, host: &Host) {
        let patience: Option<Duration> = self.params.power_off.then_some(PATIENCE);
        let mut endurance = self.endurance.lock().unwrap_or_else(PoisonError::into_inner);
        endurance.get_or_insert_with(|| Endurance::begin(host, patience)).feed();
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the doors as a lock does. What is in the way of that is none of the keys'.
    fn close_doors(&self, host: &Host, task: &Task) {
        let gaps = wiping::close(host, task);
        for detail in &gaps {
            tracing::warn!(detail, "door or room of a wiped device");
        }
        let looked_at = Some(host.course.now());
        *self.doors() = Doors { gaps, seen: None, looked_at };
    }

    /// Closes again what somebody opened while data is erased, which takes hours.
    fn uphold_doors(&self, host: &Host) {
        // Nothing is read from a disk that is being erased, nothing written to it, and no program starts any more.
        if host.ground.is_gone() {
            return;
        }
        let now = host.course.now();
        let is_early = |at: Instant| now.saturating_duration_since(at) < UPHOLD;
        if self.doors().looked_at.is_some_and(is_early) {
            return;
        }
        self.doors().looked_at = Some(now);
        match wiping::uphold(host) {
            Ok(false) => {}
            Ok(true) => tracing::error!("door of a wiped device stood open, and is closed again"),
            // The files may be gone already.
            Err(failure) => tracing::debug!(detail = failure.detail, "doors not looked at"),
        }
    }

    /// What is seen of the doors; once the data goes nothing may be left to look at.
    fn see_doors(&self, host: &Host, evidence: Evidence) -> Evidence {
        let mut doors = self.doors();
        let gaps = doors.gaps.clone();
        let seen = doors.seen.get_or_insert_with(|| wiping::look(host, gaps));
        evidence.with("doors", seen.clone())
    }

    /// Leaves the power on where nothing was destroyed for certain. Else it goes: a volume that is destroyed
    /// and still mapped is readable as long as it is on.
    fn unless_failed<T>(
        &self,
        course: &Course<'_>,
        outcome: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if outcome.is_ok() {
            return outcome;
        }
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(course.wiping.clone());
        if course.wiping.destroyed().next().is_none() {
            let held = self.endurance.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The timer of an agent that was killed may be left.
            held.map_or_else(|| deadline::disarm(course.host), Endurance::give_up);
        }
        outcome
    }
}

impl Executor for Wipe {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let survey = survey::wipe(&self.disk, host, self.params.level, "plan")?;
        let detached = network::mounted(host);
        let detached = detached.iter().map(|place| {
            format!("{}: detach, and delete nothing: it is on the network", place.display())
        });
        let doors = ["close the doors as a lock does, and end all sessions".to_owned()];
        let steps =
            doors.into_iter().chain(detached).chain(survey.steps(self.params.level)).collect();
        Ok(Plan { steps, facts: survey.facts(self.params.level) })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut course = self.begin(host, task)?;
        if course.wiping.finished {
            return Ok(());
        }
        self.endure(host);
        self.close_doors(host, task);
        network::detach(host);
        let destroyed = course.destroy_keys(&|advance| task.course.tell(advance));
        self.unless_failed(&course, destroyed)?;
        if course.wiping.tpm == Some(TpmFate::WithPower) {
            host.tpm.goes_with_power();
        }
        Ok(())
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let not_proven = |detail: String| failure(FailureKind::NotProven, "prove", detail);
        let course = self
            .known(host, task, "prove")?
            .ok_or_else(|| not_proven("no wipe of this command is recorded".to_owned()))?;
        // Also in an agent that finds everything destroyed: the timer is renewed until the power goes.
        self.endure(host);
        let evidence = self.unless_failed(&course, course.observe().map_err(not_proven))?;
        Ok(self.see_doors(host, evidence))
    }

    fn remains(&self, host: &Host, task: &Task) -> Evidence {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let failed = failed.filter(|wiping| wiping.command_id == task.command_id);
        let failed = failed.map(|wiping| Course { disk: &*self.disk, host, wiping });
        let course = failed.or_else(|| self.known(host, task, "prove").ok().flatten());
        course.map(|course| course.remains()).unwrap_or_default()
    }

    fn has_remainder(&self, host: &Host, task: &Task) -> bool {
        let recorded = self.known(host, task, "prove");
        recorded.is_ok_and(|course| course.is_some_and(|course| !course.wiping.finished))
    }

    fn finish(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        self.endure(host);
        match Course::load(&self.disk, host, task.command_id, "finish")? {
            // What fails here came after the proof of the keys: the power goes all the same.
            Some(mut course) => {
                let erased = course.erase(&|advance| {
                    self.endure(host);
                    self.uphold_doors(host);
                    task.course.tell(advance);
                });
                let ended = course.is_on_erased().then_some(course.wiping);
                *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = ended;
                erased
            }
            None => Ok(()),
        }
    }

    fn has_begun(&self, host: &Host, task: &Task) -> bool {
        course::is_recorded(host, task.command_id)
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        match Course::load(&self.disk, host, task.command_id, "recover") {
            Ok(Some(course)) if course.wiping.finished => Recovery::Applied,
            // Without a record of its own a command has destroyed nothing yet.
            Ok(Some(_) | None) => Recovery::Apply,
            Err(_) => Recovery::InDoubt,
        }
    }

    /// Erasing takes hours, and a timer of its own ends one that makes no progress.
    fn budget(&self, _usual: Duration) -> Option<Duration> {
        None
    }

    fn afterwards(&self) -> Afterwards {
        if self.params.power_off { Afterwards::PowerOff } else { Afterwards::Nothing }
    }
}

/// An error about one volume, with its cause, on one line.
fn particulars(path: &Path, error: &DestroyError) -> String {
    let source = std::error::Error::source(error);
    let source = source.map(|source| format!(": {source}")).unwrap_or_default();
    format!("{} {error}{source}", path.display())
}
