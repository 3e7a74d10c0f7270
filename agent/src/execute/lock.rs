//! Lock and unlock: nobody uses the device but break-glass, until an unlock puts back exactly
//! what was there before.
//!
//! A `session` lock writes its state, closes the doors (PAM gate, expired accounts), empties the
//! room (sessions, lingering, processes) and looks whether both hold. A `screen` lock asks
//! graphical sessions to lock themselves and keeps no state. Both are convergent: after a crash
//! they are applied again.
//!
//! A `screen` lock is proven only by graphical sessions that say that they are locked; where there
//! are none it fails, although logind would answer that all is well.
//!
//! Evidence of a `session` lock: `level`, `break_glass`, `gate_files`, `expired_accounts`,
//! `pam_probe` (service → user → answer, or `unavailable`), `logind` (`present`, `absent`,
//! `unreachable`), `sessions_left`, `processes_left`, `nologin`, `gaps`. Of a `screen` lock:
//! `level`, `sessions`, `screens_locked`. Of an unlock: `lock_state`, `gates_left`, `nologin`.

mod accounts;
mod doors;
mod file;
pub(super) mod logind;
mod pam;
mod password;
mod probe;
mod room;
mod state;
mod undo;
pub mod wiping;

use std::path::Path;

use protocol::action::{Lock, LockLevel, Unlock};
use protocol::id::CommandId;
use protocol::receipt::{Evidence, Failure, FailureKind};
use serde_json::Value;

use self::accounts::Account;
use self::file::FileError;
use self::logind::{Bus, Session};
use self::room::Guests;
use self::undo::UndoJournal;
use super::course::patience;
use super::{Executor, Plan, Recovery, Task, failure};
use crate::host::Host;
use crate::offline;

pub(super) use self::password::{password_field, set_password_field};
pub use self::state::{LockState, Phase};

/// Carries out [`Lock`].
#[derive(Debug)]
pub struct LockExecutor {
    params: Lock,
}

impl LockExecutor {
    /// A lock with these parameters.
    pub fn new(params: Lock) -> Self {
        Self { params }
    }
}

impl Executor for LockExecutor {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        match self.params.level {
            LockLevel::Screen => plan_screens(host),
            LockLevel::Session => plan_session(host),
        }
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        match self.params.level {
            LockLevel::Screen => {
                let bus = need_bus(host)?;
                screens(&bus)?;
                bus.lock_screens()
            }
            LockLevel::Session => lock_session(host, task, &self.params),
        }
    }

    fn prove(&self, host: &Host, _task: &Task) -> Result<Evidence, Failure> {
        match self.params.level {
            LockLevel::Screen => prove_screens(host),
            LockLevel::Session => prove_session(host),
        }
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

/// Carries out [`Unlock`].
#[derive(Debug)]
pub struct UnlockExecutor {
    _params: Unlock,
}

impl UnlockExecutor {
    /// An unlock.
    pub fn new(params: Unlock) -> Self {
        Self { _params: params }
    }
}

impl Executor for UnlockExecutor {
    fn plan(&self, host: &Host, _task: &Task) -> Result<Plan, Failure> {
        Ok(UndoJournal::new(host).plan())
    }

    fn apply(&self, host: &Host, _task: &Task) -> Result<(), Failure> {
        // A state that cannot be read must not keep the device locked for ever.
        let state = current(host).unwrap_or_default();
        if let Some(state) = &state {
            // From here on a boot must not lock again.
            let unlocking = LockState { phase: Phase::Unlocking, ..state.clone() };
            state::save(host, &unlocking).map_err(|error| error.at("state"))?;
        }
        // What a wipe that is over may have left closed is opened as well.
        open(host, state.or_else(|| wiping::recorded(host)).as_ref())?;
        wiping::forget(host).map_err(|error| error.at("state"))?;
        state::remove(host).map_err(|error| error.at("state"))
    }

    fn prove(&self, host: &Host, _task: &Task) -> Result<Evidence, Failure> {
        let gates = doors::remaining_gates(host).map_err(|error| error.at("prove"))?;
        if !gates.is_empty() {
            let detail = format!("the gate still stands in {}", gates.join(", "));
            return Err(failure(FailureKind::NotProven, "prove", detail));
        }
        if UndoJournal::new(host).exists() || state::path(host).exists() || wiping::exists(host) {
            let detail = "not everything that the lock changed was restored";
            return Err(failure(FailureKind::NotProven, "prove", detail));
        }
        let evidence = Evidence::new().with("lock_state", "absent").with("gates_left", 0);
        Ok(evidence.with("nologin", doors::has_nologin(host).map_err(|error| error.at("prove"))?))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

/// The lock that this device is under; `None` when it is not locked.
///
/// # Errors
/// `Io` or `Permission` when the state cannot be read, `Internal` when it is damaged.
pub fn current(host: &Host) -> Result<Option<LockState>, Failure> {
    state::load(host).map_err(|error| error.at("state"))
}

/// Closes the doors of a locked device again, as at boot, before anybody can log in.
///
/// Does nothing on a device that is not locked, or whose unlock has begun. Answers the state.
///
/// # Errors
/// The first door that could not be closed; the others are closed all the same.
pub fn reassert(host: &Host) -> Result<Option<LockState>, Failure> {
    let Some(state) = current(host)? else { return Ok(None) };
    match state.phase {
        Phase::Unlocking => {}
        Phase::Locked => {
            let accounts = accounts(host).map_err(|error| error.at("reassert"))?;
            let nologin = may_nologin(&accounts, &state.break_glass);
            first(doors::close(host, &state, &UndoJournal::new(host), nologin))?;
        }
    }
    Ok(Some(state))
}

/// What a look at the doors of a lock came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upheld {
    /// There is no lock.
    NotLocked,
    /// Every door is closed.
    Stands,
    /// Only `/run/nologin` was gone, whose removal by a boot opens nothing, and is there again.
    Renewed,
    /// A door of that command's lock stood open, and is closed again.
    Opened(CommandId),
}

/// Closes the doors of a locked device again where somebody opened one.
///
/// # Errors
/// As [`reassert`], and when the doors cannot be looked at.
pub fn uphold(host: &Host) -> Result<Upheld, Failure> {
    let at = |error: FileError| error.at("uphold");
    let Some(state) = current(host)?.filter(|state| state.phase == Phase::Locked) else {
        return Ok(Upheld::NotLocked);
    };
    let seen = doors::look(host, &state, &UndoJournal::new(host)).map_err(at)?;
    let is_open = !seen.ungated.is_empty() || seen.unexpired > 0;
    let lacks_nologin = || {
        let accounts = accounts(host).map_err(at)?;
        Ok::<bool, Failure>(may_nologin(&accounts, &state.break_glass) && !seen.nologin)
    };
    // A boot lets people in by removing `/run/nologin`, whoever wrote it.
    if !is_open && !lacks_nologin()? {
        return Ok(Upheld::Stands);
    }
    reassert(host)?;
    Ok(if is_open { Upheld::Opened(state.command_id) } else { Upheld::Renewed })
}

/// Brings that virtual console to the front. Blocks.
///
/// # Errors
/// When there is no login manager, or it declines.
pub fn switch_to_console(host: &Host, number: u32) -> Result<(), Failure> {
    need_bus(host)?.switch_to(number)
}

fn precheck(error: FileError) -> Failure {
    error.at("precheck")
}

fn first(failures: Vec<Failure>) -> Result<(), Failure> {
    for failure in &failures {
        tracing::warn!(stage = failure.stage, detail = failure.detail, "step failed");
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn accounts(host: &Host) -> Result<Vec<Account>, FileError> {
    let path = host.path(file::resolve(host, Path::new("/etc/passwd"))?);
    let found = file::find(&path)?;
    Ok(found.map(|found| accounts::parse_passwd(&found.bytes)).unwrap_or_default())
}

/// `pam_nologin` lets uid 0 pass and nobody else.
fn may_nologin(accounts: &[Account], break_glass: &[String]) -> bool {
    let mut kept = accounts.iter().filter(|account| break_glass.contains(&account.name));
    kept.all(|account| account.uid == 0)
}

/// What a `session` lock needs to know before it begins.
#[derive(Debug)]
struct Ready {
    accounts: Vec<Account>,
    break_glass: Vec<String>,
}

impl Ready {
    fn check(host: &Host) -> Result<Self, Failure> {
        let accounts = accounts(host).map_err(precheck)?;
        let exists = |name: &&String| accounts.iter().any(|account| account.name == **name);
        let break_glass: Vec<String> = host
            .break_glass
            .iter()
            .filter(|name| pam::is_gate_name(name))
            .filter(exists)
            .cloned()
            .collect();
        if break_glass.is_empty() {
            let detail = "no break-glass account exists in /etc/passwd";
            return Err(failure(FailureKind::Precondition, "precheck", detail));
        }
        match pam::missing(host).map_err(precheck)? {
            Some(detail) => Err(failure(FailureKind::Precondition, "precheck", detail)),
            None => Ok(Self { accounts, break_glass }),
        }
    }
}

fn plan_session(host: &Host) -> Result<Plan, Failure> {
    let ready = Ready::check(host)?;
    let gate_files = pam::gate_files(host).map_err(precheck)?;
    let nologin = may_nologin(&ready.accounts, &ready.break_glass);
    let paths: Vec<String> =
        gate_files.iter().map(|gate_file| gate_file.path.display().to_string()).collect();
    let mut steps = vec![format!("keep open: {}", ready.break_glass.join(", "))];
    steps.extend(paths.iter().map(|path| format!("put the account gate into {path}")));
    steps.push("expire every other account in /etc/shadow, and bar root's password".to_owned());
    steps.extend(doors::other_steps(nologin));
    steps.push("end sessions, lingering and processes of everybody else".to_owned());
    let facts = Evidence::new().with("break_glass", ready.break_glass).with("gate_files", paths);
    Ok(Plan { steps, facts })
}

/// Opens the doors and gives lingering back, from the undo journal, which goes when all is as it was.
fn open(host: &Host, state: Option<&LockState>) -> Result<(), Failure> {
    let undo = UndoJournal::new(host);
    let mut failures = doors::open(host, state, &undo);
    let bus = optional_bus(host);
    if let Err(error) = room::restore_lingering(host, bus.as_ref(), &undo) {
        failures.push(error.at("linger"));
    }
    first(failures)?;
    if let (Some(bus), Some(_)) = (&bus, state) {
        match bus.revive_login_units() {
            Ok(units) => tracing::info!(units, "login screens revived"),
            Err(failure) => tracing::warn!(failure.detail, "login screens not revived"),
        }
    }
    undo.remove().map_err(|error| error.at("undo"))
}

fn lock_session(host: &Host, task: &Task, params: &Lock) -> Result<(), Failure> {
    offline::forbid(host, task)?;
    let ready = Ready::check(host)?;
    let former = current(host).unwrap_or_default();
    let state = LockState {
        phase: Phase::Locked,
        command_id: task.command_id,
        envelope: task.envelope.clone(),
        offline_code: offline::commitment(task),
        level: params.level,
        message: params.message.clone(),
        break_glass: ready.break_glass.clone(),
        strangers: former.map(|former| former.strangers).unwrap_or_default(),
        superuser: host.superuser,
        applied_at: task.started_at,
    };
    state::save(host, &state).map_err(|error| error.at("state"))?;
    // What a wipe that is over may have left closed is the lock's from now on.
    wiping::forget(host).map_err(|error| error.at("state"))?;
    let undo = UndoJournal::new(host);
    let nologin = may_nologin(&ready.accounts, &ready.break_glass);
    let mut failures = doors::close(host, &state, &undo, nologin);
    let bus = optional_bus(host);
    let mut guests = Guests::new(host, ready.accounts, &ready.break_glass);
    remember_strangers(host, state, &guests, bus.as_ref());
    if let Err(error) = room::stop_lingering(host, &guests, bus.as_ref(), &undo) {
        failures.push(error.at("linger"));
    }
    // Whether the room is empty is seen afterwards; a manager that would not help is no failure.
    for failure in room::empty(host, &mut guests, bus.as_ref()) {
        tracing::warn!(detail = failure.detail, "room emptied without the login manager");
    }
    first(failures)
}

/// Keeps who of a directory is on the device, as long as they are: the proof asks about them. Without
/// that it asks about fewer.
fn remember_strangers(host: &Host, state: LockState, guests: &Guests, bus: Option<&Bus>) {
    let strangers = guests.strangers(host, bus);
    if strangers.is_empty() {
        return;
    }
    if let Err(error) = state::save(host, &LockState { strangers, ..state }) {
        tracing::warn!(detail = error.at("state").detail, "users of a directory not remembered");
    }
}

fn prove_session(host: &Host) -> Result<Evidence, Failure> {
    let at = |error: FileError| error.at("prove");
    let Some(state) = current(host)? else {
        return Err(failure(FailureKind::NotProven, "prove", "the device is not locked"));
    };
    let seen = doors::look(host, &state, &UndoJournal::new(host)).map_err(at)?;
    let accounts = accounts(host).map_err(at)?;
    let answers = probe::ask(host, &accounts, &state)?;
    let room = look_around(host, accounts, &state.break_glass)?;
    let mut gaps = probe::gaps(host).map_err(at)?;
    gaps.extend(room.gaps);
    if answers.table.is_none() {
        gaps.push(format!("PAM was not asked: {} is not installed", probe::PAMTESTER));
    }
    gaps.extend(answers.wrongly_denied.iter().map(|who| format!("break-glass is denied: {who}")));
    let mut wrong = Vec::new();
    wrong.extend(seen.ungated.iter().map(|path| format!("no gate in {path}")));
    wrong.extend(answers.wrongly_permitted.iter().map(|who| format!("permitted: {who}")));
    if seen.gated.is_empty() {
        wrong.push("no gate anywhere".to_owned());
    }
    for (count, what) in [
        (seen.unexpired, "accounts not expired"),
        (room.sessions, "sessions left"),
        (room.processes, "processes left"),
    ] {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    if !wrong.is_empty() {
        return Err(failure(FailureKind::NotProven, "prove", wrong.join("; ")));
    }
    Ok(Evidence::new()
        .with("level", "session")
        .with("break_glass", state.break_glass)
        .with("gate_files", seen.gated)
        .with("expired_accounts", seen.expired)
        .with("nologin", seen.nologin)
        .with("pam_probe", answers.table.map_or_else(|| "unavailable".into(), Value::Object))
        .with("logind", room.logind)
        .with("sessions_left", room.sessions)
        .with("processes_left", room.processes)
        .with("gaps", gaps))
}

/// What is seen of the room.
#[derive(Debug)]
struct RoomSeen {
    logind: &'static str,
    sessions: usize,
    processes: usize,
    gaps: Vec<String>,
}

fn look_around(
    host: &Host,
    accounts: Vec<Account>,
    break_glass: &[String],
) -> Result<RoomSeen, Failure> {
    let mut guests = Guests::new(host, accounts, break_glass);
    let mut gaps = Vec::new();
    let (logind, sessions) = match Bus::connect(host) {
        Ok(None) => ("absent", 0),
        Ok(Some(bus)) => match guests.sessions(&bus) {
            Ok(sessions) => ("present", sessions.len()),
            Err(failure) => {
                gaps.push(format!("logind: {}", failure.detail));
                ("unreachable", 0)
            }
        },
        Err(failure) => {
            gaps.push(format!("logind: {}", failure.detail));
            ("unreachable", 0)
        }
    };
    if let Some(uid) = guests.own_slice() {
        gaps.push(format!("the agent runs in a session of uid {uid}, which was left open"));
    }
    if !room::sees_processes(host) {
        gaps.push("processes cannot be seen from here".to_owned());
    }
    let lingerers = room::lingering(host, &guests).map_err(|error| error.at("prove"))?;
    gaps.extend(lingerers.into_iter().map(|left| format!("still lingers: {}", left.name)));
    let processes = room::processes(host, &guests).len();
    Ok(RoomSeen { logind, sessions, processes, gaps })
}

/// The sessions that have a screen to lock.
fn screens(bus: &Bus) -> Result<Vec<Session>, Failure> {
    let mut sessions = bus.sessions()?;
    sessions.retain(|session| bus.is_graphical(session));
    if sessions.is_empty() {
        let detail = "no graphical session, hence no screen to lock; a session lock would do";
        return Err(failure(FailureKind::Precondition, "precheck", detail));
    }
    Ok(sessions)
}

fn plan_screens(host: &Host) -> Result<Plan, Failure> {
    let sessions = screens(&need_bus(host)?)?;
    let step = |session: &Session| {
        format!("lock the screen of session {} of {}", session.id, session.user)
    };
    let facts = Evidence::new().with("sessions", sessions.len());
    Ok(Plan { steps: sessions.iter().map(step).collect(), facts })
}

fn prove_screens(host: &Host) -> Result<Evidence, Failure> {
    let bus = need_bus(host)?;
    let sessions = screens(&bus)?;
    let mut open: Vec<&Session> = sessions.iter().collect();
    let are_locked = host.course.until(patience::SCREENS, || {
        open.retain(|session| !bus.is_screen_locked(session));
        open.is_empty()
    });
    if are_locked {
        return Ok(Evidence::new()
            .with("level", "screen")
            .with("sessions", sessions.len())
            .with("screens_locked", sessions.len()));
    }
    host.course.check("prove")?;
    let who: Vec<String> =
        open.iter().map(|session| format!("{} of {}", session.id, session.user)).collect();
    let detail = format!("sessions that do not say that they are locked: {}", who.join(", "));
    Err(failure(FailureKind::NotProven, "prove", detail))
}

fn need_bus(host: &Host) -> Result<Bus, Failure> {
    Bus::connect(host)?.ok_or_else(|| {
        failure(FailureKind::Precondition, "precheck", "no system bus, hence no login manager")
    })
}

fn optional_bus(host: &Host) -> Option<Bus> {
    Bus::connect(host).unwrap_or_else(|failure| {
        tracing::warn!(detail = failure.detail, "login manager not reached");
        None
    })
}
