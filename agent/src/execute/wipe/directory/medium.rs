//! Where the bytes of a small file lie on the device that its file system is on, and what is there now: read from the
//! device itself, past every cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use drive::file::{self, Extent};
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

use crate::execute::sha256_hex;
use crate::execute::wipe::network::unescaped;
use crate::host::Host;

/// What devices read at a time, and where that begins.
const BLOCK: usize = 4096;

/// A run of bytes on a device, and what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The device, as the kernel counts it.
    device: u64,
    physical: Range<u64>,
    /// From where in the stored key.
    from: usize,
    before_sha256: String,
    #[serde(default)]
    after_sha256: Option<String>,
}

/// Where on the device that content of a file is seen: nowhere, unless all of it is.
pub(super) fn runs(host: &Host, file: &File, content: &[u8]) -> Vec<Run> {
    let Ok(device) = file.metadata().map(|found| found.dev()) else { return Vec::new() };
    let extents = file::extents(file).ok().flatten().unwrap_or_default();
    let found: Option<Vec<_>> = extents.iter().map(|of| part(host, device, of, content)).collect();
    let found = found.unwrap_or_default();
    let seen: u64 = found.iter().map(|run| run.physical.end - run.physical.start).sum();
    if seen == content.len() as u64 { found } else { Vec::new() }
}

/// The part of the content that this extent of a file has.
fn part(host: &Host, device: u64, extent: &Extent, content: &[u8]) -> Option<Run> {
    let from = usize::try_from(extent.logical).ok()?;
    let length = usize::try_from(extent.physical.end - extent.physical.start).ok()?;
    let end = from.checked_add(length)?.min(content.len());
    let bytes = content.get(from..end)?;
    let physical = extent.physical.start..extent.physical.start + bytes.len() as u64;
    let is_seen = read(host, device, &physical).ok()? == bytes;
    let before_sha256 = sha256_hex(bytes);
    is_seen.then_some(Run { device, physical, from, before_sha256, after_sha256: None })
}

impl Run {
    /// From now on that content is expected in its place.
    pub(super) fn expect(&mut self, content: &[u8]) {
        let length = usize::try_from(self.physical.end - self.physical.start).unwrap_or(0);
        let part = content.get(self.from..self.from.saturating_add(length));
        self.after_sha256 = part.map(sha256_hex);
    }

    /// The digest of what is there now; nothing where the device cannot be read.
    pub(super) fn look(&self, host: &Host) -> Option<String> {
        read(host, self.device, &self.physical).ok().map(|bytes| sha256_hex(&bytes))
    }

    pub(super) fn is_before(&self, digest: &str) -> bool {
        self.before_sha256 == digest
    }

    pub(super) fn is_after(&self, digest: &str) -> bool {
        self.after_sha256.as_deref() == Some(digest)
    }
}

/// Reads a few bytes of a block device past the cache.
fn read(host: &Host, device: u64, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let name = format!("/dev/block/{}:{}", major(device), minor(device));
    let flags = OFlag::O_DIRECT | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(host.path(name))?;
    let found = file.metadata()?;
    if !found.file_type().is_block_device() || found.rdev() != device {
        return Err(io::Error::other("is another device"));
    }
    let block = BLOCK as u64;
    let start = range.start / block * block;
    let aligned =
        usize::try_from(range.end.next_multiple_of(block) - start).map_err(io::Error::other)?;
    let mut room = vec![0; aligned + BLOCK];
    let skip = room.as_ptr().align_offset(BLOCK);
    let buffer = room.get_mut(skip..skip + aligned).ok_or_else(|| io::Error::other("no room"))?;
    file.read_exact_at(buffer, start)?;
    let from = usize::try_from(range.start - start).map_err(io::Error::other)?;
    let to = usize::try_from(range.end - start).map_err(io::Error::other)?;
    Ok(buffer.get(from..to).unwrap_or_default().to_vec())
}

/// Where the file system on that device is mounted, whole or in part.
pub(super) fn mounts(host: &Host, device: u64) -> Vec<PathBuf> {
    let mounts = fs::read_to_string(host.path("/proc/self/mountinfo")).unwrap_or_default();
    let number = format!("{}:{}", major(device), minor(device));
    let places = mounts.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(' ').take(5).collect();
        let [_, _, of, _, place] = fields.as_slice() else { return None };
        (**of == *number).then(|| Path::new(&unescaped(place)).to_owned())
    });
    places.collect()
}
