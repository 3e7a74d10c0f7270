//! Who is on the device when it is locked: sessions, lingering managers and processes; and how
//! they are sent away.
//!
//! System services are never touched: not what runs as uid 0 outside a session, not what runs
//! under an account that is nobody's. Nothing here changes a file of PAM or the account database.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::receipt::Failure;

use super::accounts::Account;
use super::file::{self, Attributes, FileError};
use super::logind::{Bus, Session};
use super::undo::{Lingerer, UndoJournal};
use crate::execute::course::patience;
use crate::host::{Arming, Host};

/// Where `loginctl enable-linger` leaves its mark.
const LINGER: &str = "/var/lib/systemd/linger";
/// Where users have their slices.
const SLICES: &str = "/sys/fs/cgroup/user.slice";
/// More users of a directory than the proof asks about.
const STRANGERS: usize = 8;

/// Who is locked out.
#[derive(Debug)]
pub(super) struct Guests {
    accounts: Vec<Account>,
    break_glass: BTreeSet<u32>,
    greeters: BTreeSet<u32>,
    own_slice: Option<u32>,
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Its id.
    pub(super) pid: i32,
    uid: u32,
    cgroup: String,
}

impl Guests {
    /// Tells guests from residents on this host.
    pub(super) fn new(host: &Host, accounts: Vec<Account>, break_glass: &[String]) -> Self {
        let is_kept = |account: &&Account| break_glass.contains(&account.name);
        let break_glass = accounts.iter().filter(is_kept).map(|account| account.uid).collect();
        let own = fs::read_to_string(host.path("/proc/self/cgroup")).unwrap_or_default();
        let own_slice = user_slice(&own);
        Self { accounts, break_glass, greeters: BTreeSet::new(), own_slice }
    }

    /// The user in whose slice the agent itself runs: someone started it by hand, and ending
    /// that slice would end the lock half-way.
    pub(super) fn own_slice(&self) -> Option<u32> {
        self.own_slice
    }

    /// The sessions that must end. Login screens stay: they carry the message.
    pub(super) fn sessions(&mut self, bus: &Bus) -> Result<Vec<Session>, Failure> {
        let mut guests = Vec::new();
        for session in bus.sessions()? {
            if self.is_resident(session.uid) {
                continue;
            }
            if is_system(session.uid) && bus.is_greeter(&session) {
                self.greeters.insert(session.uid);
                continue;
            }
            guests.push(session);
        }
        Ok(guests)
    }

    /// Who is on the device and in no local account database: by name where a session says it, else
    /// by the uid of a slice.
    pub(super) fn strangers(&self, host: &Host, bus: Option<&Bus>) -> Vec<String> {
        let is_stranger = |uid: u32| {
            let is_local = self.accounts.iter().any(|account| account.uid == uid);
            is_person(uid) && !is_local && !self.is_resident(uid)
        };
        let sessions = bus.and_then(|bus| bus.sessions().ok()).unwrap_or_default();
        let named: BTreeMap<u32, String> = slices(host)
            .map(|uid| (uid, uid.to_string()))
            .chain(sessions.into_iter().map(|session| (session.uid, session.user)))
            .filter(|(uid, _)| is_stranger(*uid))
            .collect();
        named.into_values().take(STRANGERS).collect()
    }

    fn is_resident(&self, uid: u32) -> bool {
        self.break_glass.contains(&uid) || self.own_slice == Some(uid)
    }

    fn is_guest(&self, process: &Process) -> bool {
        let slice = user_slice(&process.cgroup);
        if let Some(owner) = slice
            && !self.is_resident(owner)
            && !self.greeters.contains(&owner)
        {
            return true;
        }
        if process.uid == 0 || self.break_glass.contains(&process.uid) || is_system(process.uid) {
            return false;
        }
        let is_local = self.accounts.iter().any(|account| account.uid == process.uid);
        // An unknown uid in a service's own slice belongs to a container, not to a person.
        let is_service = ["/system.slice/", "/machine.slice/"]
            .iter()
            .any(|slice| process.cgroup.contains(slice));
        is_local || slice.is_some() || !is_service
    }
}

/// Accounts of services: below the first ordinary user, and those that systemd and the kernel
/// give away on demand (`nobody`, dynamic users).
fn is_system(uid: u32) -> bool {
    matches!(uid, 1..=999 | 61_184..=65_535)
}

/// Whether people have such numbers: neither root nor a service.
pub(super) fn is_person(uid: u32) -> bool {
    uid != 0 && !is_system(uid)
}

/// The users who have a slice of their own.
fn slices(host: &Host) -> impl Iterator<Item = u32> + use<> {
    let names = file::names(&host.path(SLICES)).unwrap_or_default();
    names.into_iter().filter_map(|slice| user_slice(&format!("/user.slice/{slice}")))
}

/// The uid of the user slice that a control group lies in.
fn user_slice(cgroup: &str) -> Option<u32> {
    let (_, rest) = cgroup.split_once("/user.slice/user-")?;
    rest.split_once(".slice")?.0.parse().ok()
}

/// Takes lingering from everybody but break-glass, remembering who had it.
pub(super) fn stop_lingering(
    host: &Host,
    guests: &Guests,
    bus: Option<&Bus>,
    undo: &UndoJournal,
) -> Result<(), FileError> {
    let lingerers: Vec<Lingerer> = lingering(host, guests)?;
    undo.add_lingerers(lingerers.clone())?;
    for Lingerer { name, uid } in lingerers {
        if let (Some(bus), Some(uid)) = (bus, uid)
            && let Err(failure) = bus.set_linger(uid, false)
        {
            tracing::warn!(user = name, detail = failure.detail, "lingering stopped by file");
        }
        // The mark is what counts; it stays when there is no bus, or a spinning one.
        file::remove(&host.path(LINGER).join(&name))?;
    }
    Ok(())
}

/// Who lingers and is not break-glass.
pub(super) fn lingering(host: &Host, guests: &Guests) -> Result<Vec<Lingerer>, FileError> {
    let names = file::names(&host.path(LINGER))?.into_iter().filter(|name| !name.starts_with('.'));
    let lingerer = |name: String| {
        let account = guests.accounts.iter().find(|account| account.name == name);
        let uid = account.map(|account| account.uid);
        (!uid.is_some_and(|uid| guests.break_glass.contains(&uid)))
            .then_some(Lingerer { name, uid })
    };
    Ok(names.filter_map(lingerer).collect())
}

/// Gives lingering back to those who had it.
pub(super) fn restore_lingering(
    host: &Host,
    bus: Option<&Bus>,
    undo: &UndoJournal,
) -> Result<(), FileError> {
    for Lingerer { name, uid } in undo.lingerers()? {
        if let (Some(bus), Some(uid)) = (bus, uid)
            && let Err(failure) = bus.set_linger(uid, true)
        {
            tracing::warn!(user = name, detail = failure.detail, "lingering restored by file");
        }
        let mark = host.path(LINGER).join(&name);
        if file::find(&mark)?.is_none() {
            file::make_public_dir(&host.path(LINGER))?;
            file::replace(&mark, b"", Attributes::PUBLIC)?;
        }
    }
    Ok(())
}

/// Sends everybody away: sessions through the login manager, then control groups, then what
/// processes are left. Answers what went wrong on the way; only looking again tells the result.
pub(super) fn empty(host: &Host, guests: &mut Guests, bus: Option<&Bus>) -> Vec<Failure> {
    let mut failures = Vec::new();
    if let Some(bus) = bus {
        failures.extend(end_sessions(host, guests, bus).err());
    }
    kill_slices(host, guests);
    end_processes(host, guests);
    failures
}

fn end_sessions(host: &Host, guests: &mut Guests, bus: &Bus) -> Result<(), Failure> {
    let users: BTreeSet<u32> = guests.sessions(bus)?.iter().map(|session| session.uid).collect();
    for uid in users {
        // One user who cannot be ended must not protect the next.
        if let Err(failure) = bus.terminate_user(uid) {
            tracing::warn!(user.id = uid, detail = failure.detail, "sessions not ended by logind");
        }
    }
    let mut seen = Ok(());
    host.course.until(patience::SESSIONS, || match guests.sessions(bus) {
        Ok(left) => left.is_empty(),
        Err(failure) => {
            seen = Err(failure);
            true
        }
    });
    seen
}

/// Kills what is left in users' control groups at once, where the kernel can (5.14).
fn kill_slices(host: &Host, guests: &Guests) {
    let folder = host.path(SLICES);
    let slices = file::names(&folder).unwrap_or_default();
    for slice in slices {
        let Some(uid) = user_slice(&format!("/user.slice/{slice}")) else { continue };
        if guests.is_resident(uid) || guests.greeters.contains(&uid) {
            continue;
        }
        let switch = folder.join(&slice).join("cgroup.kill");
        if switch.exists()
            && let Err(error) = fs::write(&switch, "1")
        {
            tracing::warn!(user.id = uid, %error, "control group not killed");
        }
    }
}

fn end_processes(host: &Host, guests: &Guests) {
    signal_all(&processes(host, guests), Signal::SIGTERM);
    if host.course.until(patience::ASKED_TO_END, || processes(host, guests).is_empty()) {
        return;
    }
    // Once at least, whatever time is left: who is still there is seen afterwards.
    host.course.until(patience::KILLED, || {
        let left = processes(host, guests);
        signal_all(&left, Signal::SIGKILL);
        left.is_empty()
    });
}

fn signal_all(processes: &[Process], signal: Signal) {
    for process in processes {
        // Whoever is gone already needs no signal.
        _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Whether `/proc` below the host's root shows the processes that signals from here reach.
pub(super) fn sees_processes(host: &Host) -> bool {
    fs::read_link(host.path("/proc/self"))
        .is_ok_and(|own| own == Path::new(&std::process::id().to_string()))
}

/// The processes of people who are locked out. Zombies are nobody's any more.
///
/// In a sandbox only processes inside its root count: the machine around it has its own people.
pub(super) fn processes(host: &Host, guests: &Guests) -> Vec<Process> {
    if !sees_processes(host) {
        return Vec::new();
    }
    let folder = host.path("/proc");
    let pids = file::names(&folder).unwrap_or_default();
    let processes = pids.iter().filter_map(|pid| read_process(&folder.join(pid)));
    processes
        .filter(|process| guests.is_guest(process) && is_inside(host, &folder, process.pid))
        .collect()
}

fn is_inside(host: &Host, proc_folder: &Path, pid: i32) -> bool {
    match host.arming {
        Arming::Armed => true,
        Arming::Simulated => false,
        Arming::Sandboxed => {
            let root = fs::canonicalize(&host.root);
            let own = fs::read_link(proc_folder.join(pid.to_string()).join("root"));
            host.root != Path::new("/") && matches!((root, own), (Ok(root), Ok(own)) if root == own)
        }
    }
}

fn read_process(folder: &Path) -> Option<Process> {
    let pid: i32 = folder.file_name()?.to_str()?.parse().ok()?;
    if u32::try_from(pid).ok()? == std::process::id() {
        return None;
    }
    let status = String::from_utf8_lossy(&fs::read(folder.join("status")).ok()?).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    if field("State:")?.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    let uid = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
    let cgroup = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    Some(Process { pid, uid, cgroup })
}

#[cfg(test)]
mod tests;
