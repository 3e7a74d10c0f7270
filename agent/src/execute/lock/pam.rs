//! The account gate in PAM: who may pass, in which files it must stand, and whether it does.
//!
//! The gate is a marked block at the top of a service's account stack. Everybody meets it: root,
//! directory users and holders of SSH keys included, because every service that lets somebody in
//! asks for account management, however it authenticated. This module decides what to write; it
//! never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::file::{self, FileError};
use crate::host::Host;

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
const TRACES: [&str; 3] =
    ["pam_succeed_if.so quiet user in ", "pam_echo.so file=/run/tocsin-lock.txt", "pam_deny.so"];

/// The text that a denied user reads, as the endpoint sees its path.
pub(super) const TEXT_PATH: &str = "/run/tocsin-lock.txt";

/// A file that must carry the gate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GateFile {
    /// Where the gate goes, as the endpoint sees it, symbolic links followed.
    pub(super) path: PathBuf,
    /// The vendor's file that `path` is going to hide, when `path` is not there yet.
    pub(super) vendor: Option<PathBuf>,
}

/// Whether a name can stand in the gate: the list there is separated by colons, and PAM's own
/// grammar knows blanks, brackets, backslashes and comments.
pub(super) fn is_gate_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-$@+".contains(&b);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}

/// The lines of the gate that lets `break_glass` pass and nobody else.
pub(super) fn gate(break_glass: &[String]) -> String {
    let names = break_glass.join(":");
    format!(
        "{BEGIN}\n\
         account [success=2 default=ignore] pam_succeed_if.so quiet user in {names}\n\
         account [default=ignore] pam_echo.so file={TEXT_PATH}\n\
         account requisite pam_deny.so\n\
         {END}\n"
    )
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
        text.starts_with("account ") && TRACES.iter().any(|trace| text.contains(trace))
    };
    let body = lines[1..].iter().take(TRACES.len()).take_while(|line| ours(line)).count();
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

/// The files that must carry the gate: those that services include, and every service whose
/// account stack does not begin with one of them.
pub(super) fn gate_files(host: &Host) -> Result<Vec<GateFile>, FileError> {
    let catalog = Catalog::read(host)?;
    let mut files = BTreeSet::new();
    for name in catalog.services.keys() {
        if COMMON.contains(&name.as_str()) || catalog.first_account(name, 0) == Entry::Open {
            files.insert(catalog.gate_file(host, name)?);
        }
    }
    Ok(files.into_iter().collect())
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
        match self.services.get(name) {
            Some(service) if !service.is_vendor => {
                Ok(GateFile { path: service.path.clone(), vendor: None })
            }
            Some(Service { path, .. }) => {
                let folder = file::resolve(host, Path::new(FOLDERS[0]))?;
                Ok(GateFile { path: folder.join(name), vendor: Some(path.clone()) })
            }
            None => Ok(GateFile { path: Path::new(FOLDERS[0]).join(name), vendor: None }),
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
