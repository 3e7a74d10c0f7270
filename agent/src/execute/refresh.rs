//! Reads the inventory: what the device is, as far as its own files say.
//!
//! Changes nothing. Every text comes from files that a hostile user of the device may have
//! written, so each one is bounded and stripped of what would not print as it reads.
//!
//! Evidence: `hostname`, `kernel`, `os`, `agent_version`, `uptime_secs`, and `volumes`, what a wipe would find: a list
//! of `{path, encrypted, destroyable}`, where the last says whether a wipe destroys its keys, with `uuid` where there
//! are keys, and `why` where they stay; what cannot be read, or does not answer, is `null`. `volumes_unnamed` is how
//! many more there are, if any.

use std::fs::File;
use std::io::Read as _;

use protocol::action::is_printable;
use protocol::limits;
use protocol::receipt::{Evidence, Failure};
use serde_json::Value;

use super::{Executor, Plan, Recovery, Task, wipe};
use crate::host::Host;

#[cfg(test)]
mod tests;

/// Bytes read of any one file.
const FILE_BYTES: u64 = 8 * 1024;
/// Characters kept of any one text.
const TEXT_CHARS: usize = 128;

/// The executor of `refresh`.
#[derive(Debug, Default)]
pub struct Refresh;

impl Executor for Refresh {
    fn plan(&self, _host: &Host, _task: &Task) -> Result<Plan, Failure> {
        let steps = vec!["read the inventory and send it".to_owned()];
        Ok(Plan { steps, facts: Evidence::new() })
    }

    fn apply(&self, _host: &Host, _task: &Task) -> Result<(), Failure> {
        Ok(())
    }

    fn prove(&self, host: &Host, _task: &Task) -> Result<Evidence, Failure> {
        Ok(inventory(host))
    }

    fn recover(&self, _host: &Host, _task: &Task) -> Recovery {
        Recovery::Apply
    }
}

/// What the device is, as evidence.
pub fn inventory(host: &Host) -> Evidence {
    let hostname = text(host, "/etc/hostname").or_else(|| text(host, "/proc/sys/kernel/hostname"));
    let os = text(host, "/etc/os-release").or_else(|| text(host, "/usr/lib/os-release"));
    let uptime = text(host, "/proc/uptime").as_deref().and_then(uptime_secs);
    let mut volumes: Vec<Value> = wipe::inventory(host).into_iter().map(shown).collect();
    let unnamed = volumes.len().saturating_sub(limits::LIST_ENTRIES);
    volumes.truncate(limits::LIST_ENTRIES);
    let evidence = Evidence::new()
        .with("hostname", hostname.as_deref().map(printable))
        .with("kernel", text(host, "/proc/sys/kernel/osrelease").as_deref().map(printable))
        .with("os", os.as_deref().and_then(pretty_name))
        .with("agent_version", env!("CARGO_PKG_VERSION"))
        .with("uptime_secs", uptime)
        .with("volumes", volumes);
    if unnamed > 0 { evidence.with("volumes_unnamed", unnamed) } else { evidence }
}

/// The first bytes of a file of the endpoint, as text.
fn text(host: &Host, path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(host.path(path)).ok()?.take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text as it may be shown: one trimmed line, bounded, without hidden characters.
fn printable(text: &str) -> String {
    let mut buffer = [0; 4];
    let shown = |c: &char| is_printable(c.encode_utf8(&mut buffer));
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().filter(shown).take(TEXT_CHARS).collect()
}

/// `PRETTY_NAME` of os-release(5), without its quotes.
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    Some(printable(value.trim_matches(|c| c == '"' || c == '\'')))
}

/// Whole seconds since boot, the first number of `/proc/uptime`.
fn uptime_secs(uptime: &str) -> Option<u64> {
    uptime.split(['.', ' ']).next()?.parse().ok()
}

/// A volume whose texts may be shown.
fn shown(mut volume: Value) -> Value {
    for text in ["path", "uuid"] {
        let printable = volume[text].as_str().map(printable);
        printable.into_iter().for_each(|printable| volume[text] = printable.into());
    }
    volume
}
