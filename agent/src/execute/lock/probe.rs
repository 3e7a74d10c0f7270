//! What the endpoint itself says about a lock: account management asked through the real libpam,
//! and known ways around PAM. Observes only.

use std::path::Path;

use protocol::receipt::{Failure, FailureKind};
use serde_json::{Map, Value};

use super::accounts::{self, Account};
use super::file::{self, FileError};
use super::state::LockState;
use super::{pam, room};
use crate::execute::failure;
use crate::execute::tool::Tool;
use crate::host::Host;

/// The program that asks libpam, where it is installed.
pub(super) const PAMTESTER: &str = "/usr/bin/pamtester";
/// The services that let people in. Those which exist are asked.
const SERVICES: [&str; 10] = [
    "login",
    "sshd",
    "su",
    "sudo",
    "gdm-password",
    "lightdm",
    "sddm",
    "cron",
    "systemd-user",
    "other",
];
/// The program that asks the name service, of which a directory is a part.
const GETENT: &str = "/usr/bin/getent";
/// How many users of a directory are asked about.
const STRANGERS: usize = 3;
/// Stands for every user that the local account database does not know, where none can be found.
const UNKNOWN_USER: &str = "tocsin-unknown-user";
const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";

/// What libpam answered.
#[derive(Debug)]
pub(super) struct Answers {
    /// Service → user → `permitted` or `denied`; `None` when nobody can ask here.
    pub(super) table: Option<Map<String, Value>>,
    /// Users that should be denied and are not, as `user at service`.
    pub(super) wrongly_permitted: Vec<String>,
    /// Break-glass accounts that are denied, as `user at service`.
    pub(super) wrongly_denied: Vec<String>,
}

/// Asks libpam for every class of users: root, a local user, users of a directory (an invented one
/// where there are none), and each break-glass account.
pub(super) fn ask(
    host: &Host,
    accounts: &[Account],
    state: &LockState,
) -> Result<Answers, Failure> {
    let break_glass = &state.break_glass;
    let mut answers =
        Answers { table: None, wrongly_permitted: Vec::new(), wrongly_denied: Vec::new() };
    let at = |error: FileError| error.at("pam_probe");
    let program = file::resolve(host, Path::new(PAMTESTER)).map_err(at)?;
    if !host.path(program).is_file() {
        return Ok(answers);
    }
    let is_person = |account: &&Account| {
        (1000..60_000).contains(&account.uid) && !break_glass.contains(&account.name)
    };
    let local = accounts.iter().find(is_person).map(|account| account.name.as_str());
    let strangers = strangers(host, accounts, &state.strangers);
    let locked: Vec<&str> = ["root"]
        .into_iter()
        .chain(local)
        .chain(strangers.iter().map(String::as_str))
        .filter(|user| break_glass.iter().all(|kept| kept != user))
        .collect();
    let known = pam::services(host).map_err(at)?;
    let mut table = Map::new();
    for service in SERVICES.into_iter().filter(|name| known.iter().any(|known| known == name)) {
        let mut row = Map::new();
        for user in locked.iter().copied().chain(break_glass.iter().map(String::as_str)) {
            let is_permitted = is_permitted(host, service, user)?;
            let is_kept = break_glass.iter().any(|kept| kept == user);
            match (is_permitted, is_kept) {
                (true, false) => answers.wrongly_permitted.push(format!("{user} at {service}")),
                (false, true) => answers.wrongly_denied.push(format!("{user} at {service}")),
                (true, true) | (false, false) => {}
            }
            let word = if is_permitted { "permitted" } else { "denied" };
            row.insert(user.to_owned(), word.into());
        }
        table.insert(service.to_owned(), row.into());
    }
    answers.table = Some(table);
    Ok(answers)
}

/// Users whom only the name service knows: those who were seen on the device, then those whom a
/// directory lists. A directory that is out of reach lists nobody, and holds nothing up for long.
fn strangers(host: &Host, accounts: &[Account], seen: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let seen = if seen.is_empty() { Vec::new() } else { known_to_the_name_service(host, seen) };
    let listed = known_to_the_name_service(host, &[]);
    for account in seen.into_iter().chain(listed) {
        let is_local = accounts.iter().any(|local| local.name == account.name);
        let is_new = found.len() < STRANGERS && !found.contains(&account.name);
        if is_new && !is_local && room::is_person(account.uid) {
            found.push(account.name);
        }
    }
    if found.is_empty() {
        found.push(UNKNOWN_USER.to_owned());
    }
    found
}

/// What `getent passwd` says of those names and uids; without any, whom it lists.
fn known_to_the_name_service(host: &Host, keys: &[String]) -> Vec<Account> {
    let tool = inside(host, GETENT).map(|tool| tool.args(["passwd"]).args(keys));
    match tool.and_then(|tool| tool.during(&host.course).run("pam_probe")) {
        // It also says so by its status when it does not know one of several.
        Ok(output) => accounts::parse_passwd(&output.stdout),
        Err(failure) => {
            tracing::warn!(detail = failure.detail, "name service not asked");
            Vec::new()
        }
    }
}

/// A program of the endpoint.
fn inside(host: &Host, program: &str) -> Result<Tool, Failure> {
    if host.root == Path::new("/") {
        return Ok(Tool::at(program));
    }
    Ok(Tool::find("chroot", "pam_probe")?.args([host.root.as_os_str(), program.as_ref()]))
}

fn is_permitted(host: &Host, service: &str, user: &str) -> Result<bool, Failure> {
    let tool = inside(host, PAMTESTER)?;
    let tool = tool.args([service, user, "acct_mgmt"]).during(&host.course);
    let output = tool.run("pam_probe")?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        Some(_) | None => {
            let detail = format!("{PAMTESTER} for {user} at {service}: {}", output.status);
            Err(failure(FailureKind::Tool, "pam_probe", detail))
        }
    }
}

/// Known ways around the gate on this host, for a person.
pub(super) fn gaps(host: &Host) -> Result<Vec<String>, FileError> {
    let mut gaps = Vec::new();
    if let Some(config) = file::find(&host.path(file::resolve(host, Path::new(SSHD_CONFIG))?))? {
        let text = String::from_utf8_lossy(&config.bytes).into_owned();
        if use_pam(host, &text, 0)? != Some(true) {
            gaps.push("sshd: UsePAM is not `yes`, so users of a directory are not held".to_owned());
        }
    }
    Ok(gaps)
}

/// The first `UsePAM` of a configuration: the one that counts (`sshd_config(5)`).
fn use_pam(host: &Host, text: &str, depth: usize) -> Result<Option<bool>, FileError> {
    for line in text.lines() {
        let line = line.trim_start().replace('=', " ");
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next().map(str::to_ascii_lowercase) else { continue };
        match keyword.as_str() {
            "usepam" => {
                return Ok(words.next().map(|value| value.eq_ignore_ascii_case("yes")));
            }
            // Values below apply to some connections only, and UsePAM cannot be among them.
            "match" => return Ok(None),
            "include" if depth < 8 => {
                for pattern in words {
                    let included = include(host, pattern)?;
                    if let Some(found) = use_pam(host, &included, depth + 1)? {
                        return Ok(Some(found));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

/// The text of the files that an `Include` names: one file, or `folder/*.suffix`.
fn include(host: &Host, pattern: &str) -> Result<String, FileError> {
    let pattern = Path::new("/etc/ssh").join(pattern);
    let folder = pattern.parent().unwrap_or(Path::new("/"));
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = host.path(file::resolve(host, folder)?);
    let mut text = String::new();
    let wanted = |candidate: &String| match name.split_once('*') {
        Some((start, end)) => candidate.starts_with(start) && candidate.ends_with(end),
        None => candidate == name,
    };
    for name in file::names(&folder)?.iter().filter(|name| wanted(name)) {
        if let Some(found) = file::find(&folder.join(name))? {
            text.push_str(&String::from_utf8_lossy(&found.bytes));
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
