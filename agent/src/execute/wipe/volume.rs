//! A volume as bytes: open, read, write, flush, release space. The only part of a wipe that
//! touches devices.
//!
//! Knows nothing of LUKS. It is a trait so that tests can cut the power at any write; there is
//! one implementation for machines.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drive::line::Line;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{AccessFlags, Whence, access, lseek};
use serde::{Deserialize, Serialize};

/// How data was taken away, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Erasure {
    /// The whole drive erased itself.
    Drive,
    /// The device erased it and every copy that it kept (BLKSECDISCARD).
    SecureDiscard,
    /// The device gave its space back and shows zeros (FALLOC_FL_PUNCH_HOLE).
    Unmapped,
    /// Zeros were written over it.
    Overwritten,
}

impl Erasure {
    /// The way as evidence names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drive => "drive",
            Self::SecureDiscard => "secure_discard",
            Self::Unmapped => "unmapped",
            Self::Overwritten => "overwritten",
        }
    }
}

/// What a volume is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looking only.
    Read,
    /// Destroying; every write reaches the medium before it returns.
    Write,
}

/// How long a device may take to show what it is: one that sleeps takes ten seconds or more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens volumes by path.
pub trait Disk: fmt::Debug + Send + Sync {
    /// The block device or regular file at that path.
    ///
    /// # Errors
    /// What the system says, or `InvalidInput` for anything that is neither.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>>;

    /// How long, from the first question, is waited for those that have not yet said what they are.
    fn patience(&self, _silent: &BTreeSet<PathBuf>) -> Duration {
        PATIENCE
    }

    /// The way to the whole drive at that path; `None` where nothing can be said to it.
    fn drive(&self, _path: &Path) -> Option<Arc<dyn Line>> {
        None
    }
}

/// Why nothing at that path can be written by this process, if so: the file system is read-only for it, as what its
/// unit does not list is. A device is not the file system's that its name is on.
pub(in crate::execute) fn hindrance(path: &Path) -> Option<String> {
    let is_read_only = access(path, AccessFlags::W_OK) == Err(Errno::EROFS);
    is_read_only.then(|| {
        "its file system is read-only for the agent (ReadWritePaths= of its unit)".to_owned()
    })
}

/// Whether somebody has the block device at that path for themselves: a file system that is mounted wherever, or that
/// somebody still uses after it was detached.
pub(in crate::execute) fn is_held(path: &Path) -> bool {
    let flags = OFlag::O_EXCL | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    opened.is_err_and(|error| error.raw_os_error() == Some(Errno::EBUSY as i32))
}

/// One open volume.
pub trait Volume: fmt::Debug {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fills the buffer from that offset.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` beyond the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all bytes at that offset.
    ///
    /// # Errors
    /// What the system says; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written durable, and drops caches so that reading asks the medium again.
    ///
    /// # Errors
    /// What the system says.
    fn flush(&self) -> io::Result<()>;

    /// The first part of the range that takes up space, if any does.
    ///
    /// # Errors
    /// What the system says.
    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>>;

    /// Has the device itself erase the range; `None` where it cannot, and nothing is changed.
    ///
    /// # Errors
    /// What the system says.
    fn discard(&self, range: Range<u64>) -> io::Result<Option<Erasure>>;

    /// Gives the space of the range back where the file system can; elsewhere does nothing.
    ///
    /// # Errors
    /// What the system says.
    fn release(&self, range: Range<u64>) -> io::Result<()>;
}

/// The disks of this machine.
#[derive(Debug, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemVolume {
    file: File,
    size: u64,
    is_file: bool,
}

impl Disk for SystemDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        let mut options = OpenOptions::new();
        // Opening a pipe or a terminal must neither block nor make it ours.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match access {
            Access::Read => options.read(true).custom_flags(flags.bits()),
            Access::Write => {
                options.read(true).write(true).custom_flags((flags | OFlag::O_SYNC).bits())
            }
        };
        let mut file = options.open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let text = "neither a block device nor a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Box::new(SystemVolume { file, size, is_file: kind.is_file() }))
    }

    fn drive(&self, path: &Path) -> Option<Arc<dyn Line>> {
        let is_device = path.metadata().is_ok_and(|found| found.file_type().is_block_device());
        let drive = drive::Kernel::open(path).ok().filter(|_| is_device)?;
        Some(Arc::new(drive))
    }
}

impl Volume for SystemVolume {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()?;
        // Length 0 means: to the end.
        Ok(posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        if !self.is_file {
            return Ok(Some(range).filter(|range| !range.is_empty()));
        }
        let seek = |from: u64, whence| {
            let from = i64::try_from(from).map_err(io::Error::other)?;
            match lseek(&self.file, from, whence) {
                Ok(at) => u64::try_from(at).map(Some).map_err(io::Error::other),
                // No data between there and the end.
                Err(Errno::ENXIO) => Ok(None),
                Err(error) => Err(io::Error::from(error)),
            }
        };
        let Some(start) = seek(range.start, Whence::SeekData)?.filter(|at| *at < range.end) else {
            return Ok(None);
        };
        let end = seek(start, Whence::SeekHole)?.unwrap_or(range.end).min(range.end);
        Ok(Some(start..end))
    }

    fn discard(&self, range: Range<u64>) -> io::Result<Option<Erasure>> {
        if self.is_file || range.is_empty() {
            return Ok(None);
        }
        if drive::discard_securely(&self.file, range.clone()).is_ok() {
            return Ok(Some(Erasure::SecureDiscard));
        }
        match self.punch(range) {
            Ok(()) => Ok(Some(Erasure::Unmapped)),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::EBUSY) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        if !self.is_file || range.is_empty() {
            return Ok(());
        }
        match self.punch(range) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl SystemVolume {
    /// fallocate(2) gives a file's space back; a block device unmaps it, and shows zeros or says
    /// that it cannot.
    fn punch(&self, range: Range<u64>) -> Result<(), Errno> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let start = i64::try_from(range.start).map_err(|_| Errno::EINVAL)?;
        let length = i64::try_from(range.end - range.start).map_err(|_| Errno::EINVAL)?;
        fallocate(&self.file, flags, start, length)
    }
}
