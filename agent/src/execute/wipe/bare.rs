//! What has no keys that could be destroyed, and so is erased as a whole: swap, and file systems that nothing encrypts.
//!
//! Owns what becomes of it, from the look before to the evidence. Which of it goes is decided elsewhere.
//!
//! Let go first, so that nobody writes behind the eraser, as far as that goes. Swap with a random key has nothing on
//! disk that could be destroyed: its key is in the kernel's memory and goes with the power, which nobody can observe
//! afterwards. Source: swapon(8), umount(8), and mkswap(8) for the signature at the end of the first page.

use std::path::{Path, PathBuf};

use protocol::grade::Grade;
use runtime::Entropy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::destroy::{DestroyError, Erasing, Reached, verify_zero};
use super::place::Place;
use super::volume::{Access, Disk, Erasure, Volume};
use super::{file_system, graph, network};
use crate::execute::course::patience;
use crate::execute::hex;
use crate::execute::tool::Tool;
use crate::host::{Arming, Host};

#[cfg(test)]
mod tests;

/// The signature, and where it stands for the page sizes of Linux.
const SIGNATURE: &[u8] = b"SWAPSPACE2";
const PAGES: [u64; 3] = [4096, 16 * 1024, 64 * 1024];
/// Bytes at the beginning that show whether something was erased, and of the parts of them that a drive writes whole or not
/// at all.
const BEGINNING: usize = 4096;
const SECTOR: usize = 512;
const STAGE: &str = "finish";

/// How data that lies on no LUKS volume is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BareKind {
    /// Swap that is encrypted with a key that only the kernel's memory holds: it goes with the power.
    RandomKey,
    /// Swap that is not encrypted.
    Plain,
    /// A file system that is not encrypted.
    FileSystem,
}

/// Swap or a file system that lies on no LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bare {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What tells it from others that may have its name in another boot; `None`: its name alone.
    #[serde(default)]
    pub(super) place: Option<Place>,
    /// What it is, and so how it is kept.
    pub(super) kind: BareKind,
    /// Which file system it is, by its own word; `None` for swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uuid: Option<String>,
    /// Its size.
    pub(super) bytes: u64,
    /// Up to where it is erased; nothing of it is while it still names itself.
    pub(super) done: u64,
    /// In which way, the weakest of several.
    pub(super) erasure: Option<Erasure>,
    /// What a file system begins with from before its first byte goes until that is zero: a power cut may come in the
    /// middle of any write, and what is left must not be taken for a stranger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) marker: Option<String>,
}

impl Bare {
    /// Whether nothing is left to be done: a key in memory goes with the power.
    pub(super) fn is_done(&self) -> bool {
        match self.kind {
            BareKind::RandomKey => true,
            BareKind::Plain | BareKind::FileSystem => self.done >= self.bytes,
        }
    }

    /// Whether it is a file system.
    pub(super) fn is_file_system(&self) -> bool {
        self.kind == BareKind::FileSystem
    }

    /// What will be done, for a person.
    pub(super) fn step(&self) -> String {
        let (path, bytes) = (self.path.display(), self.bytes);
        match self.kind {
            BareKind::RandomKey => {
                format!("{path}: nothing, its key is in memory only and goes with the power")
            }
            BareKind::Plain => format!("{path}: swap off, erase {bytes} bytes"),
            BareKind::FileSystem => {
                let uuid = self.uuid.as_deref().unwrap_or_default();
                format!("{path} ({uuid}, not encrypted): unmount, erase {bytes} bytes")
            }
        }
    }

    /// What identifies it, for programs.
    pub(super) fn facts(&self) -> Value {
        match self.kind {
            BareKind::RandomKey | BareKind::Plain => {
                json!({ "path": self.path, "kind": self.kind })
            }
            BareKind::FileSystem => {
                json!({ "path": self.path, "uuid": self.uuid, "bytes": self.bytes })
            }
        }
    }

    /// What became of it. Of what is still `open` nothing is certain: it may be written to at any moment.
    pub(super) fn observed(&self, is_open: bool) -> Value {
        let grade = match self.kind {
            // Nobody can look into the kernel's memory after the power is gone.
            BareKind::RandomKey => Grade::Presumed,
            BareKind::Plain | BareKind::FileSystem if self.is_done() && !is_open => {
                Grade::ProvenMedia
            }
            BareKind::Plain | BareKind::FileSystem => Grade::Unproven,
        };
        let Self { path, kind, uuid, erasure, .. } = self;
        let mut observed =
            json!({ "path": path, "kind": kind, "grade": grade, "erasure": erasure });
        if let Some(uuid) = uuid {
            observed["uuid"] = json!(uuid);
        }
        observed
    }
}

/// What is to be done about the swap or the file system at that path. One that nobody could tell from another is
/// `Stranger`.
pub(super) fn inspect(
    disk: &dyn Disk,
    host: &Host,
    path: &Path,
    kind: BareKind,
) -> Result<Bare, DestroyError> {
    let volume = disk.open(path, Access::Read)?;
    let uuid = match kind {
        BareKind::Plain if !is_swap(&*volume)? => return Err(DestroyError::Stranger),
        BareKind::Plain | BareKind::RandomKey => None,
        BareKind::FileSystem => Some(file_system::uuid(&*volume)?.ok_or(DestroyError::Stranger)?),
    };
    let (path, place, bytes) = (path.to_owned(), Place::of(disk, host, path), volume.size());
    Ok(Bare { path, place, kind, uuid, bytes, done: 0, erasure: None, marker: None })
}

/// Whether what is at that path is it, as far as the place tells.
pub(super) fn is_at(disk: &dyn Disk, host: &Host, bare: &Bare, path: &Path) -> bool {
    bare.place.is_none() || bare.place == Place::of(disk, host, path)
}

/// Has the kernel let go of it. A sandbox has no swap of its own. What the kernel cannot take back into memory, and what
/// the running system lies on, stays in use, and is erased all the same: the machine goes down.
pub(super) fn let_go(host: &Host, bare: &Bare) {
    match bare.kind {
        BareKind::RandomKey | BareKind::Plain => switch_off(host, bare),
        BareKind::FileSystem if graph::carry_system(host, std::slice::from_ref(&bare.path)) => {}
        BareKind::FileSystem => network::let_go(host, &graph::places(host, &bare.path)),
    }
}

fn switch_off(host: &Host, bare: &Bare) {
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return,
    }
    let off = Tool::find("swapoff", STAGE).and_then(|tool| {
        let tool = tool.args([&bare.path]).budget(patience::SWAP_OFF);
        tool.during(&host.course).run_ok(STAGE)
    });
    if let Err(error) = off {
        tracing::warn!(error = error.detail, "swap was not switched off");
    }
}

/// Erases it. `note` is called from time to time.
pub(super) fn erase(
    disk: &dyn Disk,
    host: &Host,
    bare: &mut Bare,
    mut note: impl FnMut(&Bare, u64, Reached),
) -> Result<(), DestroyError> {
    let volume = disk.open(&bare.path, Access::Write)?;
    let is_there = volume.size() == bare.bytes && is_at(disk, host, bare, &bare.path);
    if !is_there || !is_same(&*volume, bare)? {
        return Err(DestroyError::Stranger);
    }
    // From the first byte on it no longer says what it is.
    bare.done = bare.done.max(1);
    if bare.is_file_system() && bare.marker.is_none() {
        bare.marker = Some(hex(&Entropy::system().bytes::<32>()));
    }
    note(bare, 0, Reached::Flushed);
    if let Some(marker) = &bare.marker {
        volume.write_at(&marked(marker), 0)?;
        volume.flush()?;
    }
    let mut erasing = Erasing { area: 0..bare.bytes, done: 0, erasure: bare.erasure };
    let erased = erasing.run(&*volume, &mut |erasing, reached| {
        bare.erasure = erasing.erasure;
        note(bare, erasing.done, reached);
    });
    bare.erasure = erasing.erasure;
    erased?;
    bare.done = bare.bytes;
    Ok(())
}

/// Whether it is what was looked at, whole or as a beginning of erasing left it.
fn is_same(volume: &dyn Volume, bare: &Bare) -> Result<bool, DestroyError> {
    match bare.kind {
        BareKind::Plain | BareKind::RandomKey => Ok(bare.done > 0 || is_swap(volume)?),
        // Some kinds begin with as many zeros as one that is being erased.
        BareKind::FileSystem => match file_system::uuid(volume)? {
            Some(uuid) if Some(&uuid) == bare.uuid.as_ref() => Ok(true),
            Some(_) => shows_marker(volume, bare),
            None => {
                Ok(bare.done > 0 && (begins_with_zeros(volume)? || shows_marker(volume, bare)?))
            }
        },
    }
}

fn begins_with_zeros(volume: &dyn Volume) -> Result<bool, DestroyError> {
    let mut found = [0; BEGINNING];
    volume.read_at(&mut found, 0)?;
    Ok(found == [0; BEGINNING])
}

/// Whether a part of the beginning is its marker still, or already.
fn shows_marker(volume: &dyn Volume, bare: &Bare) -> Result<bool, DestroyError> {
    let Some(marker) = &bare.marker else { return Ok(false) };
    let mut found = [0; BEGINNING];
    volume.read_at(&mut found, 0)?;
    let sector = &marked(marker)[..SECTOR];
    Ok(found.chunks(SECTOR).any(|part| part == sector))
}

/// A beginning that shows that marker in each of its sectors.
fn marked(marker: &str) -> Vec<u8> {
    marker.bytes().cycle().take(BEGINNING).collect()
}

/// Whether nothing is left of it as far as its record says.
pub(super) fn verify(disk: &dyn Disk, bare: &Bare) -> Result<(), DestroyError> {
    match bare.kind {
        BareKind::Plain | BareKind::FileSystem if bare.is_done() => {
            verify_zero(&*disk.open(&bare.path, Access::Read)?, &(0..bare.bytes))
        }
        BareKind::Plain | BareKind::FileSystem | BareKind::RandomKey => Ok(()),
    }
}

fn is_swap(volume: &dyn Volume) -> Result<bool, DestroyError> {
    for page in PAGES {
        let mut found = [0; SIGNATURE.len()];
        if volume.size() < page {
            break;
        }
        volume.read_at(&mut found, page - SIGNATURE.len() as u64)?;
        if found == SIGNATURE {
            return Ok(true);
        }
    }
    Ok(false)
}
