//! A volume in memory, for reading only: what the tests of both parsers read.

use std::io;
use std::ops::Range;

use crate::execute::wipe::volume::{Erasure, Volume};

/// Its bytes.
#[derive(Debug)]
pub(super) struct Memory(pub(super) Vec<u8>);

impl Volume for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.saturating_add(buffer.len());
        buffer.copy_from_slice(self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        Ok(Some(range))
    }

    fn discard(&self, _range: Range<u64>) -> io::Result<Option<Erasure>> {
        Ok(None)
    }

    fn release(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}
