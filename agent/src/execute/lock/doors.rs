//! The doors of a locked device: the account gate, the list for the package's PAM profile, the
//! expired accounts and the texts that say why. Closes them, opens them again, and looks whether they are closed.
//!
//! Every change is preceded by its entry in the undo journal. A door that cannot be closed does
//! not keep the others open: failures are collected.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use protocol::receipt::{Failure, FailureKind};

use super::accounts;
use super::file::{self, Attributes, FileError, Found};
use super::pam::{self, Gate, GateFile};
use super::state::LockState;
use super::undo::{FileEntry, FormerFile, UndoJournal};
use crate::execute::course::patience;
use crate::execute::tool::Tool;
use crate::execute::{failure, sha256_hex};
use crate::host::Host;

const SHADOW: &str = "/etc/shadow";
/// The lock that `lckpwdf(3)` takes: whoever changes the account database holds it.
const PASSWORD_LOCK: &str = "/etc/.pwd.lock";
const NOLOGIN: &str = "/run/nologin";
/// Where agetty looks for texts where `/etc/issue` exists, and where it does not.
const ISSUE_FOLDERS: [&str; 2] = ["/etc/issue.d", "/run/issue.d"];
const ISSUES: [&str; 2] = ["/etc/issue.d/tocsin.issue", "/run/issue.d/tocsin.issue"];
/// Who passes the PAM profile of the agent's package. Without the file everybody does; with it the
/// profile holds where the gate was just taken out, as by an upgrade that writes PAM anew.
const ALLOW: &str = "/etc/tocsin-lock.allow";
const DEFAULT_MESSAGE: &str = "This device was locked by its administrators.";

/// What was seen of the doors.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Files that carry the gate.
    pub(super) gated: Vec<String>,
    /// Files that should and do not.
    pub(super) ungated: Vec<String>,
    /// Accounts that the lock expired and that still are.
    pub(super) expired: usize,
    /// Accounts that are not expired and are not break-glass, and root's password.
    pub(super) unexpired: usize,
    /// Whether `/run/nologin` stands as well.
    pub(super) nologin: bool,
}

/// Closes every door. Whether root may see `/run/nologin` is the caller's to say: `pam_nologin`
/// denies everybody but uid 0, so it would keep an ordinary break-glass account out.
pub(super) fn close(
    host: &Host,
    state: &LockState,
    undo: &UndoJournal,
    nologin: bool,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    // The text first: the gate refers to it.
    collect(&mut failures, write_texts(host, state, undo, nologin));
    collect(&mut failures, write_allowed(host, state));
    match pam::gate_files(host) {
        Ok(files) => {
            let gate = Gate::new(&state.break_glass, state.superuser);
            for gate_file in files {
                collect(&mut failures, put_gate(host, undo, &gate_file, &gate));
            }
        }
        Err(error) => failures.push(error.at("gate")),
    }
    if let Err(failure) = expire_accounts(host, state, undo) {
        failures.push(failure);
    }
    failures
}

fn collect(failures: &mut Vec<Failure>, result: Result<(), FileError>) {
    if let Err(error) = result {
        failures.push(error.at("doors"));
    }
}

fn put_gate(
    host: &Host,
    undo: &UndoJournal,
    gate_file: &GateFile,
    gate: &Gate,
) -> Result<(), FileError> {
    let path = host.path(&gate_file.path);
    let current = file::find(&path)?;
    let base = match (&current, &gate_file.vendor) {
        (None, Some(vendor)) => file::find(&host.path(vendor))?,
        (Some(_), _) | (None, None) => current.clone(),
    };
    let Some(base) = base else { return Ok(()) };
    let bare = pam::without_gate(&base.bytes);
    let desired = pam::with_gate(&base.bytes, &gate.block(gate_file.stacks));
    let known = undo.file(&gate_file.path);
    let stands = current.as_ref().is_some_and(|found| found.bytes == desired);
    if stands && !matches!(known, Ok(None)) {
        file::discard_leftover(&path)?;
        return known.map(drop);
    }
    let written_sha256 = sha256_hex(&desired);
    let damaged = match known {
        Ok(None) => {
            let former = current.as_ref().map(|found| Found { bytes: bare, ..found.clone() });
            let former = former.as_ref().map(FormerFile::new);
            let path = gate_file.path.clone();
            undo.save_file(&FileEntry { path, former, written_sha256 })?;
            Ok(())
        }
        // Only what is still the former file under the gate may be put back whole.
        Ok(Some(entry)) if is_former(&entry, &bare) => {
            undo.save_file(&FileEntry { written_sha256, ..entry })?;
            Ok(())
        }
        Ok(Some(_)) => Ok(()),
        // A gate comes off again without its entry. One that nobody can read leaves no door open.
        Err(error) => Err(error),
    };
    file::replace(&path, &desired, base.attributes)?;
    relabel(host, &path);
    damaged
}

fn is_former(entry: &FileEntry, bare: &[u8]) -> bool {
    entry.former.as_ref().is_some_and(|former| former.sha256 == sha256_hex(bare))
}

/// A renamed file carries the label of its folder; SELinux wants the one of its name.
fn relabel(host: &Host, path: &Path) {
    if host.root != Path::new("/") || !Path::new("/sys/fs/selinux/enforce").exists() {
        return;
    }
    let relabelled = Tool::find("restorecon", "relabel")
        .and_then(|tool| tool.args([path]).during(&host.course).run_ok("relabel"));
    if let Err(failure) = relabelled {
        tracing::warn!(path = %path.display(), detail = failure.detail, "label not restored");
    }
}

fn expire_accounts(host: &Host, state: &LockState, undo: &UndoJournal) -> Result<(), Failure> {
    change_shadow(host, |shadow| {
        let kept = |name: &str| state.break_glass.iter().any(|kept| kept == name);
        let (bytes, former) = accounts::expire(shadow, kept);
        undo.add_expiries(former)?;
        Ok(if kept("root") { bytes } else { accounts::bar_root(&bytes) })
    })
}

fn restore_accounts(host: &Host, undo: &UndoJournal) -> Result<(), Failure> {
    let at = |error: FileError| error.at("shadow");
    // Without their former expiries accounts stay expired. Root is let in all the same.
    let (former, damaged) = match undo.expiries() {
        Ok(former) => (former, Ok(())),
        Err(error) => (Default::default(), Err(at(error))),
    };
    let path = host.path(file::resolve(host, Path::new(SHADOW)).map_err(at)?);
    file::discard_leftover(&path).map_err(at)?;
    let restored = |shadow: &[u8]| accounts::unbar_root(&accounts::restore(shadow, &former));
    // A device that is not locked is not even touched.
    match read_shadow(host).map_err(at)? {
        Some(shadow) if restored(&shadow) != shadow => {
            change_shadow(host, |shadow| Ok(restored(shadow)))?;
        }
        Some(_) | None => {}
    }
    damaged
}

/// Changes `shadow(5)` under the lock of the account database; a host without the file has no
/// accounts to change.
pub(super) fn change_shadow(
    host: &Host,
    change: impl FnOnce(&[u8]) -> Result<Vec<u8>, FileError>,
) -> Result<(), Failure> {
    let at = |error: FileError| error.at("shadow");
    let path = host.path(file::resolve(host, Path::new(SHADOW)).map_err(at)?);
    if file::find(&path).map_err(at)?.is_none() {
        return Ok(());
    }
    let _held = hold_password_lock(host)?;
    file::discard_leftover(&path).map_err(at)?;
    let Some(found) = file::find(&path).map_err(at)? else { return Ok(()) };
    let bytes = change(&found.bytes).map_err(at)?;
    if bytes == found.bytes {
        return Ok(());
    }
    file::replace(&path, &bytes, found.attributes).map_err(at)?;
    relabel(host, &path);
    Ok(())
}

/// Takes the lock that `passwd(1)`, `usermod(8)` and their like take; closing the file frees it.
fn hold_password_lock(host: &Host) -> Result<std::fs::File, Failure> {
    let path = host.path(PASSWORD_LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|error| {
            failure(FailureKind::Io, "shadow", format_args!("{PASSWORD_LOCK}: {error}"))
        })?;
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let is_held = || fcntl(&file, FcntlArg::F_SETLK(&range)).is_ok();
    if host.course.until(patience::PASSWORD_LOCK, is_held) {
        return Ok(file);
    }
    let detail = format!("somebody holds {PASSWORD_LOCK} and does not let go");
    Err(failure(FailureKind::Timeout, "shadow", detail))
}

fn message(state: &LockState) -> &str {
    state.message.as_deref().unwrap_or(DEFAULT_MESSAGE)
}

/// The texts, each with its bytes.
fn texts(state: &LockState) -> [(&'static str, String); 4] {
    let message = message(state);
    // agetty(8) reads a backslash as the start of a sequence.
    let issue = format!("\n{}\n\n", message.replace('\\', "\\\\"));
    [
        // pam_echo(8) reads `%` as the start of a sequence.
        (pam::TEXT_PATH, format!("{}\n", message.replace('%', "%%"))),
        (ISSUES[0], issue.clone()),
        (ISSUES[1], issue),
        (NOLOGIN, nologin_text(message)),
    ]
}

fn write_texts(
    host: &Host,
    state: &LockState,
    undo: &UndoJournal,
    nologin: bool,
) -> Result<(), FileError> {
    for name in ISSUE_FOLDERS {
        let folder = host.path(file::resolve(host, Path::new(name))?);
        if !folder.is_dir() {
            undo.add_folder(name)?;
            file::make_public_dir(&folder)?;
        }
    }
    let known = known_nologins(Some(state), &undo.nologins()?);
    for (name, text) in texts(state) {
        let path = host.path(file::resolve(host, Path::new(name))?);
        let found = file::find(&path)?;
        if name == NOLOGIN {
            if found.as_ref().is_some_and(|found| !is_known(&known, found)) {
                continue;
            }
            if !nologin {
                // What was written for other accounts keeps out those of this state.
                found.map_or(Ok(()), |_| file::remove(&path))?;
                continue;
            }
            undo.add_nologin(sha256_hex(text.as_bytes()))?;
        }
        if found.is_some_and(|found| found.bytes == text.as_bytes()) {
            continue;
        }
        file::replace(&path, text.as_bytes(), Attributes::PUBLIC)?;
        relabel(host, &path);
    }
    refresh_login_screens(host);
    Ok(())
}

/// Digests of what locks and wipes wrote to `/run/nologin`; earlier versions wrote and kept none.
fn known_nologins(state: Option<&LockState>, recorded: &[String]) -> Vec<String> {
    let messages = [Some(DEFAULT_MESSAGE), state.map(message)].into_iter().flatten();
    let digests = messages.map(|message| sha256_hex(nologin_text(message).as_bytes()));
    recorded.iter().cloned().chain(digests).collect()
}

fn nologin_text(message: &str) -> String {
    format!("{message}\n")
}

fn is_known(digests: &[String], found: &Found) -> bool {
    digests.contains(&sha256_hex(&found.bytes))
}

/// Login screens that wait show the text of when they began until they are told.
fn refresh_login_screens(host: &Host) {
    if host.root != Path::new("/") {
        return;
    }
    let told = Tool::find("agetty", "console")
        .and_then(|agetty| agetty.args(["--reload"]).during(&host.course).run_ok("console"));
    if let Err(failure) = told {
        tracing::warn!(detail = failure.detail, "login screens not refreshed");
    }
}

fn allowed(state: &LockState) -> Vec<u8> {
    format!("{}\n", state.break_glass.join("\n")).into_bytes()
}

fn is_allowed_list(host: &Host, state: &LockState) -> Result<bool, FileError> {
    Ok(file::find(&host.path(ALLOW))?.is_some_and(|found| found.bytes == allowed(state)))
}

fn write_allowed(host: &Host, state: &LockState) -> Result<(), FileError> {
    if is_allowed_list(host, state)? {
        return Ok(());
    }
    file::replace(&host.path(ALLOW), &allowed(state), Attributes::PUBLIC)?;
    relabel(host, &host.path(ALLOW));
    Ok(())
}

fn remove_allowed(host: &Host) -> Result<(), FileError> {
    file::discard_leftover(&host.path(ALLOW))?;
    file::remove(&host.path(ALLOW))
}

fn remove_texts(
    host: &Host,
    state: Option<&LockState>,
    undo: &UndoJournal,
) -> Result<(), FileError> {
    for name in [pam::TEXT_PATH, ISSUES[0], ISSUES[1]] {
        let path = host.path(file::resolve(host, Path::new(name))?);
        file::discard_leftover(&path)?;
        file::remove(&path)?;
    }
    // What the journal does not say any more keeps nobody out: it is told when the texts are gone.
    let (folders, nologins) = (undo.folders(), undo.nologins());
    for folder in folders.iter().flatten() {
        file::remove_empty_dir(&host.path(file::resolve(host, Path::new(folder))?))?;
    }
    let nologin = host.path(file::resolve(host, Path::new(NOLOGIN))?);
    file::discard_leftover(&nologin)?;
    let known = known_nologins(state, nologins.as_deref().unwrap_or_default());
    if file::find(&nologin)?.is_some_and(|found| is_known(&known, &found)) {
        file::remove(&nologin)?;
    }
    refresh_login_screens(host);
    folders.and(nologins).map(drop)
}

/// Opens every door again, from the undo journal.
pub(super) fn open(host: &Host, state: Option<&LockState>, undo: &UndoJournal) -> Vec<Failure> {
    let mut failures = Vec::new();
    for entry in undo.files() {
        collect(&mut failures, entry.and_then(|entry| restore_file(host, &entry)));
    }
    // A gate without an entry, as in a file that was copied while the device was locked.
    match pam::all_files(host) {
        Ok(paths) => {
            for path in paths {
                collect(&mut failures, strip_gate(host, &path));
            }
        }
        Err(error) => failures.push(error.at("gate")),
    }
    if let Err(failure) = restore_accounts(host, undo) {
        failures.push(failure);
    }
    collect(&mut failures, remove_allowed(host));
    collect(&mut failures, remove_texts(host, state, undo));
    failures
}

fn restore_file(host: &Host, entry: &FileEntry) -> Result<(), FileError> {
    let path = host.path(&entry.path);
    file::discard_leftover(&path)?;
    let Some(current) = file::find(&path)? else { return Ok(()) };
    if sha256_hex(&current.bytes) != entry.written_sha256 {
        return strip_gate(host, &entry.path);
    }
    match &entry.former {
        None => file::remove(&path),
        Some(former) => match former.found() {
            Some(former) => {
                file::replace(&path, &former.bytes, former.attributes)?;
                relabel(host, &path);
                Ok(())
            }
            None => strip_gate(host, &entry.path),
        },
    }
}

fn strip_gate(host: &Host, path: &Path) -> Result<(), FileError> {
    let real = host.path(path);
    let Some(found) = file::find(&real)?.filter(|found| pam::has_gate(&found.bytes)) else {
        return Ok(());
    };
    file::replace(&real, &pam::without_gate(&found.bytes), found.attributes)?;
    relabel(host, &real);
    Ok(())
}

/// Looks at the doors of a locked device.
pub(super) fn look(host: &Host, state: &LockState, undo: &UndoJournal) -> Result<Seen, FileError> {
    let gate = Gate::new(&state.break_glass, state.superuser);
    let mut seen = Seen::default();
    for gate_file in pam::gate_files(host)? {
        let found = file::find(&host.path(&gate_file.path))?;
        let block = gate.block(gate_file.stacks);
        let stands = found.is_some_and(|found| found.bytes == pam::with_gate(&found.bytes, &block));
        let list = if stands { &mut seen.gated } else { &mut seen.ungated };
        list.push(gate_file.path.display().to_string());
    }
    if !is_allowed_list(host, state)? {
        seen.ungated.push(ALLOW.to_owned());
    }
    if let Some(shadow) = read_shadow(host)? {
        let kept = |name: &str| state.break_glass.iter().any(|kept| kept == name);
        let is_root_open = !kept("root") && accounts::bar_root(&shadow) != shadow;
        seen.unexpired = accounts::expire(&shadow, kept).1.len() + usize::from(is_root_open);
        seen.expired = accounts::count_expired(&shadow, &undo.expiries()?);
    }
    seen.nologin = has_nologin(host)?;
    Ok(seen)
}

pub(super) fn read_shadow(host: &Host) -> Result<Option<Vec<u8>>, FileError> {
    let path = host.path(file::resolve(host, Path::new(SHADOW))?);
    Ok(file::find(&path)?.map(|found| found.bytes))
}

/// Whether `/run/nologin` stands. On a device that is not locked it is somebody else's.
pub(super) fn has_nologin(host: &Host) -> Result<bool, FileError> {
    Ok(find_nologin(host)?.is_some())
}

fn find_nologin(host: &Host) -> Result<Option<Found>, FileError> {
    file::find(&host.path(file::resolve(host, Path::new(NOLOGIN))?))
}

/// The files in which a gate still stands, and a text of ours that is one: none on a device that is not locked.
pub(super) fn remaining_gates(host: &Host) -> Result<Vec<String>, FileError> {
    let mut remaining = Vec::new();
    for path in pam::all_files(host)? {
        if file::find(&host.path(&path))?.is_some_and(|found| pam::has_gate(&found.bytes)) {
            remaining.push(path.display().to_string());
        }
    }
    let ours = nologin_text(DEFAULT_MESSAGE);
    if find_nologin(host)?.is_some_and(|found| found.bytes == ours.as_bytes()) {
        remaining.push(NOLOGIN.to_owned());
    }
    Ok(remaining)
}

/// What the lock writes besides the account database and PAM's own files: for a dry run.
pub(super) fn other_steps(nologin: bool) -> Vec<String> {
    let texts =
        [pam::TEXT_PATH, ISSUES[0], ISSUES[1]].into_iter().chain(nologin.then_some(NOLOGIN));
    let list = format!("write who may pass to {ALLOW}");
    texts.map(|path| format!("write the message to {path}")).chain([list]).collect()
}
