//! The account gate in PAM: who may pass, in which files it must stand, and whether it does.
//!
//! The gate is a marked block at the top of a service's configuration. Its account lines meet
//! everybody: root, directory users and holders of SSH keys included, because every service that
//! lets somebody in asks for account management, however it authenticated. Its session lines stand
//! where one user becomes another, since `sudo` asks about the account that calls it and `runuser`
//! about none. This module decides what to write; it never writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{self, FileError};
use crate::host::{Host, Superuser};

/// Where services are configured; an earlier folder hides the same name in a later one.
const FOLDERS: [&str; 4] = ["/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d", "/usr/share/pam.d"];
/// The files that services of a distribution include for account management: Debian and SUSE;
/// Fedora and Arch; Fedora's services that are reached over the network.
const COMMON: [&str; 3] = ["common-account", "system-auth", "password-auth"];
/// Where PAM modules live, besides `lib/<architecture>/security`.
const MODULE_FOLDERS: [&str; 4] =
    ["/usr/lib64/security", "/usr/lib/security", "/lib64/security", "/lib/security"];
/// The modules without which the gate would deny break-glass as well, or nobody.
const MODULES: [&str; 2] = ["pam_succeed_if.so", "pam_deny.so"];
/// How deep includes may nest before a service counts as not covered.
const MAX_DEPTH: usize = 16;

const BEGIN: &str = "# tocsin lock: begin (unlocking removes these lines)";
const END: &str = "# tocsin lock: end";
/// What every line of the block but the markers contains, for a block without its end.
const TRACES: [&str; 6] = [
    "pam_succeed_if.so quiet user in ",
    "pam_succeed_if.so quiet user = root ruser in ",
    "pam_succeed_if.so quiet uid > 0 uid < 1000",
    "pam_succeed_if.so quiet uid >= 61184 uid <= 65535",
    "pam_echo.so file=/run/tocsin-lock.txt",
    "pam_deny.so",
];
/// More lines than any block has.
const MAX_LINES: usize = 16;
/// The services by which whoever is on the device already becomes somebody else.
const SWITCHES: [&str; 6] = ["su", "su-l", "sudo", "sudo-i", "runuser", "runuser-l"];

/// The text that a denied user reads, as the endpoint sees its path.
pub(super) const TEXT_PATH: &str = "/run/tocsin-lock.txt";

/// A file that must carry the gate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GateFile {
    /// Where the gate goes, as the endpoint sees it, symbolic links followed.
    pub(super) path: PathBuf,
    /// The vendor's file that `path` is going to hide, when `path` is not there yet.
    pub(super) vendor: Option<PathBuf>,
    /// Which lines of the gate.
    pub(super) stacks: Stacks,
}

/// The stacks of a configuration that need the gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stacks {
    /// Account management.
    pub(super) account: bool,
    /// Sessions.
    pub(super) session: bool,
}

/// The gate of one lock, to be put into any number of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gate {
    account: String,
    session: String,
}

/// Whether a name can stand in the gate: the list there is separated by colons, and PAM's own
/// grammar knows blanks, brackets, backslashes and comments.
pub(super) fn is_gate_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-$@+".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}

impl Gate {
    /// The gate that lets `break_glass` pass and nobody else.
    ///
    /// Where one user becomes another, accounts of services pass too: they belong to nobody, and
    /// programs of the system change to them. Root becomes root always, and nothing is gained.
    pub(super) fn new(break_glass: &[String], superuser: Superuser) -> Self {
        let names = break_glass.join(":");
        let callers = match superuser {
            Superuser::FromBreakGlass => format!("root:{names}"),
            Superuser::Refused => "root".to_owned(),
        };
        let account = format!(
            "account [success=2 default=ignore] pam_succeed_if.so quiet user in {names}\n\
             account [default=ignore] pam_echo.so file={TEXT_PATH}\n\
             account requisite pam_deny.so\n"
        );
        // Not pam_deny at the end: sudo goes on after its answer to opening a session.
        let session = format!(
            "session [success=4 default=ignore] pam_succeed_if.so quiet user in {names}\n\
             session [success=3 default=ignore] pam_succeed_if.so quiet user = root \
             ruser in {callers}\n\
             session [success=2 default=ignore] pam_succeed_if.so quiet uid > 0 uid < 1000\n\
             session [success=1 default=ignore] pam_succeed_if.so quiet uid >= 61184 \
             uid <= 65535\n\
             session requisite pam_succeed_if.so quiet user in {names}\n"
        );
        Self { account, session }
    }

    /// The block for a file.
    pub(super) fn block(&self, stacks: Stacks) -> String {
        let account = if stacks.account { self.account.as_str() } else { "" };
        let session = if stacks.session { self.session.as_str() } else { "" };
        format!("{BEGIN}\n{account}{session}{END}\n")
    }
}

/// A configuration with the gate at the top of its account stack, and no other gate.
pub(super) fn with_gate(bytes: &[u8], gate: &str) -> Vec<u8> {
    let bare = without_gate(bytes);
    let first_line = bare.iter().position(|byte| *byte == b'\n').map_or(bare.len(), |at| at + 1);
    // A first line that names the format stays the first.
    let at = if bare.starts_with(b"#%PAM") && bare[..first_line].ends_with(b"\n") {
        first_line
    } else {
        0
    };
    [&bare[..at], gate.as_bytes(), &bare[at..]].concat()
}

/// A configuration without any gate of ours; everything else stays byte for byte.
pub(super) fn without_gate(bytes: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if is_line(lines[at], BEGIN) {
            at += gate_length(&lines[at..]);
        } else {
            kept.push(lines[at]);
            at += 1;
        }
    }
    kept.concat()
}

/// The lines from a begin marker to its end marker. When somebody removed the end, only lines
/// that are recognisably ours.
fn gate_length(lines: &[&[u8]]) -> usize {
    let ours = |line: &&[u8]| {
        let text = String::from_utf8_lossy(line);
        let is_of_a_stack = text.starts_with("account ") || text.starts_with("session ");
        is_of_a_stack && TRACES.iter().any(|trace| text.contains(trace))
    };
    let body = lines[1..].iter().take(MAX_LINES).take_while(|line| ours(line)).count();
    let has_end = lines.get(1 + body).is_some_and(|line| is_line(line, END));
    1 + body + usize::from(has_end)
}

fn is_line(line: &[u8], text: &str) -> bool {
    line.trim_ascii_end() == text.as_bytes()
}

/// Whether any line of ours is in a configuration.
pub(super) fn has_gate(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| is_line(line, BEGIN))
}

/// What of PAM is missing for the gate to work, for a person; `None` when nothing is.
pub(super) fn missing(host: &Host) -> Result<Option<String>, FileError> {
    let catalog = Catalog::read(host)?;
    if catalog.common().next().is_none() {
        let names = COMMON.join(", ");
        return Ok(Some(format!("no known PAM layout: none of {names} in {}", FOLDERS[0])));
    }
    for module in MODULES {
        if !has_module(host, module)? {
            return Ok(Some(format!("the PAM module {module} is not installed")));
        }
    }
    Ok(None)
}

fn has_module(host: &Host, module: &str) -> Result<bool, FileError> {
    let mut folders: Vec<PathBuf> = MODULE_FOLDERS.iter().map(PathBuf::from).collect();
    for parent in ["/usr/lib", "/lib"] {
        let architectures = file::names(&host.path(file::resolve(host, Path::new(parent))?))?;
        let multiarch = architectures.iter().filter(|name| name.contains("-linux-"));
        folders.extend(multiarch.map(|name| Path::new(parent).join(name).join("security")));
    }
    for folder in folders {
        let path = file::resolve(host, &folder.join(module))?;
        if host.path(path).is_file() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files that must carry the gate: those that services include, every service whose account
/// stack does not begin with one of them, and every service by which users change.
pub(super) fn gate_files(host: &Host) -> Result<Vec<GateFile>, FileError> {
    let catalog = Catalog::read(host)?;
    let mut files: BTreeMap<PathBuf, GateFile> = BTreeMap::new();
    for name in catalog.services.keys().map(String::as_str) {
        let is_open = || catalog.first_account(name, 0) == Entry::Open;
        let account = COMMON.contains(&name) || is_open();
        let session = SWITCHES.contains(&name);
        if account || session {
            let new = catalog.gate_file(host, name)?;
            // Two names may lead to one file.
            let file = files.entry(new.path.clone()).or_insert(new);
            file.stacks.account |= account;
            file.stacks.session |= session;
        }
    }
    Ok(files.into_values().collect())
}

/// The services that are configured, whatever they are for.
pub(super) fn services(host: &Host) -> Result<Vec<String>, FileError> {
    Ok(Catalog::read(host)?.services.into_keys().collect())
}

/// Every configuration file of PAM, as the endpoint sees it.
pub(super) fn all_files(host: &Host) -> Result<Vec<PathBuf>, FileError> {
    Ok(Catalog::read(host)?.services.into_values().map(|service| service.path).collect())
}

/// How the account stack of a configuration begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// With a file that carries the gate.
    Covered,
    /// With something else.
    Open,
    /// It has none: the service `other` decides.
    Empty,
}

#[derive(Debug)]
struct Service {
    /// Where it is, symbolic links followed.
    path: PathBuf,
    /// Whether it is in the vendor's folders, where the machine's owner changes nothing.
    is_vendor: bool,
    /// Its lines about account management.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Catalog {
    services: BTreeMap<String, Service>,
}

impl Catalog {
    fn read(host: &Host) -> Result<Self, FileError> {
        let mut services = BTreeMap::new();
        for folder in FOLDERS {
            let real = host.path(file::resolve(host, Path::new(folder))?);
            for name in file::names(&real)?.into_iter().filter(|name| is_service_name(name)) {
                if services.contains_key(&name) {
                    continue;
                }
                let path = file::resolve(host, &Path::new(folder).join(&name))?;
                let Some(found) = file::find(&host.path(&path))? else { continue };
                let lines = account_lines(&String::from_utf8_lossy(&found.bytes));
                let is_vendor = folder != FOLDERS[0];
                services.insert(name, Service { path, is_vendor, lines });
            }
        }
        Ok(Self { services })
    }

    fn common(&self) -> impl Iterator<Item = &'static str> {
        COMMON.into_iter().filter(|name| self.services.contains_key(*name))
    }

    fn first_account(&self, name: &str, depth: usize) -> Entry {
        let Some(service) = self.services.get(name).filter(|_| depth < MAX_DEPTH) else {
            return Entry::Open;
        };
        for line in &service.lines {
            match line {
                Line::Module => return Entry::Open,
                Line::Include(included) if COMMON.contains(&included.as_str()) => {
                    return if self.services.contains_key(included) {
                        Entry::Covered
                    } else {
                        Entry::Open
                    };
                }
                Line::Include(included) => match self.first_account(included, depth + 1) {
                    Entry::Empty => {}
                    found @ (Entry::Covered | Entry::Open) => return found,
                },
            }
        }
        Entry::Empty
    }

    fn gate_file(&self, host: &Host, name: &str) -> Result<GateFile, FileError> {
        let stacks = Stacks::default();
        match self.services.get(name) {
            Some(service) if !service.is_vendor => {
                Ok(GateFile { path: service.path.clone(), vendor: None, stacks })
            }
            Some(Service { path, .. }) => {
                let folder = file::resolve(host, Path::new(FOLDERS[0]))?;
                Ok(GateFile { path: folder.join(name), vendor: Some(path.clone()), stacks })
            }
            None => Ok(GateFile { path: Path::new(FOLDERS[0]).join(name), vendor: None, stacks }),
        }
    }
}

/// Package managers and editors leave files beside services that no program asks for.
fn is_service_name(name: &str) -> bool {
    let leftover = [".dpkg-", ".ucf-", ".rpmsave", ".rpmnew", ".rpmorig", ".pam-"];
    !name.starts_with('.')
        && !name.ends_with('~')
        && !leftover.iter().any(|mark| name.contains(mark))
}

/// A line that matters for account management.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// Another configuration, in place.
    Include(String),
    /// A module.
    Module,
}

/// The lines about account management, by the grammar of `pam.d(5)`.
fn account_lines(text: &str) -> Vec<Line> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    joined.lines().filter_map(account_line).collect()
}

fn account_line(line: &str) -> Option<Line> {
    let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
    let kind = words.next()?;
    if kind.eq_ignore_ascii_case("@include") {
        return words.next().map(|name| Line::Include(base_name(name)));
    }
    if !kind.trim_start_matches('-').eq_ignore_ascii_case("account") {
        return None;
    }
    let control = words.next()?;
    if control.eq_ignore_ascii_case("include") || control.eq_ignore_ascii_case("substack") {
        return words.next().map(|name| Line::Include(base_name(name)));
    }
    Some(Line::Module)
}

fn base_name(name: &str) -> String {
    FOLDERS
        .iter()
        .find_map(|folder| name.strip_prefix(folder)?.strip_prefix('/'))
        .unwrap_or(name)
        .to_owned()
}

#[cfg(test)]
mod tests;
