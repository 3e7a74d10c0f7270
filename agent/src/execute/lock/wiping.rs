//! The doors of a device that is being wiped: closed as a `session` lock closes them, and given back as they were
//! when the wipe is over and the power stays on.
//!
//! Owns a claim of its own beside the state of a lock, so that neither takes the other's for its own: under a lock
//! that stands the doors are the lock's, and stay so. Both write one undo journal, of which the first entry about a
//! thing wins. Everything here is help and no condition: keys do not wait for doors, and whatever is in the way is
//! said in the wipe's evidence.

use std::path::PathBuf;

use protocol::action::LockLevel;
use protocol::id::CommandId;
use protocol::receipt::{Failure, FailureKind};
use serde_json::{Value, json};

use super::file::{self, FileError};
use super::room::{self, Guests};
use super::state::{LockState, Phase};
use super::undo::UndoJournal;
use super::{
    Account, accounts, current, doors, first, look_around, may_nologin, optional_bus, pam,
};
use crate::execute::course::{Course, patience};
use crate::execute::{Task, failure};
use crate::host::Host;

/// Passes the gate where there is no break-glass account: `useradd(8)` makes none of that name.
const NOBODY: &str = "-";

fn path(host: &Host) -> PathBuf {
    host.state_dir.join("wipe-doors.json")
}

fn load(host: &Host) -> Result<Option<LockState>, Failure> {
    file::load(&path(host)).map_err(|error: FileError| error.at("doors"))
}

fn save(host: &Host, claim: &LockState) -> Result<(), Failure> {
    let saved =
        file::make_private_dir(&host.state_dir).and_then(|()| file::save(&path(host), claim));
    saved.map_err(|error| error.at("doors"))
}

/// The claim, unless it is damaged: that must not keep a device closed for ever.
pub(super) fn recorded(host: &Host) -> Option<LockState> {
    load(host).unwrap_or_default()
}

/// Removes the claim: the doors are open, or are a lock's from now on.
pub(super) fn forget(host: &Host) -> Result<(), FileError> {
    file::discard_leftover(&path(host))?;
    file::remove(&path(host))
}

/// Whether there is a claim, readable or not.
pub(super) fn exists(host: &Host) -> bool {
    path(host).exists()
}

/// The wipe for which the doors are closed.
///
/// # Errors
/// `Io` when that cannot be read, `Internal` when it is damaged.
pub fn claimed(host: &Host) -> Result<Option<CommandId>, Failure> {
    Ok(load(host)?.map(|claim| claim.command_id))
}

/// Closes the doors and empties the room. Answers what did not work. Keys wait for this no longer than
/// [`patience::DOORS`].
pub(in crate::execute) fn close(host: &Host, task: &Task) -> Vec<String> {
    let host = &hurried(host);
    let accounts = match accounts(host) {
        Ok(accounts) => accounts,
        // Who of those on the device is break-glass, nobody knows.
        Err(error) => return vec![error.at("doors").detail],
    };
    let claimed = claim(host, task, &accounts);
    let bus = optional_bus(host);
    let mut failures = Vec::new();
    let mut guests = match claimed {
        Ok(None) => return Vec::new(),
        Ok(Some(state)) => {
            let undo = UndoJournal::new(host);
            let nologin = may_nologin(&accounts, &state.break_glass);
            failures.extend(doors::close(host, &state, &undo, nologin));
            let guests = Guests::new(host, accounts, &state.break_glass);
            let stopped = room::stop_lingering(host, &guests, bus.as_ref(), &undo);
            failures.extend(stopped.err().map(|error| error.at("linger")));
            guests
        }
        // Nothing that has to be given back. Whoever is inside goes all the same.
        Err(failure) => {
            failures.push(failure);
            let kept = break_glass(host, &accounts);
            Guests::new(host, accounts, &kept)
        }
    };
    failures.extend(room::empty(host, &mut guests, bus.as_ref()));
    failures.into_iter().map(|failure| failure.detail).collect()
}

/// For whom the doors are to be closed: the lock's state where one stands, else a new claim, on disk before anything
/// changes. Nothing where the endpoint has no doors at all.
fn claim(host: &Host, task: &Task, accounts: &[Account]) -> Result<Option<LockState>, Failure> {
    if let Some(lock) = standing_lock(host) {
        return Ok(Some(lock));
    }
    if accounts.is_empty() {
        return Ok(None);
    }
    // A gate that PAM does not understand would keep out nobody, or break-glass for ever.
    if let Some(detail) = pam::missing(host).map_err(|error| error.at("doors"))? {
        return Err(failure(FailureKind::Precondition, "doors", detail));
    }
    let state = LockState {
        phase: Phase::Locked,
        command_id: task.command_id,
        envelope: task.envelope.clone(),
        offline_code: None,
        level: LockLevel::Session,
        // Whoever reads that a device is being wiped pulls its plug.
        message: None,
        break_glass: break_glass(host, accounts),
        strangers: Vec::new(),
        superuser: host.superuser,
        applied_at: task.started_at,
    };
    save(host, &state)?;
    Ok(Some(state))
}

/// Who passes, or a name of which there is none.
fn break_glass(host: &Host, accounts: &[Account]) -> Vec<String> {
    let exists = |name: &&String| accounts.iter().any(|account| account.name == **name);
    let kept = host.break_glass.iter().filter(|name| pam::is_gate_name(name)).filter(exists);
    let mut break_glass: Vec<String> = kept.cloned().collect();
    if break_glass.is_empty() {
        break_glass.push(NOBODY.to_owned());
    }
    break_glass
}

fn standing_lock(host: &Host) -> Option<LockState> {
    // A state that cannot be read is the lock's to complain about.
    current(host).unwrap_or_default().filter(|state| state.phase == Phase::Locked)
}

/// What holds the doors closed.
fn closed_by(host: &Host) -> Option<LockState> {
    let claim = || recorded(host).filter(|claim| claim.phase == Phase::Locked);
    standing_lock(host).or_else(claim)
}

/// What is seen of doors and room, for the wipe's evidence, beside what is known to have failed.
pub(in crate::execute) fn look(host: &Host, mut gaps: Vec<String>) -> Value {
    let host = &hurried(host);
    let Some(state) = closed_by(host) else {
        return json!({ "closed": false, "gaps": gaps });
    };
    let mut is_closed = false;
    match doors::look(host, &state, &UndoJournal::new(host)) {
        Ok(seen) => {
            is_closed = seen.ungated.is_empty() && seen.unexpired == 0 && !seen.gated.is_empty();
            gaps.extend(seen.ungated.iter().map(|path| format!("no gate in {path}")));
        }
        Err(error) => gaps.push(error.at("doors").detail),
    }
    let kept: Vec<&String> = state.break_glass.iter().filter(|name| *name != NOBODY).collect();
    let mut said = json!({ "closed": is_closed, "break_glass": kept });
    let accounts = accounts(host).unwrap_or_default();
    match look_around(host, accounts, &state.break_glass) {
        Ok(room) => {
            said["sessions_left"] = room.sessions.into();
            said["processes_left"] = room.processes.into();
            gaps.extend(room.gaps);
        }
        Err(failure) => gaps.push(failure.detail),
    }
    said["gaps"] = gaps.into();
    said
}

/// Closes the doors again for a wipe that is not over, as at boot. What had begun to be given back is given back,
/// and so is what a damaged claim holds: a wipe that goes on makes a new one.
///
/// # Errors
/// The first door that could not be closed, or opened; the others are all the same.
pub fn reassert(host: &Host) -> Result<bool, Failure> {
    let claim = match load(host) {
        Ok(Some(claim)) => claim,
        Ok(None) => return Ok(false),
        Err(failure) => {
            tracing::error!(detail = failure.detail, "claim of a wipe on the doors is damaged");
            return give_back(host).map(|_| false);
        }
    };
    if standing_lock(host).is_some() {
        return Ok(false);
    }
    match claim.phase {
        Phase::Unlocking => give_back(host).map(|_| false),
        Phase::Locked => {
            let accounts = accounts(host).map_err(|error| error.at("doors"))?;
            let nologin = may_nologin(&accounts, &claim.break_glass);
            first(doors::close(host, &claim, &UndoJournal::new(host), nologin))?;
            Ok(true)
        }
    }
}

/// The same where somebody opened one meanwhile.
///
/// # Errors
/// As [`reassert`], and when the doors cannot be looked at.
pub fn uphold(host: &Host) -> Result<bool, Failure> {
    let Some(claim) = load(host)? else { return Ok(false) };
    let seen = doors::look(host, &claim, &UndoJournal::new(host));
    let seen = seen.map_err(|error| error.at("doors"))?;
    if claim.phase == Phase::Locked && seen.ungated.is_empty() && seen.unexpired == 0 {
        return Ok(false);
    }
    reassert(host)
}

/// Gives the doors back as they were before the wipe that is over. Under a lock they are the lock's. Answers whether
/// there was anything to be given back.
///
/// # Errors
/// The first door that was not opened; it is tried again.
pub fn give_back(host: &Host) -> Result<bool, Failure> {
    if !exists(host) {
        return Ok(false);
    }
    if standing_lock(host).is_none() {
        let claim = recorded(host);
        if let Some(claim) = &claim {
            save(host, &LockState { phase: Phase::Unlocking, ..claim.clone() })?;
        }
        super::open(host, claim.as_ref())?;
    }
    forget(host).map_err(|error| error.at("doors"))?;
    Ok(true)
}

/// The same host, whose steps have little time: nobody who holds a file or spins in the login manager keeps keys
/// alive for long.
fn hurried(host: &Host) -> Host {
    let course = Course::default();
    course.allow(Some(patience::DOORS));
    Host { course, ..host.clone() }
}
