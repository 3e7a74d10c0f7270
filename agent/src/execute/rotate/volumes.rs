//! The recovery keys of the managed volumes.
//!
//! Owns the order of things: recorded, added, tried, sealed; and, once escrowed, the former keyslots
//! emptied. With `LOCK` every other keyslot is a former one. What a crash leaves in a keyslot that
//! the record names is this agent's, and is taken back; nothing else ever is.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::advance::Advance;
use protocol::escrow;
use protocol::grade::{GRADE, Grade};
use protocol::receipt::{Evidence, Failure, FailureKind};
use protocol::sealed::CaseKey;
use runtime::Entropy;
use serde_json::{Value, json};

use super::keyslots::{Key, Keyslots, Mark};
use super::managed::{ManagedVolumes, key_file};
use super::record::{Phase, Rotation, Turn};
use super::secret::Secret;
use super::{Escrowing, late};
use crate::execute::state_file::StateFile as _;
use crate::execute::wipe;
use crate::execute::{Plan, Recovery, Task, failure};
use crate::host::Host;

/// One rotation's way. `LOCK`: every other keyslot goes.
#[derive(Debug)]
pub(super) struct Volumes<const LOCK: bool> {
    key: CaseKey,
    patience: Duration,
    /// The new secrets by volume, as long as this process lives: tried once more before anything
    /// is emptied.
    secrets: Mutex<BTreeMap<String, Secret>>,
}

impl<const LOCK: bool> Volumes<LOCK> {
    pub(super) fn new(key: CaseKey, patience: Duration) -> Self {
        Self { key, patience, secrets: Mutex::default() }
    }

    pub(super) fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let turns = self.turns(host, "plan")?;
        let mut steps = Vec::new();
        for turn in &turns {
            let (path, slot) = (turn.path.display(), turn.slot);
            steps.push(format!("{path}: put a new recovery key into keyslot {slot}, and try it"));
            let former: Vec<String> =
                turn.former.iter().map(|mark| mark.slot.to_string()).collect();
            let former = if former.is_empty() { "none".to_owned() } else { former.join(", ") };
            steps.push(format!("{path}: once it is escrowed, empty keyslots: {former}"));
        }
        if LOCK {
            steps.push("power off".to_owned());
        }
        let turns: Vec<Value> = turns.iter().map(facts).collect();
        let facts = Evidence::new()
            .with("credential", "volumes")
            .with("volumes", turns)
            .with("recovery_key", self.key.to_string());
        Ok(Plan { steps, facts })
    }

    /// What would be changed, found out without changing anything.
    fn turns(&self, host: &Host, stage: &str) -> Result<Vec<Turn>, Failure> {
        let managed = ManagedVolumes::load(host, stage)?.unwrap_or_default();
        let mut turns = Vec::new();
        let unfinished = self.unfinished(host, stage)?;
        for (uuid, volume) in &managed.volumes {
            let (keyslots, _, _) = volume.checked((host, uuid), self.patience, stage)?;
            let keys = keyslots.look(stage)?;
            let slot = keys.free_slot().ok_or_else(|| {
                keyslots.failure(FailureKind::Precondition, stage, "no keyslot is free")
            })?;
            let mark =
                |(slot, salt): (&u32, &String)| Mark { slot: *slot, salt_sha256: salt.clone() };
            let marks: Vec<Mark> = keys.slots.iter().map(mark).collect();
            let is_former = |mark: &Mark| {
                LOCK || volume.recovery.as_ref() == Some(mark) || unfinished.contains(mark)
            };
            let former = marks.into_iter().filter(is_former).collect();
            let (path, uuid) = (volume.path.clone(), uuid.clone());
            turns.push(Turn { path, uuid, slot, new: None, former });
        }
        if turns.is_empty() {
            let detail = "no volume is managed here; see `tocsin-agent manage-volume`";
            return Err(failure(FailureKind::Precondition, stage, detail));
        }
        if LOCK && let Some(path) = wipe::unmanaged(host, |uuid| managed.volumes.contains_key(uuid))
        {
            let detail = format!("{} is in use, and not managed", path.display());
            return Err(failure(FailureKind::Precondition, stage, detail));
        }
        Ok(turns)
    }

    /// Keyslots of an earlier rotation that was sealed and did not come to its end.
    fn unfinished(&self, host: &Host, stage: &str) -> Result<Vec<Mark>, Failure> {
        let earlier = Rotation::<LOCK>::load(host, stage)?;
        let earlier = earlier.filter(|earlier| earlier.phase == Phase::Added);
        let turns = earlier.map(|earlier| earlier.turns).unwrap_or_default();
        Ok(turns.into_iter().flat_map(|turn| turn.new.into_iter().chain(turn.former)).collect())
    }

    pub(super) fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let found = Rotation::<LOCK>::load(host, "apply")?;
        let (is_own, phase) = match &found {
            Some(found) => (found.command_id == task.command_id, Some(found.phase)),
            None => (true, None),
        };
        match (is_own, phase) {
            (true, Some(Phase::Added | Phase::Finished)) => return Ok(()),
            (true, Some(Phase::Withdrawing | Phase::Withdrawn)) => {
                return Err(self.withdraw(host, task));
            }
            // What a crash left is not known to anybody.
            (_, Some(Phase::Adding)) | (false, Some(Phase::Withdrawing)) => {
                self.take_back(&found.map(|found| found.turns).unwrap_or_default())?;
            }
            (false, Some(Phase::Added | Phase::Finished | Phase::Withdrawn)) | (_, None) => {}
        }
        let turns = self.turns(host, "apply")?;
        let (command_id, envelope) = (task.command_id, task.envelope.clone());
        let (phase, password, sealed) = (Phase::Adding, None, None);
        let mut rotation = Rotation { command_id, envelope, phase, turns, password, sealed };
        rotation.save(host, "apply")?;
        let added = self.add((host, task), &mut rotation);
        if let Err(failure) = added {
            self.secrets().clear();
            if self.take_back(&rotation.turns).is_ok() {
                Rotation::<LOCK>::remove(host, "apply")?;
            }
            return Err(failure);
        }
        Ok(())
    }

    /// Fills the keyslots, tries them, and seals what opens them.
    fn add(
        &self,
        (host, task): (&Host, &Task),
        rotation: &mut Rotation<LOCK>,
    ) -> Result<(), Failure> {
        let entropy = Entropy::system();
        let mut credentials = Vec::new();
        let command_id = rotation.command_id;
        for at in 0..rotation.turns.len() {
            let turn = rotation.turns[at].clone();
            let path = turn.path.display().to_string();
            task.course.tell(Advance::at(&path).step(at + 1, rotation.turns.len()));
            let keyslots = Keyslots::of(host, &turn.path, self.patience);
            let (secret, file) = (Secret::new(entropy.bytes()), key_file(host, &turn.uuid));
            let added = keyslots.add(turn.slot, &secret, &file, "apply");
            if added.as_ref().is_err_and(|failure| failure.kind != FailureKind::Timeout) {
                // It did nothing: what the keyslot holds is somebody else's.
                rotation.turns.truncate(at);
                rotation.save(host, "apply")?;
            }
            let mark = added?;
            if !keyslots.opens(turn.slot, Key::Secret(&secret), "apply")? {
                let detail = "the new key does not open it";
                return Err(keyslots.failure(FailureKind::NotProven, "apply", detail));
            }
            rotation.turns[at].new = Some(mark);
            let (subject, open) = (turn.subject(), secret.reveal().to_owned());
            credentials.push(escrow::Credential { subject, secret: open });
            self.secrets().insert(turn.uuid, secret);
        }
        let sealed = escrow::seal(&credentials, (&self.key, command_id), entropy.bytes());
        let broken = |error| failure(FailureKind::Internal, "apply", error);
        rotation.sealed = Some(sealed.map_err(broken)?);
        rotation.phase = Phase::Added;
        rotation.save(host, "apply")
    }

    /// Empties the keyslots that a rotation has filled.
    fn take_back(&self, turns: &[Turn]) -> Result<(), Failure> {
        for turn in turns {
            // Also at the end of a step that has had its time.
            let keyslots = Keyslots::unhurried(&turn.path, self.patience);
            let keys = keyslots.look("withdraw")?;
            let is_other = keys.uuid != turn.uuid;
            let is_changed =
                |salt: &String| turn.new.as_ref().is_some_and(|new| new.salt_sha256 != *salt);
            match keys.slots.get(&turn.slot) {
                None => {}
                Some(salt) if is_other || is_changed(salt) => {}
                Some(_) => keyslots.remove(turn.slot, "withdraw")?,
            }
        }
        Ok(())
    }

    pub(super) fn escrow(&self, host: &Host, task: &Task) -> Option<Escrowing> {
        let rotation = Rotation::<LOCK>::of(host, task, "prove").ok()?;
        let subjects = rotation.subjects();
        let sealed = rotation.sealed.filter(|_| rotation.phase == Phase::Added)?;
        Some(Escrowing { subjects, recovery_key: self.key, sealed })
    }

    pub(super) fn finish(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let mut rotation = Rotation::<LOCK>::of(host, task, "finish")?;
        let turns = rotation.turns.clone();
        // All of them are tried before anything is emptied.
        for turn in &turns {
            self.try_new(host, turn)?;
        }
        let mut managed = ManagedVolumes::load(host, "finish")?.unwrap_or_default();
        for turn in &turns {
            if let Some(volume) = managed.volumes.get_mut(&turn.uuid) {
                volume.recovery.clone_from(&turn.new);
            }
        }
        managed.save(host, "finish")?;
        for (at, turn) in turns.iter().enumerate() {
            let path = turn.path.display().to_string();
            task.course.tell(Advance::at(&path).step(at + 1, turns.len()));
            self.empty_former(host, turn)?;
        }
        if LOCK {
            for turn in &turns {
                if let Some(volume) = managed.volumes.get_mut(&turn.uuid) {
                    volume.own = None;
                }
                // It opens nothing any more.
                let _ = fs::remove_file(key_file(host, &turn.uuid));
            }
            managed.save(host, "finish")?;
        }
        self.secrets().clear();
        rotation.phase = Phase::Finished;
        rotation.save(host, "finish")
    }

    /// The new key is still there, and opens the volume.
    fn try_new(&self, host: &Host, turn: &Turn) -> Result<(), Failure> {
        let keyslots = Keyslots::of(host, &turn.path, self.patience);
        let gone = |detail| Err(keyslots.failure(FailureKind::NotProven, "finish", detail));
        let keys = keyslots.look("finish")?;
        let stands = turn.new.as_ref().is_some_and(|new| {
            keys.uuid == turn.uuid && keys.slots.get(&new.slot) == Some(&new.salt_sha256)
        });
        if !stands {
            return gone("the new key is gone, so the former one stays");
        }
        // After a restart only the recovery key could tell: then the keyslot is the one that was
        // tried before it was sealed.
        let secret = self.secrets().get(&turn.uuid).cloned();
        match secret {
            Some(secret) if !keyslots.opens(turn.slot, Key::Secret(&secret), "finish")? => {
                gone("the new key does not open it any more, so the former one stays")
            }
            Some(_) | None => Ok(()),
        }
    }

    fn empty_former(&self, host: &Host, turn: &Turn) -> Result<(), Failure> {
        let keyslots = Keyslots::of(host, &turn.path, self.patience);
        let keys = keyslots.look("finish")?;
        let is_former = |slot: u32, salt: &String| {
            LOCK || turn.former.iter().any(|mark| mark.slot == slot && mark.salt_sha256 == *salt)
        };
        for (slot, salt) in &keys.slots {
            if *slot != turn.slot && is_former(*slot, salt) {
                keyslots.remove(*slot, "finish")?;
            }
        }
        Ok(())
    }

    /// Takes the new keys back, for nobody has them.
    pub(super) fn withdraw(&self, host: &Host, task: &Task) -> Failure {
        let withdrawn = (|| {
            let mut rotation = Rotation::<LOCK>::of(host, task, "withdraw")?;
            rotation.phase = Phase::Withdrawing;
            rotation.save(host, "withdraw")?;
            self.take_back(&rotation.turns)?;
            self.secrets().clear();
            rotation.phase = Phase::Withdrawn;
            rotation.save(host, "withdraw")
        })();
        withdrawn.map_or_else(|failure| failure, |()| late())
    }

    pub(super) fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let rotation = Rotation::<LOCK>::of(host, task, "prove")?;
        let sealed_sha256 = rotation.sealed_sha256();
        let is_finished = rotation.phase == Phase::Finished;
        let volumes: Result<Vec<Value>, Failure> =
            rotation.turns.iter().map(|turn| self.observed(host, turn, is_finished)).collect();
        let evidence = Evidence::new()
            .with("credential", "volumes")
            .with("volumes", volumes?)
            .with("recovery_key", self.key.to_string())
            .with("sealed_sha256", sealed_sha256);
        if LOCK && is_finished {
            // Whoever has an old copy of a header has its keyslots.
            let grade = Grade::Proven.as_str();
            return Ok(evidence.with(GRADE, grade).with("header_backup_opens", true));
        }
        Ok(evidence)
    }

    fn observed(&self, host: &Host, turn: &Turn, is_finished: bool) -> Result<Value, Failure> {
        let keyslots = Keyslots::of(host, &turn.path, self.patience);
        let wrong = |detail: String| Err(keyslots.failure(FailureKind::NotProven, "prove", detail));
        let keys = keyslots.look("prove")?;
        let stands = |mark: &Mark| keys.slots.get(&mark.slot) == Some(&mark.salt_sha256);
        if keys.uuid != turn.uuid || !turn.new.as_ref().is_some_and(stands) {
            return wrong(format!("keyslot {} does not hold the new key", turn.slot));
        }
        let left = turn.former.iter().filter(|mark| stands(mark)).count();
        let others = if LOCK { keys.slots.len() - 1 } else { left };
        if is_finished && others > 0 {
            return wrong(format!("{others} keyslots still hold keys that should be gone"));
        }
        let mut observed = facts(turn);
        observed["format"] = keys.format.as_str().into();
        observed["keyslots"] = keys.slots.len().into();
        Ok(observed)
    }

    pub(super) fn has_begun(&self, host: &Host, task: &Task) -> bool {
        Rotation::<LOCK>::of(host, task, "recover").is_ok()
    }

    pub(super) fn recover(&self, host: &Host, task: &Task) -> Recovery {
        let found = match Rotation::<LOCK>::load(host, "recover") {
            Ok(found) => found.filter(|found| found.command_id == task.command_id),
            Err(_) => return Recovery::InDoubt,
        };
        match found.map(|found| found.phase) {
            Some(Phase::Added | Phase::Finished) => Recovery::Applied,
            Some(Phase::Adding | Phase::Withdrawing | Phase::Withdrawn) | None => Recovery::Apply,
        }
    }

    fn secrets(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Secret>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts(turn: &Turn) -> Value {
    let former: Vec<u32> = turn.former.iter().map(|mark| mark.slot).collect();
    json!({ "path": turn.path, "uuid": turn.uuid, "slot": turn.slot, "former_slots": former })
}
