//! The drives that volumes lie on: asked what they can do before a wipe, and erased by themselves after its proof.
//!
//! Owns the record of a drive, its evidence, and looking whether it really changed: a drive that says that it is
//! done and shows what it held is not erased. How a drive is spoken to is the part of the crate `drive`.

use std::io;
use std::path::{Path, PathBuf};

use drive::choice::{Choice, Method, Obstacle, PassedOver, choose};
use drive::erase::{Erasure, Pace};
use drive::said::{Said, Tongue};
use protocol::receipt::Evidence;
use runtime::Entropy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::graph::{self, Carrier};
use super::record::{Target, Wiping};
use super::volume::{Access, Disk};
use crate::execute::{hex, sha256_hex};
use crate::host::Host;

/// Places of a drive that are looked at before and after.
const SAMPLES: u64 = 64;
/// Bytes that are read at each.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// One drive of a wipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Drive {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it calls itself.
    pub(super) model: String,
    /// Which one it is.
    pub(super) serial: String,
    /// What of the wipe lies on it: volumes, swap, what is not encrypted.
    pub(super) carries: Vec<PathBuf>,
    /// Whether it says nothing of itself that is understood: others erase what lies on it.
    #[serde(default)]
    pub(super) is_mute: bool,
    /// The ways that are left, the best first.
    pub(super) methods: Vec<Method>,
    /// Those that it would have had.
    pub(super) passed_over: Vec<PassedOver>,
    /// The way that was begun.
    pub(super) begun: Option<Method>,
    /// By which way it was erased.
    pub(super) erased: Option<Method>,
    /// In hexadecimal, what a drive is locked by while it erases itself. No power cut must leave it locked for us.
    password: String,
    /// SHA-256 of what it held at some places, before; nothing where all bytes were alike.
    samples: Vec<String>,
}

/// The drives under those volumes, asked what they can do. Those that hold the running system come last: what
/// is done for the others may need it.
pub(super) fn look(
    disk: &dyn Disk,
    host: &Host,
    targets: &[Target],
    others: &[PathBuf],
) -> Vec<Drive> {
    let volumes: Vec<_> = targets.iter().map(|target| target.path.clone()).collect();
    let are_named = !host.wipe_targets.is_empty();
    let carriers = graph::carriers(host, &volumes, others, are_named);
    let mut password = [0; 32];
    let drive = |Carrier { path, carries, .. }| {
        // One that says nothing is kept: what lies on it as well does not go with the others.
        let said = disk.drive(&path).map(|line| Said::by(&*line));
        let choice = said.as_ref().map(|said| choose(said, host.psids.of(said.serial()).is_some()));
        let is_mute = said.as_ref().is_none_or(|s| s.tongue == Tongue::Unknown && !s.has_opal);
        let Choice { methods, passed_over } = choice.filter(|_| !is_mute).unwrap_or_default();
        Entropy::system().fill(&mut password);
        Drive {
            path,
            model: said.as_ref().map(|said| said.model().to_owned()).unwrap_or_default(),
            serial: said.as_ref().map(|said| said.serial().to_owned()).unwrap_or_default(),
            carries,
            is_mute,
            methods,
            passed_over: passed_over.into_iter().filter(is_worth_telling).collect(),
            begun: None,
            erased: None,
            password: hex(&password),
            samples: Vec::new(),
        }
    };
    carriers.into_iter().map(drive).collect()
}

/// That a drive does not have something is no news; that it has and cannot be used is.
fn is_worth_telling(passed: &PassedOver) -> bool {
    passed.obstacle != Obstacle::Unsupported
}

/// Erases a drive by the best way that works. `note` hears how far it is, and with `None` that the record should
/// be written down.
pub(super) fn erase(
    disk: &dyn Disk,
    host: &Host,
    drive: &mut Drive,
    note: &mut dyn FnMut(&Drive, Option<Option<u16>>),
) {
    while let Some(method) = drive.methods.first().copied().filter(|_| drive.erased.is_none()) {
        match attempt(disk, host, drive, method, note) {
            Ok(()) => drive.erased = Some(method),
            Err(obstacle) => {
                tracing::warn!(path = %drive.path.display(), %method, ?obstacle, "drive not erased");
                drive.methods.remove(0);
                drive.passed_over.push(PassedOver { method, obstacle });
            }
        }
        note(drive, None);
    }
}

fn attempt(
    disk: &dyn Disk,
    host: &Host,
    drive: &mut Drive,
    method: Method,
    note: &mut dyn FnMut(&Drive, Option<Option<u16>>),
) -> Result<(), Obstacle> {
    let line = disk.drive(&drive.path).ok_or(Obstacle::Unreachable)?;
    let said = Said::by(&*line);
    if (said.model(), said.serial()) != (drive.model.as_str(), drive.serial.as_str()) {
        // Another drive has taken its name.
        return Err(Obstacle::Unreachable);
    }
    let is_begun = drive.begun == Some(method);
    if !is_begun {
        if drive.samples.is_empty() {
            drive.samples = samples(disk, &drive.path).map_err(|_| Obstacle::Unreachable)?;
        }
        drive.begun = Some(method);
        note(drive, None);
    }
    let password = unhex(&drive.password).ok_or(Obstacle::Declined)?;
    let (psid, pace) = (host.psids.of(&drive.serial), Pace::default());
    let erasure = Erasure { line, said: &said, method, is_begun, password, psid, pace };
    let erased = erasure.run(&mut |progress| {
        note(drive, Some(progress));
        true
    });
    erased.map_err(|error| error.obstacle())?;
    if has_changed(disk, drive).unwrap_or(false) { Ok(()) } else { Err(Obstacle::NotErased) }
}

/// Whether the drive shows nothing of what it held.
pub(super) fn has_changed(disk: &dyn Disk, drive: &Drive) -> io::Result<bool> {
    let after = samples(disk, &drive.path)?;
    let held = drive.samples.iter().zip(&after).filter(|(before, _)| !before.is_empty());
    let mut held = held.peekable();
    // A drive that held nothing shows no change.
    Ok(held.peek().is_some() && held.all(|(before, after)| before != after))
}

/// Digests of evenly spread places, the first and the last bytes among them.
fn samples(disk: &dyn Disk, path: &Path) -> io::Result<Vec<String>> {
    let volume = disk.open(path, Access::Read)?;
    volume.flush()?;
    let length = SAMPLE_BYTES.min(volume.size());
    let last = volume.size() - length;
    let step = (last / SAMPLES).max(1);
    let starts = (0..SAMPLES).map(|n| n * step).take_while(|start| *start < last);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    let mut samples = Vec::new();
    for start in starts.chain([last]) {
        volume.read_at(&mut bytes, start)?;
        let is_blank = bytes.iter().all(|byte| Some(byte) == bytes.first());
        samples.push(if is_blank { String::new() } else { sha256_hex(&bytes) });
    }
    Ok(samples)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl Drive {
    /// What will be done, for a person.
    pub(super) fn step(&self) -> String {
        let name = format!("{} ({} {})", self.path.display(), self.model, self.serial);
        match self.methods.first() {
            Some(method) => format!("{name}: erase the whole drive and everything on it, {method}"),
            None => {
                let why = self.passed_over.iter().map(|PassedOver { method, obstacle }| {
                    format!("{method}: {}", word(*obstacle))
                });
                let why: Vec<_> = why.collect();
                format!("{name}: not erased by itself ({})", why.join(", "))
            }
        }
    }

    /// What identifies it and what will be done, for programs.
    pub(super) fn facts(&self) -> Value {
        let Self { path, model, serial, methods, carries, .. } = self;
        json!({
            "path": path,
            "model": model,
            "serial": serial,
            "methods": methods,
            "carries": carries,
        })
    }

    fn evidence(&self) -> Value {
        let Self { path, model, serial, erased, passed_over, .. } = self;
        let places = self.samples.iter().filter(|sample| !sample.is_empty()).count();
        json!({
            "path": path,
            "model": model,
            "serial": serial,
            "method": erased,
            "passed_over": passed_over,
            "places_changed": erased.map_or(0, |_| places),
        })
    }
}

fn word(obstacle: Obstacle) -> String {
    let word = serde_json::to_value(obstacle).unwrap_or_default();
    word.as_str().unwrap_or_default().replace('_', " ")
}

impl Wiping {
    /// Whether that lies on drives, all of which are erased, or on such as still can be.
    fn on_drives(&self, path: &Path, is_fit: impl Fn(&Drive) -> bool) -> bool {
        let mut drives = self.drives.iter().filter(|drive| drive.carries.iter().any(|c| c == path));
        drives.next().is_some_and(&is_fit) && drives.all(is_fit)
    }

    /// Whether that went with the drives that it lay on.
    pub(super) fn went_with_drives(&self, path: &Path) -> bool {
        self.on_drives(path, |drive| drive.erased.is_some())
    }

    /// Whether that lies on a drive that was told to erase itself, whatever came of it.
    pub(super) fn is_on_begun_drive(&self, path: &Path) -> bool {
        let is_on = |drive: &&Drive| drive.carries.iter().any(|carried| carried == path);
        self.drives.iter().filter(is_on).any(|drive| drive.begun.is_some())
    }

    /// Whether a drive erased itself, with whatever was written down on it.
    pub(super) fn has_erased_drives(&self) -> bool {
        self.drives.iter().any(|drive| drive.erased.is_some())
    }

    /// Whether that is left to drives that erase themselves.
    pub(super) fn is_for_drives(&self, path: &Path) -> bool {
        self.on_drives(path, |drive| drive.erased.is_some() || !drive.methods.is_empty())
    }

    /// Looks again at every drive that was erased, and tells of all.
    pub(super) fn observe_drives(
        &self,
        disk: &dyn Disk,
        evidence: Evidence,
    ) -> Result<Evidence, String> {
        if self.drives.iter().all(|drive| drive.is_mute) {
            return Ok(evidence);
        }
        for drive in self.drives.iter().filter(|drive| drive.erased.is_some()) {
            match has_changed(disk, drive) {
                Ok(true) => {}
                Ok(false) => return Err(format!("{} still shows data", drive.path.display())),
                Err(error) => return Err(format!("{} {error}", drive.path.display())),
            }
        }
        let drives = self.drives.iter().filter(|drive| !drive.is_mute);
        let drives: Vec<_> = drives.map(Drive::evidence).collect();
        Ok(evidence.with("drives", drives))
    }
}
