//! A part of a volume as a volume: the partition in the file of a home.

use std::io;
use std::ops::Range;

use super::volume::{Erasure, Volume};

/// A volume seen from that byte on, up to that one.
#[derive(Debug)]
pub(super) struct Window {
    volume: Box<dyn Volume>,
    part: Range<u64>,
}

impl Window {
    /// That part of it, if it has it.
    pub(super) fn of(volume: Box<dyn Volume>, part: &Range<u64>) -> io::Result<Self> {
        if part.start > part.end || part.end > volume.size() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "is smaller than it was"));
        }
        Ok(Self { volume, part: part.clone() })
    }

    /// Where these bytes are in the whole.
    fn outer(&self, range: Range<u64>) -> io::Result<Range<u64>> {
        let shifted = |at: u64| at.checked_add(self.part.start).filter(|at| *at <= self.part.end);
        let range = shifted(range.start).zip(shifted(range.end));
        let (start, end) = range.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(start..end)
    }

    fn start(&self, offset: u64, length: usize) -> io::Result<u64> {
        let end = offset.saturating_add(length as u64);
        Ok(self.outer(offset..end)?.start)
    }
}

impl Volume for Window {
    fn size(&self) -> u64 {
        self.part.end - self.part.start
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = self.start(offset, buffer.len())?;
        self.volume.read_at(buffer, start)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = self.start(offset, bytes.len())?;
        self.volume.write_at(bytes, start)
    }

    fn flush(&self) -> io::Result<()> {
        self.volume.flush()
    }

    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let found = self.volume.next_allocated(self.outer(range)?)?;
        Ok(found.map(|found| found.start - self.part.start..found.end - self.part.start))
    }

    fn discard(&self, range: Range<u64>) -> io::Result<Option<Erasure>> {
        self.volume.discard(self.outer(range)?)
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        self.volume.release(self.outer(range)?)
    }
}
