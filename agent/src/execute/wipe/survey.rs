//! What is to be destroyed, looked at without touching it.
//!
//! Owns the choice of targets: those that the configuration names, or else those that the machine
//! itself shows. One that is not what it should be stops everything.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::action::WipeLevel;
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::{Value, json};

use super::ask;
use super::bare::{self, Bare, BareKind};
use super::destroy::{self, DestroyError};
use super::drives::{self, Drive};
use super::graph::{self, Found, Left, Why};
use super::record::{Progress, Target, Wiping};
use super::volume::{Access, Disk, hindrance};
use super::{luks, particulars};
use crate::execute::failure;
use crate::host::Host;

/// What was found, ready to be destroyed.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The volumes.
    pub(super) targets: Vec<Target>,
    /// What lies on none of them, has no keys, and is erased as a whole.
    pub(super) bare: Vec<Bare>,
    /// What stays readable, because nothing of it is encrypted.
    pub(super) unencrypted: Vec<PathBuf>,
    /// Other LUKS volumes, which are left alone.
    pub(super) left: Vec<Left>,
    /// The drives that they lie on, where these are asked to erase themselves.
    pub(super) drives: Vec<Drive>,
    /// The TPM that goes with them.
    pub(super) tpm: Option<PathBuf>,
}

/// What a wipe of the whole machine destroys at that level.
pub(super) fn wipe(
    disk: &Arc<dyn Disk>,
    host: &Host,
    level: WipeLevel,
    stage: &str,
) -> Result<Survey, Failure> {
    let mut survey = machine(disk, host, &former(host, stage)?, stage)?;
    match level {
        WipeLevel::Keys => {}
        WipeLevel::Data => {
            if host.wipe_targets.is_empty() {
                survey.take_file_systems(disk, host);
            }
            let bare = survey.bare.iter().map(|bare| bare.path.clone());
            let left = survey.left.iter().map(|left| left.path.clone());
            let others = survey.unencrypted.iter().cloned().chain(bare).chain(left);
            let others: Vec<_> = others.collect();
            survey.drives = drives::look(&**disk, host, &survey.targets, &others);
        }
    }
    survey.tpm = host.tpm.there().map(Path::to_owned);
    Ok(survey)
}

/// The volumes and the swap of the machine. `former` is what an earlier wipe began with.
fn machine(
    disk: &Arc<dyn Disk>,
    host: &Host,
    former: &[Target],
    stage: &str,
) -> Result<Survey, Failure> {
    let begun = begun(disk, host, former);
    let mut found = look(disk, host, &begun);
    if !host.wipe_targets.is_empty() {
        let survey = answering(disk, host, &host.wipe_targets, former, stage)?;
        // Nobody asked for what lies beside them, so nothing is done about it.
        let swaps = found.swaps.into_iter().filter(|(_, kind)| *kind == BareKind::Plain);
        let unencrypted = found.unencrypted.into_iter().chain(swaps.map(|(path, _)| path));
        return Ok(Survey { unencrypted: unencrypted.collect(), left: found.left, ..survey });
    }
    found.left.retain(|left| !begun.iter().any(|target| target.path == left.path));
    found.volumes.extend(begun.iter().map(|target| target.path.clone()));
    let mut survey = named(&**disk, host, &found.volumes, former, stage)?;
    let mut wrong = Vec::new();
    for (path, kind) in &found.swaps {
        match bare::inspect(&**disk, host, path, *kind) {
            Ok(swap) => survey.bare.push(swap),
            Err(error) => wrong.push(particulars(path, &error)),
        }
    }
    survey.unencrypted = found.unencrypted;
    survey.left = found.left;
    if wrong.is_empty() { Ok(survey) } else { Err(precondition(stage, &wrong)) }
}

/// The volumes of a former wipe that it began with and that are still there. One whose header is gone shows nothing: only
/// the record knows it. One that was made anew since is somebody's again.
fn begun<'a>(disk: &Arc<dyn Disk>, host: &Host, former: &'a [Target]) -> Vec<&'a Target> {
    let begun = former.iter().filter(|target| target.progress > Progress::Pending);
    let mut begun: Vec<_> = begun.collect();
    let paths: Vec<_> = begun.iter().map(|target| target.path.clone()).collect();
    let known: Vec<Target> = begun.iter().copied().cloned().collect();
    let (same, _) = ask::each(disk, host, &paths, move |disk, path| {
        let mut known = known.iter().filter(|target| target.path == path);
        known.any(|target| destroy::is_same(disk, target).unwrap_or(false))
    });
    begun.retain(|target| same.get(&target.path) == Some(&true));
    begun
}

/// Exactly these volumes, if each of them answers: to be asked for its headers it is waited for without a limit.
pub(super) fn answering(
    disk: &Arc<dyn Disk>,
    host: &Host,
    paths: &[PathBuf],
    former: &[Target],
    stage: &str,
) -> Result<Survey, Failure> {
    let silent = ask::kinds(disk, host, paths).silent;
    let silent: Vec<_> =
        silent.iter().map(|path| format!("{} does not answer", path.display())).collect();
    if !silent.is_empty() {
        return Err(failure(FailureKind::Timeout, stage, silent.join("; ")));
    }
    named(&**disk, host, paths, former, stage)
}

/// Exactly these volumes.
fn named(
    disk: &dyn Disk,
    host: &Host,
    paths: &[PathBuf],
    former: &[Target],
    stage: &str,
) -> Result<Survey, Failure> {
    let mut survey = Survey::default();
    let mut wrong = Vec::new();
    for path in paths {
        // One volume may be known by several names.
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        if survey.targets.iter().any(|target| target.path == path) {
            continue;
        }
        match inspect(disk, &path, None, former) {
            Ok(target) => survey.targets.push(target),
            Err(error) => wrong.push(particulars(&path, &error)),
        }
    }
    survey.join_ways(host);
    if survey.targets.is_empty() && wrong.is_empty() {
        wrong.push("there is no encrypted volume whose keys could be destroyed".to_owned());
    }
    if wrong.is_empty() { Ok(survey) } else { Err(precondition(stage, &wrong)) }
}

/// Whether a wipe of this host would be proven fast, and of everything: there are volumes, each of
/// them has keys that can go, and nothing lies beside them. What can be pulled out is not counted, and
/// where targets are named, nothing but those.
pub(super) fn is_provable(disk: &Arc<dyn Disk>, host: &Host) -> bool {
    if !host.wipe_targets.is_empty() {
        let answers = ask::kinds(disk, host, &host.wipe_targets);
        let is_sound =
            |path: &PathBuf| answers.luks.contains_key(path) && hindrance(path).is_none();
        return host.wipe_targets.iter().all(is_sound);
    }
    let found = look(disk, host, &[]);
    let is_safe = |(_, kind): &(PathBuf, BareKind)| *kind == BareKind::RandomKey;
    let leaves_some = found.left.iter().any(|left| left.why.is_gap());
    !found.volumes.is_empty()
        && !leaves_some
        && found.unencrypted.is_empty()
        && found.swaps.iter().all(is_safe)
}

/// The volumes of that host that have keys, with their UUIDs: nothing of one that does not answer.
pub(super) fn volumes(disk: &Arc<dyn Disk>, host: &Host) -> Vec<(PathBuf, String)> {
    let (paths, mut silent) = if host.wipe_targets.is_empty() {
        let found = look(disk, host, &[]);
        let silent = found.left.into_iter().filter(|left| left.why == Why::Silent);
        (found.volumes, silent.map(|left| left.path).collect())
    } else {
        (host.wipe_targets.clone(), Vec::new())
    };
    let answers = ask::kinds(disk, host, &paths);
    silent.extend(answers.silent);
    answers.luks.into_iter().chain(silent.into_iter().map(|path| (path, String::new()))).collect()
}

/// Every volume that a wipe of that host would find, for whoever asks before the incident: as `{path, encrypted,
/// destroyable}`, of those with keys `uuid`, and of those that stay although they have some `why`.
pub(super) fn inventory(disk: &Arc<dyn Disk>, host: &Host) -> Vec<Value> {
    let found = look(disk, host, &[]);
    let named = Some(host.wipe_targets.clone()).filter(|named| !named.is_empty());
    let paths = named.unwrap_or(found.volumes);
    let (answers, _) = ask::each(disk, host, &paths, |disk, path| {
        let volume = disk.open(path, Access::Read).ok()?;
        let uuid = luks::layout(&*volume).ok().map(|layout| layout.uuid);
        Some((luks::shows_header(&*volume).ok()?, uuid))
    });
    let goes = paths.iter().map(|path| match answers.get(path).cloned().flatten() {
        Some((encrypted, Some(uuid))) if hindrance(path).is_some() => json!({
            "path": path, "encrypted": encrypted, "destroyable": false, "uuid": uuid, "why": "read_only"
        }),
        Some((encrypted, Some(uuid))) => {
            json!({ "path": path, "encrypted": encrypted, "destroyable": true, "uuid": uuid })
        }
        Some((encrypted, None)) => {
            json!({ "path": path, "encrypted": encrypted, "destroyable": false })
        }
        None => json!({ "path": path, "encrypted": null, "destroyable": null }),
    });
    let stays = found.left.iter().map(|Left { path, uuid, why }| match why {
        Why::Silent => json!({ "path": path, "encrypted": null, "destroyable": null, "why": why }),
        Why::Removable | Why::Remote | Why::Locked | Why::NotNamed => {
            json!({ "path": path, "encrypted": true, "destroyable": false, "uuid": uuid, "why": why })
        }
    });
    let bare = found.unencrypted.iter();
    let bare = bare.map(|path| json!({ "path": path, "encrypted": false, "destroyable": false }));
    goes.chain(stays).chain(bare).collect()
}

/// Looks around. `begun` are volumes that no longer show what they are.
fn look(disk: &Arc<dyn Disk>, host: &Host, begun: &[&Target]) -> Found {
    // The graph knows devices by their real names.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let chosen: Vec<_> = host.wipe_targets.iter().map(|path| real(path)).collect();
    let remembered = |path: &Path| {
        let target = begun.iter().find(|target| target.path == real(path));
        target.map(|target| target.uuid.clone())
    };
    let ask = |paths: &[PathBuf]| {
        let mut answers = ask::kinds(disk, host, paths);
        for path in paths {
            if let Some(uuid) = remembered(path) {
                answers.luks.entry(path.clone()).or_insert(uuid);
            }
        }
        answers
    };
    graph::discover(host, &chosen, &ask)
}

/// The target at that path: as its headers say, or, where an earlier wipe began with it, as the
/// record of that wipe says.
pub(super) fn inspect(
    disk: &dyn Disk,
    path: &Path,
    window: Option<&Range<u64>>,
    former: &[Target],
) -> Result<Target, DestroyError> {
    let is_way = |target: &&Target| target.ways.iter().any(|way| way == path);
    let is_it = |target: &&Target| target.path == path && target.window.as_ref() == window;
    let of_it = former.iter().find(is_it);
    // Which of them lead to the same volume is looked at anew.
    let former = of_it.or_else(|| former.iter().find(is_way)).map(|former| Target {
        path: path.to_owned(),
        ways: Vec::new(),
        ..former.clone()
    });
    match (destroy::inspect(disk, path, window), former) {
        // Headers came back over a wipe that was under way: their keys may have as well.
        (Ok(found), Some(former))
            if found.uuid == former.uuid && former.progress < Progress::Headers =>
        {
            Ok(Target { progress: Progress::Pending, ..former })
        }
        (Ok(found), _) => Ok(found),
        (Err(error), Some(former)) => {
            if destroy::is_same(disk, &former)? {
                Ok(former)
            } else {
                Err(error)
            }
        }
        (Err(error), None) => Err(error),
    }
}

fn precondition(stage: &str, wrong: &[String]) -> Failure {
    failure(FailureKind::Precondition, stage, wrong.join("; "))
}

impl Survey {
    /// Takes file systems that are not encrypted for something to erase: those on the machine's own drives which say
    /// who they are. The others stay, and are named, and so does what does not answer: no key waits for it. The running
    /// system's comes last of them.
    fn take_file_systems(&mut self, disk: &Arc<dyn Disk>, host: &Host) {
        let own: Vec<_> = graph::own(host, &self.unencrypted).into_iter().collect();
        let here = host.clone();
        let inspect = move |disk: &dyn Disk, path: &Path| {
            bare::inspect(disk, &here, path, BareKind::FileSystem)
                .inspect_err(
                    |error| tracing::warn!(path = %path.display(), %error, "file system stays"),
                )
                .ok()
        };
        let (answers, _) = ask::each(disk, host, &own, inspect);
        let mut found: Vec<_> = answers.into_values().flatten().collect();
        self.unencrypted.retain(|path| !found.iter().any(|bare| bare.path == *path));
        found.sort_by_key(|bare| graph::carry_system(host, std::slice::from_ref(&bare.path)));
        self.bare.extend(found);
    }

    /// Takes several ways to one volume for one target: a second wipe of the same bytes would undo the proof of the
    /// first.
    fn join_ways(&mut self, host: &Host) {
        let shown = self.targets.iter().map(|target| (target.path.clone(), target.uuid.clone()));
        let ways = graph::ways(host, &shown.collect::<Vec<_>>());
        for (way, of) in &ways {
            let target = self.targets.iter_mut().find(|target| target.path == *of);
            target.into_iter().for_each(|target| {
                if !target.ways.contains(way) {
                    target.ways.push(way.clone());
                }
            });
        }
        self.targets.retain(|target| !ways.contains_key(&target.path));
    }

    /// One line per intended change, for a person.
    pub(super) fn steps(&self, level: WipeLevel) -> Vec<String> {
        let goes = |path: &PathBuf| {
            let is_on = |drive: &&Drive| drive.carries.contains(path);
            self.drives.iter().any(|drive| is_on(&drive) && !drive.methods.is_empty())
        };
        let mut lines: Vec<_> = self.targets.iter().flat_map(|t| steps(t, level)).collect();
        let erased = self.bare.iter().filter(|bare| !bare.is_file_system() || !goes(&bare.path));
        lines.extend(erased.map(Bare::step));
        lines.extend(self.drives.iter().filter(|drive| !drive.is_mute).map(Drive::step));
        let left = |path: &PathBuf, why| format!("{}: left as it is, {why}", path.display());
        let stays = self.unencrypted.iter().filter(|path| !goes(path));
        lines.extend(stays.map(|path| left(path, "it is not encrypted")));
        let others = self.left.iter().filter(|left| !goes(&left.path));
        lines.extend(others.map(|other| left(&other.path, other.why.as_text())));
        lines.extend(self.tpm.iter().map(|path| format!("{}: clear the TPM", path.display())));
        lines
    }

    /// What identifies the targets: nothing that differs from one look to the next. Of what is left only
    /// what an approver may have overlooked: a stick that somebody plugs in must not have a wipe refused.
    pub(super) fn facts(&self, level: WipeLevel) -> Evidence {
        let targets: Vec<Value> = self.targets.iter().map(|target| facts(target, level)).collect();
        let mut facts = Evidence::new().with("targets", targets);
        let drives = self.drives.iter().filter(|drive| !drive.is_mute);
        let drives: Vec<_> = drives.map(Drive::facts).collect();
        if !drives.is_empty() {
            facts = facts.with("drives", drives);
        }
        if let Some(tpm) = &self.tpm {
            facts = facts.with("tpm", json!(tpm));
        }
        let gaps: Vec<_> = self.left.iter().filter(|left| left.why.is_gap()).collect();
        if !gaps.is_empty() {
            facts = facts.with("left", json!(gaps));
        }
        let (file_systems, swaps): (Vec<_>, Vec<_>) =
            self.bare.iter().partition(|bare| bare.is_file_system());
        for (name, bare) in [("file_systems", file_systems), ("swaps", swaps)] {
            if !bare.is_empty() {
                facts = facts.with(name, bare.into_iter().map(Bare::facts).collect::<Vec<_>>());
            }
        }
        facts
    }
}

fn steps(target: &Target, level: WipeLevel) -> Vec<String> {
    let (format, uuid) = (target.format.as_str(), &target.uuid);
    let name = format!("{} ({format} {uuid})", target.path.display());
    let (keys, headers) = (&target.key_area, target.headers().end);
    let mut steps = Vec::new();
    if let Some(why) = hindrance(&target.path) {
        steps.push(format!("{name}: what follows will fail, {why}"));
    }
    if target.progress < Progress::Headers {
        let slots = target.keyslots;
        steps.push(format!(
            "{name}: overwrite bytes {}..{} with {slots} keyslots",
            keys.start, keys.end
        ));
        steps.push(format!("{name}: overwrite its headers, bytes 0..{headers}"));
    }
    match (&target.data, level) {
        (Some(data), WipeLevel::Data) => {
            steps.push(format!("{name}: erase the data, bytes {}..{}", data.start, data.end));
        }
        (Some(_), WipeLevel::Keys) | (None, _) => {}
    }
    steps
}

fn facts(target: &Target, level: WipeLevel) -> Value {
    let mut facts = json!({
        "path": target.path,
        "format": target.format,
        "uuid": target.uuid,
        "headers_sha256": target.headers_before_sha256,
        "keyslots": target.keyslots,
        "key_area": [target.key_area.start, target.key_area.end],
        "data": target.data.as_ref().map(|data| [data.start, data.end]),
        "level": level,
    });
    if !target.ways.is_empty() {
        facts["ways"] = json!(target.ways);
    }
    if let Some(window) = &target.window {
        facts["part"] = json!([window.start, window.end]);
    }
    facts
}

/// What an earlier wipe of this host began with.
pub(super) fn former(host: &Host, stage: &str) -> Result<Vec<Target>, Failure> {
    use crate::execute::state_file::StateFile as _;
    Ok(Wiping::load(host, stage)?.map(|wiping| wiping.targets).unwrap_or_default())
}
