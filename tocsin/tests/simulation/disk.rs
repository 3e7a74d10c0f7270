//! A disk that loses what was not synced, tears what it writes last, and may fail or end the
//! process at any operation.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::journal::{Disk, Medium};
use runtime::files::FileError;

/// One file on a disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    file: Option<Vec<u8>>,
    /// The length of the file that a power cut leaves.
    durable: usize,
    /// The process dies at the operation of that number from now.
    dies_in: Option<usize>,
    is_dead: bool,
    /// The next sync fails.
    fails_sync: bool,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process will die at one of the next operations.
    pub(crate) fn die_in(&self, operations: usize) {
        self.state().dies_in = Some(operations);
    }

    pub(crate) fn fail_next_sync(&self) {
        self.state().fails_sync = true;
    }

    /// Whether the process died at an operation.
    pub(crate) fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// The process is gone; what it wrote stays with the system.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        (state.dies_in, state.is_dead, state.fails_sync) = (None, false, false);
    }

    /// The machine lost its power: of what was not synced so many bytes are left, and where
    /// `is_ragged`, zeros in place of the rest.
    pub(crate) fn cut_power(&self, kept: impl FnOnce(usize) -> usize, is_ragged: bool) {
        let mut state = self.state();
        let durable = state.durable;
        let Some(file) = &mut state.file else { return };
        let unsynced = file.len() - durable;
        let left = durable + kept(unsynced).min(unsynced);
        if is_ragged {
            file[left..].fill(0);
        } else {
            file.truncate(left);
        }
        state.durable = state.file.as_ref().map_or(0, Vec::len);
    }
}

impl State {
    /// Whether the process still lives when this operation begins.
    fn begin(&mut self) -> io::Result<()> {
        match self.dies_in {
            Some(0) => self.is_dead = true,
            Some(left) => self.dies_in = Some(left - 1),
            None => {}
        }
        if self.is_dead { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl Disk for SimDisk {
    type File = SimDisk;

    fn exists(&self, _path: &Path) -> bool {
        self.state().file.is_some()
    }

    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        self.state().file.clone().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let mut state = self.state();
        let written = state.begin();
        if written.is_ok() {
            (state.file, state.durable) = (Some(bytes.to_vec()), bytes.len());
        }
        written.map_err(|source| FileError::Write { path: path.to_owned(), source })
    }

    fn keep(&self, _path: &Path, _bytes: &[u8]) -> io::Result<()> {
        self.state().begin()
    }

    fn append_at(&self, _path: &Path, len: u64) -> io::Result<SimDisk> {
        let mut state = self.state();
        state.begin()?;
        let is_there = state.file.as_ref().is_some_and(|file| file.len() as u64 >= len);
        if is_there { Ok(self.clone()) } else { Err(ErrorKind::NotFound.into()) }
    }
}

impl Medium for SimDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let begun = state.begin();
        // A process that dies in a write leaves a part of it behind; short writes are legal.
        let count = if begun.is_ok() { bytes.len().min(512) } else { bytes.len() / 2 };
        let file = state.file.as_mut().ok_or(ErrorKind::NotFound)?;
        file.extend_from_slice(&bytes[..count]);
        begun.map(|()| count)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        if std::mem::take(&mut state.fails_sync) {
            return Err(io::Error::from_raw_os_error(5));
        }
        state.durable = state.file.as_ref().map_or(0, Vec::len);
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let len = usize::try_from(len).map_err(|_| ErrorKind::InvalidInput)?;
        let file = state.file.as_mut().ok_or(ErrorKind::NotFound)?;
        file.truncate(len);
        state.durable = len;
        Ok(())
    }
}
