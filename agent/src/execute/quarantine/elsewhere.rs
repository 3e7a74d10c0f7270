//! Network namespaces beside the one that is cut, and which devices in them have a way of their own.
//!
//! Only looks, and enters none of them: the agent's unit may not. The kernel lists the devices of
//! another namespace to whoever has a number for it, and gives one to whoever holds it open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Serialize;

use super::links::{self, Device};
use super::netlink::{Attributes, NetlinkError, Notices, Socket, Subsystem, Value};
use crate::host::Host;

#[cfg(test)]
mod tests;

/// The kind of devices that nothing in software made.
const PHYSICAL: &str = "physical";
/// Where namespaces have names: those of `ip netns`, and of container engines.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Namespaces that are looked into.
const LOOKED_INTO: usize = 256;
/// Namespaces, and devices of each, that are told of.
const TOLD: usize = 32;

/// A namespace with devices that no quarantine here judges, or that lie on one that it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Elsewhere {
    /// Its name, or `net:[inode]` as `/proc` spells it.
    pub(super) namespace: String,
    /// Each device with its kind: `physical`, which no quarantine cuts there, or such as `macvlan`,
    /// which lies on a device of this namespace.
    pub(super) devices: BTreeMap<String, String>,
}

impl Elsewhere {
    /// A line for each device, for a person.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let Self { namespace, devices } = self;
        devices.iter().map(move |(device, kind)| match &**kind {
            PHYSICAL => format!("leave {device} in network namespace {namespace} as it is"),
            _ => {
                format!("cut {device} ({kind}) in network namespace {namespace} by what it lies on")
            }
        })
    }
}

/// What there is to tell of other namespaces.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Those with such devices, by name.
    pub(super) namespaces: Vec<Elsewhere>,
    /// How many nobody looked into: too many, or not to be looked into.
    pub(super) unseen: usize,
}

impl Told {
    /// A line about those, for a person.
    pub(super) fn step(&self) -> Option<String> {
        (self.unseen > 0)
            .then(|| format!("look into {} network namespaces no further", self.unseen))
    }
}

/// What there is to tell; nothing is known where nobody may look.
pub(super) fn told(host: &Host) -> Option<Told> {
    look(host)
        .inspect_err(|error| tracing::warn!(%error, "other network namespaces not looked for"))
        .ok()
}

fn look(host: &Host) -> Result<Told, NetlinkError> {
    let own = File::open("/proc/thread-self/ns/net").map_err(failed)?;
    let mut socket = Socket::open(Subsystem::Route, Notices::None)?;
    let (found, beyond) = namespaces(host, inode(&own).map_err(failed)?);
    let mut told = Told { namespaces: Vec::new(), unseen: beyond };
    for (name, file) in found {
        if told.namespaces.len() == TOLD {
            told.unseen += 1;
            continue;
        }
        match devices(&mut socket, &own, &file) {
            Ok(devices) if devices.is_empty() => {}
            Ok(devices) => told.namespaces.push(Elsewhere { namespace: name, devices }),
            Err(error) => {
                told.unseen += 1;
                tracing::warn!(name, %error, "network namespace not looked into");
            }
        }
    }
    told.namespaces.sort_unstable_by(|one, other| one.namespace.cmp(&other.namespace));
    Ok(told)
}

fn failed(error: io::Error) -> NetlinkError {
    NetlinkError::Failed(error.try_into().unwrap_or(nix::errno::Errno::EIO))
}

fn inode(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

/// All others that have a name or a process, held open, and how many more there are than are looked into.
fn namespaces(host: &Host, own: u64) -> (Vec<(String, File)>, usize) {
    let mut seen = BTreeSet::from([own]);
    let (mut found, mut beyond) = (Vec::new(), 0);
    let mut take = |path: &Path, name: Option<String>| {
        // Processes end while they are looked at, and what is not a namespace has no place here.
        let Ok(inode) = fs::metadata(path).map(|metadata| metadata.ino()) else { return };
        if seen.contains(&inode) {
            return;
        }
        match File::open(path) {
            // Another process may be of the same one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(file) if found.len() < LOOKED_INTO => {
                found.push((name.unwrap_or_else(|| format!("net:[{inode}]")), file));
            }
            Ok(_) | Err(_) => beyond += 1,
        }
        seen.insert(inode);
    };
    for folder in NAMED {
        for entry in fs::read_dir(host.path(folder)).into_iter().flatten().flatten() {
            take(&entry.path(), Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    for entry in fs::read_dir(host.path("/proc")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            take(&entry.path().join("ns/net"), None);
        }
    }
    (found, beyond)
}

/// Those with a way of their own, and those that lie on one of ours.
fn devices(
    socket: &mut Socket,
    own: &File,
    other: &File,
) -> Result<BTreeMap<String, String>, NetlinkError> {
    let mut devices = Vec::new();
    let number = number(socket, other)?;
    socket.dump_links_of(number, |link| devices.extend(links::found(&link)))?;
    // Only now it has a number, if one of them lies on a device of ours.
    let own = known_number(socket, own)?;
    let told = devices.into_iter().filter_map(|device| {
        let kind = as_told(&device, own)?;
        Some((device.name, kind))
    });
    Ok(told.take(TOLD).collect())
}

fn as_told(device: &Device, own: Option<i32>) -> Option<String> {
    match &device.kind {
        None => Some(PHYSICAL.to_owned()),
        // What it sends comes out of the other end, where it is judged.
        Some(kind) if kind == "veth" => None,
        Some(kind) => (own.is_some() && device.lies_in == own).then(|| kind.clone()),
    }
}

const NSID: u16 = 1;
const FD: u16 = 3;

/// The number of a namespace; it gets one if it has none.
fn number(socket: &mut Socket, file: &File) -> Result<i32, NetlinkError> {
    const NEW_NSID: u16 = 88;
    if let Some(number) = known_number(socket, file)? {
        return Ok(number);
    }
    let any = Value::default().raw(NSID, &(-1_i32).to_ne_bytes());
    socket.tell(NEW_NSID, &[&[0; 4][..], by_fd(any, file).bytes()].concat())?;
    known_number(socket, file)?.ok_or(NetlinkError::Garbled)
}

fn known_number(socket: &mut Socket, file: &File) -> Result<Option<i32>, NetlinkError> {
    const GET_NSID: u16 = 90;
    let answer =
        socket.ask(GET_NSID, &[&[0; 4][..], by_fd(Value::default(), file).bytes()].concat())?;
    let number = Attributes::new(answer.get(4..).unwrap_or_default()).get(NSID);
    let number = number.and_then(|bytes| bytes.first_chunk()).ok_or(NetlinkError::Garbled)?;
    Ok(Some(i32::from_ne_bytes(*number)).filter(|number| *number >= 0))
}

fn by_fd(value: Value, file: &File) -> Value {
    value.raw(FD, &file.as_raw_fd().to_ne_bytes())
}
