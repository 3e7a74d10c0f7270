//! A disk that fails: the power is cut, or every further operation is answered with an error.

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::execute::wipe::Wipe;
use agent::execute::wipe::volume::{Access, Disk, Erasure, SystemDisk, Volume};
use agent::host::Host;
use protocol::action::{self, WipeLevel};

use crate::scene::carry_out;
use crate::support::host::task;

/// What happens when a faulty disk has used its operations up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Nothing runs any more: the calling code unwinds and gets no chance to tidy up.
    PowerCut,
    /// Every further operation is answered with an error.
    Broken,
}

/// Which sectors of a write arrive while the power goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Torn {
    /// The first half.
    InTheMiddle,
    /// Every second, beginning with the first.
    InManyPlaces,
}

/// A disk that does so many writes and flushes, and then fails; the last write is torn.
#[derive(Debug, Clone)]
pub(crate) struct FaultyDisk {
    fault: Fault,
    operations_left: Arc<AtomicU64>,
    /// How the last write is torn.
    pub(crate) torn: Torn,
    /// A volume that does not fail.
    pub(crate) sound: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) struct FaultyVolume {
    volume: Box<dyn Volume>,
    disk: FaultyDisk,
}

impl FaultyDisk {
    pub(crate) fn after(operations: u64, fault: Fault) -> Self {
        let operations_left = Arc::new(AtomicU64::new(operations));
        Self { fault, operations_left, torn: Torn::InTheMiddle, sound: None }
    }

    pub(crate) fn left(&self) -> u64 {
        self.operations_left.load(Ordering::SeqCst)
    }

    fn has_power(&self) -> bool {
        let spend = |left: u64| left.checked_sub(1);
        self.operations_left.try_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok()
    }

    fn fail(&self) -> io::Error {
        match self.fault {
            Fault::PowerCut => resume_unwind(Box::new("the power is gone")),
            Fault::Broken => io::Error::other("the disk is broken"),
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        let volume = SystemDisk.open(path, access)?;
        if self.sound.as_deref() == Some(path) {
            return Ok(volume);
        }
        Ok(Box::new(FaultyVolume { volume, disk: self.clone() }))
    }
}

/// Carries it out until the disk fails. Answers whether it came to the end.
pub(crate) fn carry_out_with_power_cut(host: &Host, level: WipeLevel, disk: FaultyDisk) -> bool {
    let wipe = Wipe::on(action::Wipe { level, power_off: false }, Box::new(disk));
    catch_unwind(AssertUnwindSafe(|| carry_out(&wipe, host, &task(1)).unwrap())).is_ok()
}

impl Volume for FaultyVolume {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.volume.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.has_power() {
            return self.volume.write_at(bytes, offset);
        }
        // Whole sectors of the write in flight may still have arrived.
        match self.disk.torn {
            Torn::InTheMiddle => {
                self.volume.write_at(&bytes[..bytes.len() / 1024 * 512], offset)?;
            }
            Torn::InManyPlaces => {
                for (sector, place) in bytes.chunks(512).zip((offset..).step_by(512)).step_by(2) {
                    self.volume.write_at(sector, place)?;
                }
            }
        }
        Err(self.disk.fail())
    }

    fn flush(&self) -> io::Result<()> {
        if self.disk.has_power() { self.volume.flush() } else { Err(self.disk.fail()) }
    }

    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.volume.next_allocated(range)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<Option<Erasure>> {
        if self.disk.has_power() { self.volume.discard(range) } else { Err(self.disk.fail()) }
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        if self.disk.has_power() { self.volume.release(range) } else { Err(self.disk.fail()) }
    }
}
