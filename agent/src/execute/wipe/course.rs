//! The course of a wipe: every target is taken step by step, and each step is recorded.
//!
//! Owns the order (the keys of all before the headers of all before any data) and the evidence.
//! What the targets are is decided before; how one is destroyed is the part of `destroy`.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::advance::Advance;
use protocol::grade::{GRADE, Grade};
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::{Value, json};

use super::bare::{self, Bare, BareKind};
use super::destroy::{self, DestroyError, Reached};
use super::drives;
use super::graph::{self, Left};
use super::record::{Progress, Target, TpmFate, Wiping};
use super::volume::{Disk, Erasure, is_held};
use super::{DESTROYED, RECORDED, mapping, moved, particulars, tpm};
use crate::execute::failure;
use crate::execute::state_file::StateFile as _;
use crate::host::Host;

/// Things that are left, of each kind, which a receipt has room to name.
const REST: usize = 32;

/// A wipe on its way, as it is recorded.
#[derive(Debug)]
pub(super) struct Course<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) host: &'a Host,
    pub(super) wiping: Wiping,
}

impl<'a> Course<'a> {
    /// The wipe of that command as recorded.
    pub(super) fn load(
        disk: &'a Arc<dyn Disk>,
        host: &'a Host,
        command_id: CommandId,
        stage: &str,
    ) -> Result<Option<Self>, Failure> {
        let recorded = Wiping::load(host, stage)?.filter(|wiping| wiping.command_id == command_id);
        Ok(recorded.map(|wiping| Self::of(disk, host, wiping)))
    }

    /// A wipe that was recorded, be it in an earlier boot.
    pub(super) fn of(disk: &'a Arc<dyn Disk>, host: &'a Host, mut wiping: Wiping) -> Self {
        moved::find(disk, host, &mut wiping);
        Self { disk: &**disk, host, wiping }
    }

    /// Destroys the keys and the headers of every volume. One that fails does not protect the
    /// others.
    pub(super) fn destroy_keys(&mut self, tell: &dyn Fn(Advance)) -> Result<(), Failure> {
        let all: Vec<_> = (0..self.wiping.targets.len()).collect();
        let mut wrong = self.advance(Progress::Keys, &all, tell);
        wrong.extend(self.destroy_directories(tell));
        wrong.extend(self.advance(Progress::Headers, &all, tell));
        self.end("apply", &wrong)
    }

    /// Destroys the stored keys of every directory.
    fn destroy_directories(&mut self, tell: &dyn Fn(Advance)) -> Vec<(FailureKind, String)> {
        let (host, mut wrong) = (self.host, Vec::new());
        for at in 0..self.wiping.directories.len() {
            let mut directory = self.wiping.directories[at].clone();
            let path = directory.path.display().to_string();
            tell(Advance::at(&path).step(at + 1, self.wiping.directories.len()));
            let destroyed = directory.destroy(host, &mut |directory| {
                self.wiping.directories[at] = directory.clone();
                self.wiping.save(host, "apply")
            });
            self.wiping.directories[at] = directory;
            wrong.extend(destroyed.err().map(|error| (error.kind(), format!("{path} {error}"))));
        }
        wrong
    }

    /// Erases what the level asks for beyond the keys: the TPM, what drives do not erase by themselves, then the
    /// drives, and in the end what lies on those that would not.
    pub(super) fn erase(&mut self, tell: &dyn Fn(Advance)) -> Result<(), Failure> {
        self.clear_tpm();
        let mut wrong = self.erase_bare(|_, bare| !bare.is_file_system(), tell);
        if Progress::goal(self.wiping.level) == Progress::Data {
            // While programs can still be started.
            self.wiping.bare.iter().for_each(|bare| bare::let_go(self.host, bare));
            self.leave_ground();
            for target in &self.wiping.targets {
                mapping::cut(self.host, &target.path);
            }
            let all = 0..self.wiping.targets.len();
            let is_for_drives =
                |at: &usize| self.wiping.is_for_drives(&self.wiping.targets[*at].path);
            let (later, now): (Vec<_>, Vec<_>) = all.partition(is_for_drives);
            wrong.extend(self.erase_bare(|wiping, bare| !wiping.is_for_drives(&bare.path), tell));
            wrong.extend(self.advance(Progress::Data, &now, tell));
            self.erase_drives(tell);
            wrong.extend(self.advance(Progress::Data, &later, tell));
            wrong.extend(self.erase_bare(|_, _| true, tell));
        }
        self.end("finish", &wrong)
    }

    /// Where the running system goes as well, nothing of it may be needed from here on.
    fn leave_ground(&self) {
        if graph::carry_system(self.host, &self.wiping.going()) {
            tracing::warn!("running system is erased: the kernel alone powers off");
            self.host.ground.goes();
        }
    }

    fn clear_tpm(&mut self) {
        if self.wiping.tpm != Some(TpmFate::Pending) {
            return;
        }
        self.wiping.tpm = Some(tpm::clear(self.host));
        self.note(Reached::Flushed);
    }

    /// Has drives erase themselves, and everything on them counts as gone with those that did.
    fn erase_drives(&mut self, tell: &dyn Fn(Advance)) {
        let (disk, host) = (self.disk, self.host);
        for at in 0..self.wiping.drives.len() {
            let mut drive = self.wiping.drives[at].clone();
            drives::erase(disk, host, &mut drive, &mut |drive, progress| match progress {
                Some(_) => tell(Advance::at(&drive.path.display().to_string())),
                None => {
                    self.wiping.drives[at] = drive.clone();
                    self.note(Reached::Flushed);
                }
            });
            self.wiping.drives[at] = drive;
        }
        for at in 0..self.wiping.targets.len() {
            if self.wiping.went_with_drives(&self.wiping.targets[at].path) {
                let target = &mut self.wiping.targets[at];
                (target.progress, target.erasure) = (Progress::Data, Some(Erasure::Drive));
            }
        }
        for at in 0..self.wiping.bare.len() {
            if self.wiping.went_with_drives(&self.wiping.bare[at].path) {
                let bare = &mut self.wiping.bare[at];
                (bare.done, bare.erasure) = (bare.bytes, Some(Erasure::Drive));
            }
        }
        self.note(Reached::Flushed);
    }

    /// Records that everything is done, where it is.
    fn end(&mut self, stage: &str, wrong: &[(FailureKind, String)]) -> Result<(), Failure> {
        if let Some((first, _)) = wrong.first() {
            let all: Vec<_> = wrong.iter().map(|(_, detail)| detail.as_str()).collect();
            return Err(failure(*first, stage, all.join("; ")));
        }
        if !self.wiping.is_complete() {
            return Ok(());
        }
        self.wiping.finished = true;
        let saved = self.wiping.save(self.host, stage);
        if self.is_on_erased() { Ok(()) } else { saved }
    }

    /// Whether the disk of the record may be one of those that are erased now: then the executor remembers.
    pub(super) fn is_on_erased(&self) -> bool {
        self.host.ground.is_gone() || self.wiping.has_erased_drives()
    }

    /// Takes those targets one step of the way.
    fn advance(
        &mut self,
        to: Progress,
        which: &[usize],
        tell: &dyn Fn(Advance),
    ) -> Vec<(FailureKind, String)> {
        let mut wrong = Vec::new();
        for at in which.iter().copied() {
            // A header goes only when the keys behind it are gone, and the data after both.
            if self.wiping.targets[at].progress.next() != Some(to) {
                continue;
            }
            tell(self.so_far(at, to));
            if let Err(error) = self.step(at, to, tell) {
                let detail = particulars(&self.wiping.targets[at].path, &error);
                wrong.push((error.kind(), detail));
            } else if let Err(error) = self.wiping.save(self.host, "apply")
                && to != Progress::Data
            {
                // Destroying goes on: without the record a crash only repeats this step.
                wrong.push((error.kind, error.detail));
            }
        }
        wrong
    }

    fn step(
        &mut self,
        at: usize,
        to: Progress,
        tell: &dyn Fn(Advance),
    ) -> Result<(), DestroyError> {
        let mut target = self.wiping.targets[at].clone();
        let done = match to {
            Progress::Pending => Ok(()),
            Progress::Keys => destroy::keys(self.disk, &mut target),
            Progress::Headers => destroy::headers(self.disk, &mut target),
            Progress::Data => destroy::data(self.disk, &mut target, |target, reached| {
                self.wiping.targets[at] = target.clone();
                tell(self.so_far(at, to));
                self.note(reached);
            }),
        };
        self.wiping.targets[at] = target;
        done
    }

    /// Erases of what has no keys that which is meant.
    fn erase_bare(
        &mut self,
        is_meant: impl Fn(&Wiping, &Bare) -> bool,
        tell: &dyn Fn(Advance),
    ) -> Vec<(FailureKind, String)> {
        let mut wrong = Vec::new();
        for at in 0..self.wiping.bare.len() {
            let mut bare = self.wiping.bare[at].clone();
            if bare.is_done() || !is_meant(&self.wiping, &bare) {
                continue;
            }
            if !self.host.ground.is_gone() {
                bare::let_go(self.host, &bare);
            }
            let (before, all) = amount(&self.wiping);
            let erased = bare::erase(self.disk, self.host, &mut bare, |bare, done, reached| {
                self.wiping.bare[at] = bare.clone();
                let path = bare.path.display().to_string();
                tell(Advance::at(&path).bytes(before + done, all));
                self.note(reached);
            });
            wrong.extend(erased.err().map(|e| (e.kind(), particulars(&bare.path, &e))));
            self.wiping.bare[at] = bare;
            self.note(Reached::Flushed);
        }
        wrong
    }

    /// How far it is when it takes that target so far: keys and headers are two steps of each, and
    /// data is so many bytes.
    fn so_far(&self, at: usize, to: Progress) -> Advance {
        let (targets, now) = (&self.wiping.targets, &self.wiping.targets[at]);
        let advance = Advance::at(&now.path.display().to_string());
        match to {
            Progress::Pending | Progress::Keys => advance.step(at + 1, 2 * targets.len()),
            Progress::Headers => advance.step(targets.len() + at + 1, 2 * targets.len()),
            Progress::Data => {
                let (done, all) = amount(&self.wiping);
                advance.step(at + 1, targets.len()).bytes(done, all)
            }
        }
    }

    /// Writes down how far it is, where that would stand. Without that a crash only repeats a part.
    fn note(&self, reached: Reached) {
        if reached == Reached::Written {
            return;
        }
        if let Err(error) = self.wiping.save(self.host, "finish") {
            tracing::warn!(error = error.detail, "progress could not be recorded");
        }
    }

    /// Looks at everything as far as the record says, or says what is not as it should be.
    pub(super) fn observe(&self) -> Result<Evidence, String> {
        let Wiping { targets, bare, tpm, .. } = &self.wiping;
        if !self.wiping.has_reached(Progress::Headers) {
            return Err("the keys of this wipe are not recorded as destroyed".to_owned());
        }
        let (mut seen, mut open) = (Vec::new(), Vec::new());
        for target in targets {
            let mut known = target.clone();
            if graph::is_open(self.host, &target.path) {
                // What is open may be written to at any moment: of its data nothing is certain.
                known.progress = known.progress.min(Progress::Headers);
                open.push(target.path.as_path());
            }
            let after = self.verify(&known).map_err(|error| particulars(&target.path, &error))?;
            seen.push(observed(target, after.as_deref()));
        }
        let mounted: Vec<_> = bare.iter().filter(|bare| self.is_mounted(bare)).collect();
        for bare in bare.iter().filter(|bare| !mounted.contains(bare)) {
            if !self.wiping.is_on_begun_drive(&bare.path) {
                bare::verify(self.disk, bare).map_err(|error| particulars(&bare.path, &error))?;
            }
        }
        let directories = self.observe_directories()?;
        // Data on another device than its keys is not this wipe's to erase.
        let no_data_left = directories.is_empty()
            && self.wiping.has_reached(Progress::Data)
            && open.is_empty()
            && targets.iter().all(|target| target.data.is_some());
        // Where targets are named, nobody asked for more than those.
        let is_all = !self.host.wipe_targets.is_empty()
            || (!self.wiping.leaves_some() && mounted.is_empty());
        let grade = if no_data_left && is_all { Grade::ProvenMedia } else { Grade::Proven };
        let mut evidence = Evidence::new()
            .with(GRADE, grade.as_str())
            .with("header_backup_opens", !no_data_left)
            .with("targets", seen);
        if !directories.is_empty() {
            evidence = evidence.with("directories", directories);
        }
        open.extend(mounted.iter().map(|bare| bare.path.as_path()));
        if !open.is_empty() {
            evidence = evidence.with("still_open", json!(open));
        }
        let (file_systems, swaps): (Vec<_>, Vec<_>) =
            bare.iter().partition(|bare| bare.is_file_system());
        for (name, bare) in [("file_systems", file_systems), ("swaps", swaps)] {
            let observed = bare.iter().map(|bare| bare.observed(mounted.contains(bare)));
            let observed: Vec<_> = observed.collect();
            if !observed.is_empty() {
                evidence = evidence.with(name, observed);
            }
        }
        if let Some(tpm) = tpm {
            evidence = evidence.with("tpm", json!(tpm));
        }
        self.wiping.observe_drives(self.disk, self.wiping.observe_rest(evidence))
    }

    fn observe_directories(&self) -> Result<Vec<Value>, String> {
        let directories = self.wiping.directories.iter();
        let seen = directories.map(|directory| {
            let seen = directory.verify(self.host);
            seen.map_err(|error| format!("{} {error}", directory.path.display()))
        });
        seen.collect()
    }

    /// Whether that is a file system which somebody can still write to.
    fn is_mounted(&self, bare: &Bare) -> bool {
        bare.is_file_system()
            && (!graph::places(self.host, &bare.path).is_empty() || is_held(&bare.path))
    }

    /// What there is to say of a wipe that failed: of every volume how far it is, by what is on it now.
    pub(super) fn remains(&self) -> Evidence {
        let states: Vec<_> = self.wiping.targets.iter().map(|target| self.state(target)).collect();
        let destroyed = states.iter().filter(|(is_destroyed, _)| *is_destroyed).count();
        let targets: Vec<_> = states.into_iter().map(|(_, state)| state).collect();
        let recorded = self.wiping.destroyed().count();
        let mut evidence = Evidence::new().with(DESTROYED, destroyed).with(RECORDED, recorded);
        let directories = self.wiping.directories.iter();
        let directories: Vec<_> = directories.map(|one| one.state(self.host)).collect();
        if !directories.is_empty() {
            evidence = evidence.with("directories", directories);
        }
        self.wiping.observe_rest(evidence.with("targets", targets))
    }

    /// Whether one volume is destroyed, with what a receipt says of it.
    fn state(&self, target: &Target) -> (bool, Value) {
        let seen = match target.progress {
            Progress::Pending => Ok(None),
            // Without its keys a volume is destroyed, whatever became of the headers.
            Progress::Keys => destroy::verify_keys(self.disk, target).map(|()| Some(None)),
            Progress::Headers | Progress::Data => self.verify(target).map(Some),
        };
        let problem = seen.as_ref().err().map(|error| particulars(&target.path, error));
        let is_destroyed = matches!(seen, Ok(Some(_)));
        let after = seen.ok().flatten().flatten();
        let mut state = observed(target, after.as_deref());
        state["destroyed"] = json!(is_destroyed);
        state["progress"] = json!(target.progress);
        if !is_destroyed {
            state["keyslots_left"] = Value::Null;
            state["data_bytes"] = json!(0);
        }
        if let Some(problem) = problem {
            state["problem"] = json!(problem);
        }
        (is_destroyed, state)
    }

    /// Looks at one volume. What it answers is nothing where the headers went with the drive.
    fn verify(&self, target: &Target) -> Result<Option<String>, DestroyError> {
        if self.wiping.went_with_drives(&target.path) {
            destroy::verify_gone(self.disk, target).map(|()| None)
        } else if self.wiping.is_on_begun_drive(&target.path) {
            // It was proven before its drive began, which goes on by itself after a power cut.
            let seen = destroy::verify(self.disk, target).map(Some);
            seen.or_else(|_| destroy::verify_gone(self.disk, target).map(|()| None))
        } else {
            destroy::verify(self.disk, target).map(Some)
        }
    }
}

impl Wiping {
    /// Volumes whose keys are gone, by the record: nothing brings those back.
    pub(super) fn destroyed(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.progress >= Progress::Keys)
    }

    /// What stays readable, because nothing of it is encrypted.
    fn readable(&self) -> impl Iterator<Item = &PathBuf> {
        let bare = self.bare.iter().filter(|bare| bare.is_file_system() && !bare.is_done());
        let all = self.unencrypted.iter().chain(bare.map(|bare| &bare.path));
        all.filter(|path| !self.went_with_drives(path))
    }

    /// Other LUKS volumes that stay as they are.
    fn left(&self) -> impl Iterator<Item = &Left> {
        self.left.iter().filter(|left| !self.went_with_drives(&left.path))
    }

    /// Whether something of the machine's own stays that a stranger could read.
    fn leaves_some(&self) -> bool {
        self.readable().next().is_some() || self.left().any(|left| left.why.is_gap())
    }

    /// Names what stays, as far as there is room in a receipt.
    fn observe_rest(&self, mut evidence: Evidence) -> Evidence {
        let readable: Vec<_> = self.readable().take(REST).collect();
        if !readable.is_empty() {
            evidence = evidence.with("unencrypted", json!(readable));
        }
        let left: Vec<_> = self.left().take(REST).collect();
        if !left.is_empty() {
            evidence = evidence.with("left", json!(left));
        }
        let beyond = self.readable().skip(REST).count() + self.left().skip(REST).count();
        if beyond > 0 { evidence.with("left_unnamed", beyond) } else { evidence }
    }
}

/// Whether a wipe of that command is recorded: it began.
pub(super) fn is_recorded(host: &Host, command_id: CommandId) -> bool {
    let recorded = Wiping::load(host, "recover");
    recorded.is_ok_and(|wiping| wiping.is_some_and(|wiping| wiping.command_id == command_id))
}

/// `headers_after` is nothing where they went with the drive.
fn observed(target: &Target, headers_after: Option<&str>) -> Value {
    let data = target.data.as_ref().filter(|_| target.progress == Progress::Data);
    let mut seen = json!({
        "path": target.path,
        "format": target.format,
        "uuid": target.uuid,
        "headers_before_sha256": target.headers_before_sha256,
        "headers_after_sha256": headers_after,
        "keyslots_before": target.keyslots,
        "keyslots_left": 0,
        "data_bytes": data.map_or(0, |data| data.end - data.start),
        "erasure": data.and(target.erasure),
    });
    if !target.ways.is_empty() {
        seen["ways"] = json!(target.ways);
    }
    if let Some(window) = &target.window {
        seen["part"] = json!([window.start, window.end]);
    }
    seen
}

/// How many bytes of data, swap and plain file systems are erased, and of how many that the level asks for. An area counts
/// as erased as far as it is written.
fn amount(wiping: &Wiping) -> (u64, u64) {
    let has_data = Progress::goal(wiping.level) == Progress::Data;
    let targets = wiping.targets.iter().filter(|_| has_data);
    let areas = targets.filter_map(|target| {
        let area = target.data.as_ref()?;
        let length = area.end - area.start;
        let is_done = target.progress == Progress::Data;
        let done = if is_done { length } else { target.data_done.saturating_sub(area.start) };
        Some((done, length))
    });
    let bare = wiping.bare.iter().filter(|bare| bare.kind != BareKind::RandomKey);
    let bare = bare.map(|bare| (if bare.is_done() { bare.bytes } else { 0 }, bare.bytes));
    areas.chain(bare).fold((0, 0), |(done, all), (more, of)| (done + more, all + of))
}
