//! Destroys one volume step by step, and looks at what is left of it.
//!
//! Every step can be repeated after a power cut in its middle. The caller keeps the record; this
//! module only advances it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use protocol::receipt::FailureKind;
use runtime::Entropy;

use super::luks::{self, LayoutError};
use super::record::{Progress, Target};
use super::volume::{Access, Disk, Erasure, Volume};
use super::window::Window;
use crate::execute::{hex, sha256_hex};

/// Bytes that are written and read at a time.
const CHUNK: usize = 4 * 1024 * 1024;
/// Bytes that a device is asked to erase at a time.
const DISCARD: u64 = 1024 * 1024 * 1024;
/// Bytes of data between two saves of the progress.
const SAVE_EVERY: u64 = 256 * 1024 * 1024;
/// Places of a destroyed data area that proving looks at.
const SAMPLES: u64 = 64;
/// Bytes that it reads at each.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DestroyError {
    /// The volume could not be opened, read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its layout is not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Another volume is at this path now.
    #[error("is not the volume that was to be destroyed")]
    Stranger,
    /// The medium does not hold what was written to it.
    #[error("does not read back what was written over the {0}")]
    ReadBack(&'static str),
    /// What was taken for another way to it is another volume.
    #[error("is not what is seen at {}, which stays", .0.display())]
    Way(PathBuf),
    /// Something of the volume is left.
    #[error("still shows {0}")]
    Left(&'static str),
}

impl DestroyError {
    /// What a receipt calls it.
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            Self::Io(error) | Self::Layout(LayoutError::Io(error)) => kind_of(error),
            Self::Layout(LayoutError::NotLuks | LayoutError::Impossible(_)) | Self::Stranger => {
                FailureKind::Precondition
            }
            Self::ReadBack(_) | Self::Left(_) | Self::Way(_) => FailureKind::NotProven,
        }
    }
}

pub(super) fn kind_of(error: &io::Error) -> FailureKind {
    // A device that is read-only says so in three ways.
    let is_forbidden =
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    if is_forbidden {
        FailureKind::Permission
    } else if error.kind() == io::ErrorKind::TimedOut {
        FailureKind::Timeout
    } else {
        FailureKind::Io
    }
}

/// What is to be destroyed at that path, without touching it.
pub(super) fn inspect(
    disk: &dyn Disk,
    path: &Path,
    window: Option<&Range<u64>>,
) -> Result<Target, DestroyError> {
    let volume = open(disk, path, window, Access::Read)?;
    let layout = luks::layout(&*volume)?;
    let headers = layout.format.headers(layout.header_bytes);
    Ok(Target {
        path: path.to_owned(),
        window: window.cloned(),
        ways: Vec::new(),
        format: layout.format,
        uuid: layout.uuid,
        marker: hex(&Entropy::system().bytes::<32>()),
        header_bytes: layout.header_bytes,
        keyslots: layout.keyslots,
        headers_before_sha256: digest(&*volume, headers)?,
        headers_after_sha256: None,
        key_area: layout.key_area,
        key_area_sha256: None,
        data_done: layout.data.as_ref().map_or(0, |data| data.start),
        data: layout.data,
        erasure: None,
        progress: Progress::Pending,
    })
}

/// Whether the volume at the target's path is the target, whole or in any state of destruction.
pub(super) fn is_same(disk: &dyn Disk, target: &Target) -> Result<bool, DestroyError> {
    same_volume(&*open_target(disk, target, Access::Read)?, target)
}

/// Overwrites the whole keyslots area: from here on no passphrase opens the volume, not even with
/// a backup of its headers.
pub(super) fn keys(disk: &dyn Disk, target: &mut Target) -> Result<(), DestroyError> {
    let volume = open_same(disk, target)?;
    let mut written = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    for range in chunks(target.key_area.clone()) {
        let part = &mut chunk[..length(&range)];
        Entropy::system().fill(part);
        written.update(part);
        volume.write_at(part, range.start)?;
    }
    volume.flush()?;
    let written = hex(written.finish().as_ref());
    if digest(&*volume, target.key_area.clone())? != written {
        return Err(DestroyError::ReadBack("keyslots"));
    }
    target.key_area_sha256 = Some(written);
    target.progress = Progress::Keys;
    Ok(())
}

/// Overwrites the headers.
///
/// Their order keeps the volume recognisable at every instant: the sector that names it is
/// replaced by the sector that begins with the marker in one write, before the last copy of the
/// name goes.
pub(super) fn headers(disk: &dyn Disk, target: &mut Target) -> Result<(), DestroyError> {
    let volume = open_same(disk, target)?;
    let all = target.headers();
    let mut bytes = vec![0; length(&all)];
    Entropy::system().fill(&mut bytes);
    let marker = target.marker.as_bytes();
    bytes[..marker.len()].copy_from_slice(marker);
    for part in target.format.order(length(&(0..target.header_bytes))) {
        volume.write_at(&bytes[part.clone()], part.start as u64)?;
    }
    volume.flush()?;
    let written = sha256_hex(&bytes);
    if digest(&*volume, all)? != written {
        return Err(DestroyError::ReadBack("headers"));
    }
    target.headers_after_sha256 = Some(written);
    target.progress = Progress::Headers;
    Ok(())
}

/// What erasing has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// So far it is written.
    Written,
    /// So far it would stand after a power cut as well.
    Flushed,
}

/// Erases the data.
///
/// `note` is called from time to time with the target's progress.
pub(super) fn data(
    disk: &dyn Disk,
    target: &mut Target,
    mut note: impl FnMut(&Target, Reached),
) -> Result<(), DestroyError> {
    let volume = open_same(disk, target)?;
    let area = target.data.clone().unwrap_or(0..0);
    let mut erasing = Erasing { area, done: target.data_done, erasure: target.erasure };
    let erased = erasing.run(&*volume, &mut |erasing, reached| {
        (target.data_done, target.erasure) = (erasing.done, erasing.erasure);
        note(target, reached);
    });
    (target.data_done, target.erasure) = (erasing.done, erasing.erasure);
    erased?;
    target.progress = Progress::Data;
    Ok(())
}

/// A range that is being erased.
#[derive(Debug)]
pub(super) struct Erasing {
    /// The whole of it.
    pub(super) area: Range<u64>,
    /// Up to where it is.
    pub(super) done: u64,
    /// In which way, the weakest of several.
    pub(super) erasure: Option<Erasure>,
}

impl Erasing {
    /// Erases what is left: by the device itself where it can and shows zeros afterwards, else by
    /// zeros where the range takes up space, which is then given back.
    pub(super) fn run(
        &mut self,
        volume: &dyn Volume,
        note: &mut dyn FnMut(&Self, Reached),
    ) -> Result<(), DestroyError> {
        self.discard(volume, note)?;
        if self.done < self.area.end {
            self.overwrite(volume, note)?;
        }
        volume.flush()?;
        if verify_zero(volume, &self.area).is_err() {
            // A device may call data erased and show something else.
            self.done = self.area.start;
            self.overwrite(volume, note)?;
            volume.flush()?;
        }
        volume.release(self.area.clone())?;
        self.done = self.area.end;
        Ok(())
    }

    fn discard(
        &mut self,
        volume: &dyn Volume,
        note: &mut dyn FnMut(&Self, Reached),
    ) -> Result<(), DestroyError> {
        while self.done < self.area.end {
            let part = self.done..self.area.end.min(self.done.saturating_add(DISCARD));
            let Some(erasure) = volume.discard(part.clone())? else { return Ok(()) };
            self.done = part.end;
            self.erasure = self.erasure.max(Some(erasure));
            note(self, Reached::Flushed);
        }
        Ok(())
    }

    fn overwrite(
        &mut self,
        volume: &dyn Volume,
        note: &mut dyn FnMut(&Self, Reached),
    ) -> Result<(), DestroyError> {
        self.erasure = Some(Erasure::Overwritten);
        let zeros = vec![0; CHUNK];
        let mut saved = self.done;
        while let Some(found) = volume.next_allocated(self.done..self.area.end)? {
            for range in chunks(found) {
                volume.write_at(&zeros[..length(&range)], range.start)?;
                self.done = range.end;
                if self.done.saturating_sub(saved) >= SAVE_EVERY {
                    volume.flush()?;
                    saved = self.done;
                    note(self, Reached::Flushed);
                } else {
                    note(self, Reached::Written);
                }
            }
        }
        Ok(())
    }
}

/// Looks whether the volume is destroyed as far as its record says, and returns the digest of
/// where its headers were.
pub(super) fn verify(disk: &dyn Disk, target: &Target) -> Result<String, DestroyError> {
    let volume = open_target(disk, target, Access::Read)?;
    if !same_volume(&*volume, target)? {
        return Err(DestroyError::Stranger);
    }
    if luks::shows_header(&*volume)? {
        return Err(DestroyError::Left("a header"));
    }
    let after = digest(&*volume, target.headers())?;
    if after == target.headers_before_sha256 || Some(&after) != target.headers_after_sha256.as_ref()
    {
        return Err(DestroyError::ReadBack("headers"));
    }
    verify_keys(disk, target)?;
    if let (Some(area), Progress::Data) = (&target.data, target.progress) {
        verify_zero(&*volume, area)?;
    }
    for way in &target.ways {
        let there = Target { path: way.clone(), ways: Vec::new(), ..target.clone() };
        // What was read there before was kept.
        disk.open(way, Access::Read)?.flush()?;
        if verify(disk, &there).is_err() {
            return Err(DestroyError::Way(way.clone()));
        }
    }
    Ok(after)
}

/// Looks whether the keys of the volume are gone, whatever its headers show.
pub(super) fn verify_keys(disk: &dyn Disk, target: &Target) -> Result<(), DestroyError> {
    let volume = open_target(disk, target, Access::Read)?;
    if !same_volume(&*volume, target)? {
        return Err(DestroyError::Stranger);
    }
    let now = digest(&*volume, target.key_area.clone())?;
    let is_gone = Some(now) == target.key_area_sha256;
    if is_gone { Ok(()) } else { Err(DestroyError::ReadBack("keyslots")) }
}

/// Looks whether a volume is nowhere to be found that went with its drives. What shows there now is whatever a
/// drive shows that was erased; also nothing at all, and errors.
pub(super) fn verify_gone(disk: &dyn Disk, target: &Target) -> Result<(), DestroyError> {
    let Ok(volume) = open_target(disk, target, Access::Read) else { return Ok(()) };
    match luks::shows_header(&*volume) {
        Ok(true) => Err(DestroyError::Left("a header")),
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Reads evenly spread samples, the first and the last bytes of the area among them.
pub(super) fn verify_zero(volume: &dyn Volume, area: &Range<u64>) -> Result<(), DestroyError> {
    let sample = SAMPLE_BYTES.min(area.end - area.start);
    let last = area.end - sample;
    let step = ((last - area.start) / SAMPLES).max(1);
    let starts = (0..SAMPLES).map(|n| area.start + n * step).take_while(|start| *start < last);
    let mut bytes = vec![0; length(&(0..sample))];
    for start in starts.chain([last]) {
        volume.read_at(&mut bytes, start)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(DestroyError::Left("data"));
        }
    }
    Ok(())
}

/// The volume at that path, or that part of it.
fn open(
    disk: &dyn Disk,
    path: &Path,
    window: Option<&Range<u64>>,
    access: Access,
) -> io::Result<Box<dyn Volume>> {
    let volume = disk.open(path, access)?;
    match window {
        Some(part) => Ok(Box::new(Window::of(volume, part)?)),
        None => Ok(volume),
    }
}

fn open_target(disk: &dyn Disk, target: &Target, access: Access) -> io::Result<Box<dyn Volume>> {
    open(disk, &target.path, target.window.as_ref(), access)
}

fn open_same(disk: &dyn Disk, target: &Target) -> Result<Box<dyn Volume>, DestroyError> {
    let volume = open_target(disk, target, Access::Write)?;
    if same_volume(&*volume, target)? { Ok(volume) } else { Err(DestroyError::Stranger) }
}

fn same_volume(volume: &dyn Volume, target: &Target) -> Result<bool, DestroyError> {
    let end = target.data.as_ref().map_or(target.key_area.end, |data| data.end);
    if volume.size() < end {
        return Ok(false);
    }
    let mut start = vec![0; target.marker.len()];
    volume.read_at(&mut start, 0)?;
    let named = luks::claimed_uuid(volume, target.format, target.header_bytes)?;
    Ok(start == target.marker.as_bytes() || named.as_ref() == Some(&target.uuid))
}

/// SHA-256 of a range, in lowercase hexadecimal.
fn digest(volume: &dyn Volume, range: Range<u64>) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK];
    for part in chunks(range) {
        let bytes = &mut chunk[..length(&part)];
        volume.read_at(bytes, part.start)?;
        context.update(bytes);
    }
    Ok(hex(context.finish().as_ref()))
}

/// The range in parts of at most [`CHUNK`].
fn chunks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.step_by(CHUNK).map(move |start| start..end.min(start + CHUNK as u64))
}

/// The length of a range that fits into memory: at most a chunk or two headers.
fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("parts are at most 8 MiB long")
}
