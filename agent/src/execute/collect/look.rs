//! The first look: what runs on the device, as its own files show it at that moment.
//!
//! Owns the sections, the most volatile first, and their bounds. Changes nothing, and runs no program of
//! the endpoint.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use protocol::advance::Advance;
use serde_json::{Value, json};

use crate::execute::course::Course;
use crate::execute::sha256_hex;
use crate::host::Host;

/// Bytes read for one section.
const READ_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of the whole document: twice base64url, beside the rest of a receipt.
pub(super) const DOCUMENT_BYTES: usize = 14 * 1024;
/// Characters of one line: a few must not fill a section.
const LINE_CHARS: usize = 512;
/// Characters kept of what a process calls itself by.
const COMMAND_CHARS: usize = 96;

/// Bytes that each section may take as JSON, the most volatile first.
pub(super) const SECTIONS: [(&str, usize); 7] = [
    ("processes", 6656),
    ("sockets", 3072),
    ("sessions", 768),
    ("modules", 768),
    ("mounts", 1024),
    ("accounts", 768),
    ("uptime", 128),
];

/// What the sections are, for everybody, and what they say, for the case.
pub(super) fn collect(host: &Host, patience: Duration, course: &Course) -> (Vec<Value>, Value) {
    let (mut manifest, mut document) = (Vec::new(), serde_json::Map::new());
    for (at, (name, most)) in SECTIONS.into_iter().enumerate() {
        course.tell(Advance::at(name).step(at + 1, SECTIONS.len()));
        let there = host.clone();
        let read = within(course.within(patience), move || lines(&there, name));
        let timed_out = read.is_none();
        let lines = read.unwrap_or_default();
        let whole = lines.join("\n");
        let shortened: Vec<String> = lines.iter().map(|line| short(line)).collect();
        let kept = fitting(&shortened, most);
        let kept_bytes: usize = kept.iter().map(|line| line.len() + 1).sum();
        manifest.push(json!({
            "name": name,
            "bytes": whole.len(),
            "sha256": sha256_hex(whole.as_bytes()),
            "kept": kept_bytes.saturating_sub(1),
            "timed_out": timed_out,
        }));
        document.insert(name.to_owned(), kept.into());
    }
    (manifest, document.into())
}

/// What came of work in that time; what takes longer is left behind, to end when it can.
fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, ended) = sync_channel(1);
    let spawned = thread::Builder::new().name("evidence".to_owned()).spawn(move || {
        // Whoever waited may have gone.
        let _ = done.send(work());
    });
    spawned.ok().and_then(|_| ended.recv_timeout(patience).ok())
}

/// What a section is made of.
fn lines(host: &Host, section: &str) -> Vec<String> {
    match section {
        "processes" => processes(host),
        "sockets" => {
            files(host, &["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"])
        }
        "sessions" => sessions(host),
        "modules" => files(host, &["/proc/modules"]),
        // Its own are those of a service.
        "mounts" => files(host, &["/proc/1/mounts"]),
        "accounts" => files(host, &["/etc/passwd"]),
        _ => files(host, &["/proc/uptime", "/proc/sys/kernel/random/boot_id"]),
    }
}

/// The lines that fit, the first first, as JSON spells them.
pub(super) fn fitting(lines: &[String], most: usize) -> Vec<String> {
    let mut left = most.saturating_sub("\"processes\":[],".len());
    let cost =
        |line: &String| serde_json::to_string(line).map_or(usize::MAX, |text| text.len() + 1);
    let fits = |line: &&String| match left.checked_sub(cost(line)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    lines.iter().filter(fits).cloned().collect()
}

/// A line that leaves room for others, whatever whoever made it had in mind.
pub(super) fn short(line: &str) -> String {
    line.chars().take(LINE_CHARS).collect()
}

/// The lines of those files, the spaces that only align them taken out.
fn files(host: &Host, paths: &[&str]) -> Vec<String> {
    let lines = paths.iter().flat_map(|path| {
        match read(host, path) {
            Ok(text) => text.lines().map(squeezed).collect::<Vec<_>>(),
            // What is not there is as much of a finding as what is.
            Err(error) => vec![format!("{path}: {error}")],
        }
    });
    lines.collect()
}

/// Who is logged in, as the login manager writes it down: user, seat, remote host.
fn sessions(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.path("/run/systemd/sessions")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".ref")).collect();
    names.sort();
    let told = ["USER=", "REMOTE_HOST=", "TTY=", "SERVICE=", "REALTIME="];
    let line = |name: &String| {
        let text = match read(host, &format!("/run/systemd/sessions/{name}")) {
            Ok(text) => text,
            Err(error) => return format!("{name}: {error}"),
        };
        let said = text.lines().filter(|line| told.iter().any(|word| line.starts_with(word)));
        format!("{name} {}", said.collect::<Vec<_>>().join(" "))
    };
    names.iter().map(line).collect()
}

/// One line per process, the youngest first: id, parent, user, start (ticks after the boot), program
/// (a deleted one says so), command line. Threads of the kernel, which have no program, come last.
fn processes(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.path("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<(bool, u64, String)> = pids.filter_map(|pid| process(host, pid)).collect();
    found.sort_by_key(|(is_kernel, start, _)| (*is_kernel, u64::MAX - start));
    found.into_iter().map(|(_, _, line)| line).collect()
}

/// Source: proc_pid_stat(5).
fn process(host: &Host, pid: u32) -> Option<(bool, u64, String)> {
    // One that has ended meanwhile is none.
    let stat = read(host, &format!("/proc/{pid}/stat")).ok()?;
    let (begin, fields) = stat.rsplit_once(')')?;
    let name = begin.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let (parent, start) = (fields.get(1)?, fields.get(19)?.parse().ok()?);
    let status = read(host, &format!("/proc/{pid}/status")).unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = uid.and_then(|uids| uids.split_whitespace().next()).unwrap_or("?");
    let program = fs::read_link(host.path(format!("/proc/{pid}/exe")));
    let program = program.map(|path| path.to_string_lossy().into_owned()).ok();
    let command = match read(host, &format!("/proc/{pid}/cmdline")) {
        Ok(command) => command.replace('\0', " "),
        Err(error) => error.to_string(),
    };
    let command: String = command.trim().chars().take(COMMAND_CHARS).collect();
    let shown = program.clone().unwrap_or(format!("[{name}]"));
    Some((
        program.is_none() && command.is_empty(),
        start,
        format!("{pid} {parent} {uid} {start} {shown} {command}"),
    ))
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(host: &Host, path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(host.path(path))?.take(READ_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
