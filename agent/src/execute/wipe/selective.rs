//! Selective wipe: the company's data goes, the person's stays byte for byte.
//!
//! Company data has a key of its own: that of volumes, of directories which fscrypt encrypts, and of homes of systemd-homed,
//! as the configuration names them (see `directory` and `home` for those). Their keys are
//! destroyed as a wipe does it, mappings of them are closed, or cut off while somebody uses them, and then
//! everything goes that is on the list of managed files. There is no power-off, so a mapping that stays open is not
//! proven: its key is still in the kernel's memory.
//!
//! Evidence: that of a wipe for the company's volumes, `directories`, a list of `{path, policy_version, key, stored, journal,
//! kernel_key, does_not_open}` with the file that was tried in vain, where `stored` is a list of `{place, bytes, before_sha256,
//! after_sha256, old_bytes, progress}` and `old_bytes` is `overwritten_in_place` where the drive showed them before and what
//! was written over them afterwards, else `may_be_left`, and `journal` is `erased` or `may_hold_copies`, `homes`, a list of
//! `{user, storage, image, state}` as homed says it, `files_removed` (how many of the list were
//! there) and `files_left`, which is 0.

use std::path::Path;
use std::sync::Arc;

use protocol::action::WipeLevel;
use protocol::receipt::{Evidence, Failure, FailureKind};

use super::course::{self, Course};
use super::directory::{self, Directory};
use super::home::{self, Home, KeyOf};
use super::managed::{self, Managed};
use super::record::{Target, Wiping};
use super::survey::Survey;
use super::volume::{Disk, SystemDisk};
use super::{graph, mapping, network, survey};
use crate::execute::state_file::StateFile as _;
use crate::execute::tool::Tool;
use crate::execute::{Executor, Plan, Recovery, Task, failure};
use crate::host::{Arming, Host};

#[cfg(test)]
mod tests;

/// Keys only: nobody but the company ever had a backup of these headers, and time counts.
const LEVEL: WipeLevel = WipeLevel::Keys;

/// The executor of `selective_wipe`.
#[derive(Debug)]
pub struct SelectiveWipe {
    disk: Arc<dyn Disk>,
}

impl Default for SelectiveWipe {
    fn default() -> Self {
        Self::on(Box::new(SystemDisk))
    }
}

impl SelectiveWipe {
    /// Destroys volumes of that disk instead of the machine's.
    pub fn on(disk: Box<dyn Disk>) -> Self {
        Self { disk: disk.into() }
    }

    fn begin<'a>(&'a self, host: &'a Host, task: &Task) -> Result<Course<'a>, Failure> {
        if let Some(course) = Course::load(&self.disk, host, task.command_id, "apply")? {
            return Ok(course);
        }
        let Found { survey, directories, homes } = self.look(host, "apply")?;
        let files = Managed::load(host, "apply")?.unwrap_or_default().files;
        let wiping = Wiping {
            command_id: task.command_id,
            envelope: task.envelope.clone(),
            level: LEVEL,
            finished: false,
            targets: survey.targets,
            bare: Vec::new(),
            unencrypted: Vec::new(),
            left: Vec::new(),
            files: files.into_iter().filter(|path| managed::is_there(host, path)).collect(),
            directories,
            homes,
            drives: Vec::new(),
            tpm: None,
        };
        wiping.save(host, "apply")?;
        Ok(Course { disk: &*self.disk, host, wiping })
    }

    /// What is the company's.
    fn look(&self, host: &Host, stage: &str) -> Result<Found, Failure> {
        let former = Wiping::load(host, stage)?;
        let (former, begun): (Vec<Target>, Vec<Directory>) =
            former.map(|former| (former.targets, former.directories)).unwrap_or_default();
        let found = home::all(&*self.disk, host, &former);
        let found =
            found.map_err(|wrong| failure(FailureKind::Precondition, stage, wrong.join("; ")))?;
        let mut paths = host.company_directories.clone();
        let (mut homes, mut targets) = (Vec::new(), Vec::new());
        for (home, key) in found {
            homes.push(home);
            match key {
                KeyOf::Volume(target) => targets.push(*target),
                KeyOf::Directory(path) => paths.push(path),
            }
        }
        let directories = directory::all(host, &paths, &begun, stage)?;
        let (disk, volumes) = (&self.disk, &host.company_volumes);
        let mut survey = if volumes.is_empty() && !(directories.is_empty() && targets.is_empty()) {
            Survey::default()
        } else {
            survey::answering(disk, host, volumes, &former, stage)?
        };
        survey.targets.extend(targets);
        Ok(Found { survey, directories, homes })
    }
}

/// What is the company's on a host.
#[derive(Debug)]
struct Found {
    survey: Survey,
    directories: Vec<Directory>,
    homes: Vec<Home>,
}

impl Executor for SelectiveWipe {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let Found { survey, directories, homes } = self.look(host, "plan")?;
        let files = Managed::load(host, "plan")?.unwrap_or_default().files;
        let mut steps: Vec<_> = homes.iter().map(Home::step).collect();
        steps.extend(survey.steps(LEVEL));
        steps.extend(directories.iter().flat_map(|directory| directory.steps(host)));
        steps.extend(files.iter().map(|path| {
            let step = format!("remove {}", path.display());
            match managed::hindrance(host, path) {
                Some(why) => format!("{step}: will fail, {why}"),
                None => step,
            }
        }));
        let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        let mut facts = survey.facts(LEVEL).with("files", files);
        if !directories.is_empty() {
            let known: Vec<_> = directories.iter().map(Directory::facts).collect();
            facts = facts.with("directories", known);
        }
        if !homes.is_empty() {
            facts = facts.with("homes", homes.iter().map(Home::facts).collect::<Vec<_>>());
        }
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut course = self.begin(host, task)?;
        course.wiping.homes.iter().for_each(|home| home.let_go(host));
        for target in &course.wiping.targets {
            close(host, &target.path);
        }
        course.destroy_keys(&|advance| task.course.tell(advance))?;
        let mut wrong = Vec::new();
        for path in &course.wiping.files {
            if let Err(error) = managed::remove(host, path) {
                wrong.push((error.kind(), format!("{} {error}", path.display())));
            }
        }
        let Some((kind, _)) = wrong.first() else { return Managed::remove(host, "apply") };
        let details: Vec<_> = wrong.iter().map(|(_, detail)| detail.as_str()).collect();
        Err(failure(*kind, "apply", details.join("; ")))
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let not_proven = |detail: String| failure(FailureKind::NotProven, "prove", detail);
        let course = Course::load(&self.disk, host, task.command_id, "prove")?
            .ok_or_else(|| not_proven("no wipe of this command is recorded".to_owned()))?;
        let evidence = course.observe().map_err(not_proven)?;
        for target in &course.wiping.targets {
            if let Some(mapping) = graph::standing_on(host, &target.path).mappings.first() {
                let detail = format!("{} is still open as {mapping}", target.path.display());
                return Err(not_proven(detail));
            }
        }
        let files = &course.wiping.files;
        if let Some(left) = files.iter().find(|path| managed::is_there(host, path)) {
            return Err(not_proven(format!("{} is still there", left.display())));
        }
        let homes = course.wiping.homes.iter().map(|home| home.verify(host));
        let homes: Vec<_> = homes.collect::<Result<_, _>>().map_err(not_proven)?;
        let evidence = evidence.with("files_removed", files.len()).with("files_left", 0);
        Ok(if homes.is_empty() { evidence } else { evidence.with("homes", homes) })
    }

    fn remains(&self, host: &Host, task: &Task) -> Evidence {
        let known = Course::load(&self.disk, host, task.command_id, "prove").ok().flatten();
        known.map(|course| course.remains()).unwrap_or_default()
    }

    fn has_begun(&self, host: &Host, task: &Task) -> bool {
        course::is_recorded(host, task.command_id)
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        // Every step may be repeated, and one that was never begun destroyed nothing.
        Recovery::Apply
    }
}

/// Detaches what is mounted from the volume, and has its mappings closed once nobody uses them. Whoever has a file
/// open there would keep one open, and readable: it is cut off.
fn close(host: &Host, volume: &Path) {
    let standing = graph::standing_on(host, volume);
    network::let_go(host, &standing.places);
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return,
    }
    for mapping in &standing.mappings {
        let closed = Tool::find("cryptsetup", "apply").and_then(|tool| {
            let device = format!("/dev/{mapping}");
            tool.args(["close", "--deferred", &device]).during(&host.course).run_ok("apply")
        });
        if let Err(error) = closed {
            tracing::warn!(error = error.detail, "company's mapping stays open");
        }
    }
    mapping::cut(host, volume);
}
