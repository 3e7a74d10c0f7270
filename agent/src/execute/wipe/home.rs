//! Homes of systemd-homed: where the key of one is, and letting it go.
//!
//! Owns the reading of a user record and of the partition table in a home's file. The key itself is destroyed as that of
//! any volume or directory. A home without a key is refused: nothing is deleted by path.
//! Sources: systemd's documentation of user records and of its home directories (systemd.io/USER_RECORD,
//! systemd.io/HOME_DIRECTORY), org.freedesktop.home1(5), and the UEFI specification for the table.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use runtime::files::read_bounded;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::destroy::DestroyError;
use super::record::Target;
use super::survey;
use super::volume::{Access, Disk, Volume};
use crate::execute::lock::logind::Bus;
use crate::host::{Arming, Host};

/// Where homed keeps the records of its users.
const RECORDS: &str = "/var/lib/systemd/home";
/// Bytes of the longest record.
const RECORD_BYTES: usize = 1024 * 1024;
/// Bytes of sectors that tables are made for.
const SECTORS: [u64; 2] = [512, 4096];
/// Entries of a table.
const ENTRIES: u32 = 128;

/// One home of a selective wipe, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Home {
    /// Whose it is.
    pub(super) user: String,
    /// How it is kept: `luks` or `fscrypt`.
    storage: String,
    /// Where, as the endpoint names it.
    image: PathBuf,
}

/// Where the key of a home is.
#[derive(Debug)]
pub(super) enum KeyOf {
    /// A volume's.
    Volume(Box<Target>),
    /// That of the directory at this path.
    Directory(PathBuf),
}

/// Why the key of a home cannot be destroyed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HomeError {
    /// There is none that is known.
    #[error("has no home of systemd-homed that its record ({0}) binds to this machine: {1}")]
    NoRecord(String, String),
    /// There is no key.
    #[error(
        "has a home that is kept as `{0}`, which has no key of its own: convert it to `luks` (`homectl`), or name a volume or \
         directory that has one"
    )]
    NoKey(String),
    /// It is not what its record says.
    #[error("has a home whose file {path} {1}", path = .0.display())]
    File(PathBuf, String),
}

/// The part of a user record that is about one machine.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Binding {
    storage: Option<String>,
    image_path: Option<PathBuf>,
    luks_uuid: Option<String>,
}

/// The home of that user and where its key is, without touching it. `former` are volumes that an earlier wipe began with.
pub(super) fn find(
    disk: &dyn Disk,
    host: &Host,
    user: &str,
    former: &[Target],
) -> Result<(Home, KeyOf), HomeError> {
    let path = format!("{RECORDS}/{user}.identity");
    let no_record = |why: String| HomeError::NoRecord(path.clone(), why);
    let binding = binding(host, user).map_err(no_record)?;
    let storage = binding.storage.unwrap_or_default();
    let image = binding.image_path.ok_or_else(|| no_record("no image".to_owned()))?;
    let home = Home { user: user.to_owned(), storage, image };
    match home.storage.as_str() {
        "fscrypt" => {
            let directory = home.image.clone();
            Ok((home, KeyOf::Directory(directory)))
        }
        "luks" => {
            let uuid = binding.luks_uuid.unwrap_or_default();
            let target = volume(disk, host, &home, &uuid, former)
                .map_err(|why| HomeError::File(home.image.clone(), why))?;
            Ok((home, KeyOf::Volume(Box::new(target))))
        }
        other => Err(HomeError::NoKey(other.to_owned())),
    }
}

fn binding(host: &Host, user: &str) -> Result<Binding, String> {
    if user.is_empty() || user.starts_with('.') || user.contains('/') {
        return Err("is no name of a user".to_owned());
    }
    let machine = std::fs::read_to_string(host.path("/etc/machine-id"));
    let machine = machine.map_err(|error| format!("/etc/machine-id: {error}"))?;
    let path = host.path(format!("{RECORDS}/{user}.identity"));
    let bytes = read_bounded(&path, RECORD_BYTES).map_err(|error| error.to_string())?;
    let record: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if record.get("userName").and_then(Value::as_str) != Some(user) {
        return Err("is somebody else's".to_owned());
    }
    let binding = record.get("binding").and_then(|binding| binding.get(machine.trim()));
    let binding = binding.ok_or("names other machines")?;
    Binding::deserialize(binding).map_err(|error| error.to_string())
}

/// The LUKS volume in the file or on the device of a home: the whole of it, or the one partition that it has.
fn volume(
    disk: &dyn Disk,
    host: &Host,
    home: &Home,
    uuid: &str,
    former: &[Target],
) -> Result<Target, String> {
    let problem = |error: DestroyError| error.to_string();
    let root = host.root.canonicalize().map_err(|error| error.to_string())?;
    let path = host.path(&home.image).canonicalize().map_err(|error| error.to_string())?;
    if !path.starts_with(root) {
        return Err("leads out of this endpoint".to_owned());
    }
    let whole = disk.open(&path, Access::Read).map_err(|error| error.to_string())?;
    let part = partition(&*whole).map_err(|error| error.to_string())?;
    let target = survey::inspect(disk, &path, part.as_ref(), former).map_err(problem)?;
    if target.uuid.is_empty() || !target.uuid.eq_ignore_ascii_case(uuid) {
        return Err(format!("holds {}, and not {uuid} as its record says", target.uuid));
    }
    Ok(target)
}

/// Where the one partition of a table is; nothing where there is no table.
fn partition(volume: &dyn Volume) -> io::Result<Option<Range<u64>>> {
    for sector in SECTORS {
        let mut header = [0; 92];
        if volume.size() < 2 * sector {
            continue;
        }
        volume.read_at(&mut header, sector)?;
        if !header.starts_with(b"EFI PART") {
            continue;
        }
        let (first, count, size) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
        let strange = || io::Error::other("has a partition table that is not understood");
        if !(128..=4096).contains(&size) {
            return Err(strange());
        }
        let mut found = Vec::new();
        for number in 0..count.min(ENTRIES) {
            let table = first.checked_mul(sector);
            let at = table.and_then(|table| table.checked_add(u64::from(number * size)));
            let at = at.ok_or_else(strange)?;
            let mut entry = [0; 48];
            volume.read_at(&mut entry, at)?;
            if entry[..16] == [0; 16] {
                continue;
            }
            let start = u64_at(&entry, 32).checked_mul(sector).ok_or_else(strange)?;
            let last = u64_at(&entry, 40).checked_add(1).and_then(|end| end.checked_mul(sector));
            found.push(start..last.ok_or_else(strange)?);
        }
        return match found.as_slice() {
            [one] => Ok(Some(one.clone())),
            _ => Err(io::Error::other(format!("has {} partitions instead of one", found.len()))),
        };
    }
    Ok(None)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Home {
    /// What identifies it.
    pub(super) fn facts(&self) -> Value {
        json!({ "user": self.user, "storage": self.storage, "image": self.image })
    }

    /// What is done about it, for a person.
    pub(super) fn step(&self) -> String {
        let (user, image) = (&self.user, self.image.display());
        format!("{image}: end the sessions of {user}, and have systemd-homed deactivate that home")
    }

    /// Ends the sessions of its user and has homed let it go: best effort, its key goes all the same.
    pub(super) fn let_go(&self, host: &Host) {
        match host.arming {
            Arming::Armed | Arming::Sandboxed => {}
            Arming::Simulated => return,
        }
        let let_go = Bus::connect(host).and_then(|bus| {
            let Some(bus) = bus else { return Ok(()) };
            let (uid, state) = bus.home(&self.user)?;
            if is_down(&state) {
                return Ok(());
            }
            if let Err(error) = bus.terminate_user(uid) {
                tracing::warn!(user.id = uid, error = error.detail, "sessions may be left");
            }
            bus.deactivate_home(&self.user)
        });
        if let Err(error) = let_go {
            tracing::warn!(user = self.user, error = error.detail, "company's home stays active");
        }
    }

    /// Looks whether homed has let it go.
    pub(super) fn verify(&self, host: &Host) -> Result<Value, String> {
        let seen = Bus::connect(host).and_then(|bus| {
            bus.map(|bus| bus.home(&self.user).map(|(_, state)| state)).transpose()
        });
        let state = match seen {
            Ok(Some(state)) if !is_down(&state) => {
                return Err(format!("the home of {} is still {state}", self.user));
            }
            Ok(state) => state,
            // Nobody is there to be asked: what is open is seen by the volume or the directory itself.
            Err(error) => {
                tracing::warn!(error = error.detail, "homed was not asked");
                None
            }
        };
        let mut seen = self.facts();
        seen["state"] = json!(state);
        Ok(seen)
    }
}

/// Whether homed calls a home so that nobody has open: what it says of one whose file no longer opens among them.
fn is_down(state: &str) -> bool {
    matches!(state, "inactive" | "absent" | "dirty" | "unfixated")
}

/// The home of each of these users. What is wrong with one is said of all.
pub(super) fn all(
    disk: &dyn Disk,
    host: &Host,
    former: &[Target],
) -> Result<Vec<(Home, KeyOf)>, Vec<String>> {
    let (mut found, mut wrong): (Vec<(Home, KeyOf)>, Vec<String>) = (Vec::new(), Vec::new());
    for user in &host.company_homes {
        match find(disk, host, user, former) {
            Ok((home, _)) if found.iter().any(|(known, _)| *known == home) => {}
            Ok(home) => found.push(home),
            Err(error) => wrong.push(format!("{user} {error}")),
        }
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}
