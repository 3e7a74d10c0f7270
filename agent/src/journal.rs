//! The journal: the records of the ledger on disk, each durable before anything follows from it.
//!
//! One append-only file: a header, then records of length (u32), CRC-32 (u32), both big endian,
//! and the record as JSON. Owns reading, appending, cutting and compacting it; must not judge
//! what a record means.
//!
//! **A torn end** (a crash while appending) is cut off at open: nothing followed from a record
//! that was not synced. **Damage**, that is, whole records beyond an unreadable place, or a file
//! that is gone or has no header, means that records are missing from which something followed.
//! The readable beginning is kept, the rest is set aside for a person, and [`Opened::damage`]
//! tells the caller, who must then distrust everything older than this moment.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::ledger::Record;
use protocol::limits;
use runtime::files::{FileError, PRIVATE, write_atomic};

#[cfg(test)]
mod tests;

/// What a journal begins with; the digit is the version of the format, and goes up with every kind of
/// record that is added: an agent that does not know it must not take it for damage.
const HEADER: &[u8; 8] = b"TOCSINJ1";
/// Bytes of a record before its content.
const FRAMING: usize = 8;
/// The longest content of one record: an envelope or a receipt, and what is around it.
const RECORD_BYTES: usize = limits::ENVELOPE_BYTES + 16 * 1024;
/// The longest journal that is read. Compaction keeps it far below.
const JOURNAL_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading, writing or syncing failed. Nothing follows from the records at hand.
    #[error("journal {} failed at {step}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The compacted journal could not be put in place; the former one stands.
    #[error("the journal could not be compacted")]
    Compaction(#[from] FileError),
    /// A newer agent wrote it, with records that this one does not know.
    #[error("journal {} is of version {found}; this agent reads {known}", path.display(), known = char::from(HEADER[7]))]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: char,
    },
    /// A record is longer than a journal takes.
    #[error("a record of {0} bytes is too long for the journal")]
    TooLong(usize),
}

/// Where a journal lies. Every byte goes through it, so that a test may lose what was not synced.
pub trait Disk: fmt::Debug + Send {
    /// The open file of a journal.
    type File: Medium;
    /// Whether there is such a file.
    fn exists(&self, path: &Path) -> bool;
    /// All of the file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Replaces the file: after a crash it holds the old bytes or the new, after `Ok` the new.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError>;
    /// Makes a new file, durably; `AlreadyExists` when the name is taken.
    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Opens the file to append behind its first `len` bytes.
    fn append_at(&self, path: &Path, len: u64) -> io::Result<Self::File>;
}

/// The file as the journal uses it, so that tests can make it fail.
pub trait Medium: fmt::Debug + Send {
    /// Writes some of the bytes at the end, and says how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Makes everything written durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file and goes on writing there.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filesystem;

impl Disk for Filesystem {
    type File = File;

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(JOURNAL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        write_atomic(path, bytes, PRIVATE)
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a copy would be taken for one, and the next start would begin another.
            drop(std::fs::remove_file(path));
        }
        written
    }

    fn append_at(&self, path: &Path, len: u64) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(len))?;
        Ok(file)
    }
}

impl Medium for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len))?;
        self.sync_all()
    }
}

/// An open journal, ready to append.
#[derive(Debug)]
pub struct Journal<D: Disk = Filesystem> {
    disk: D,
    path: PathBuf,
    medium: D::File,
    /// Everything up to here is synced; whatever stands beyond must be cut before appending.
    len: u64,
    has_rest: bool,
    /// The file was replaced and the new one could not be opened: only compacting helps.
    is_detached: bool,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened<D: Disk = Filesystem> {
    /// The journal.
    pub journal: Journal<D>,
    /// Its records, oldest first.
    pub records: Vec<Record>,
    /// Bytes of a torn end that were cut off.
    pub torn_bytes: u64,
    /// What is missing, if anything from which something followed is.
    pub damage: Option<Damage>,
}

/// How a journal is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where the unreadable rest was set aside; `None` when there was no file at all.
    pub set_aside: Option<PathBuf>,
    /// Records beyond the unreadable place that can be read: their numbers were seen.
    pub beyond: Vec<Record>,
}

impl Journal {
    /// Makes an empty journal, durably. A journal that is there already is kept.
    ///
    /// # Errors
    /// [`JournalError::Compaction`] when it cannot be written.
    pub fn create(path: &Path) -> Result<(), JournalError> {
        Self::create_on(&Filesystem, path)
    }

    /// The records of a journal as they are, with nothing repaired; `None` where some are missing.
    ///
    /// # Errors
    /// [`JournalError::Io`], [`JournalError::Newer`].
    pub fn peek(path: &Path) -> Result<Option<Vec<Record>>, JournalError> {
        let bytes = Filesystem.read(path).map_err(|source| io_error(path, "read", source))?;
        if let Some(found) = newer(&bytes) {
            return Err(JournalError::Newer { path: path.to_owned(), found });
        }
        let Scan { records, beyond, .. } = scan(&bytes);
        Ok(Some(records).filter(|_| beyond.is_empty() && bytes.starts_with(HEADER)))
    }

    /// Opens a journal that [`Journal::create`] made, reads it, and repairs its end.
    ///
    /// # Errors
    /// [`JournalError::Io`] or, when damage was found, [`JournalError::Compaction`].
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        Self::open_on(Filesystem, path)
    }
}

impl<D: Disk> Journal<D> {
    /// [`Journal::create`] on that disk.
    ///
    /// # Errors
    /// As there.
    pub fn create_on(disk: &D, path: &Path) -> Result<(), JournalError> {
        if !disk.exists(path) {
            disk.replace(path, HEADER)?;
        }
        Ok(())
    }

    /// [`Journal::open`] on that disk.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(disk: D, path: &Path) -> Result<Opened<D>, JournalError> {
        let bytes = match disk.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let damage = Damage { set_aside: None, beyond: Vec::new() };
                disk.replace(path, HEADER)?;
                return Self::opened(disk, path, (HEADER.len(), Vec::new()), Some(damage));
            }
            Err(source) => return Err(io_error(path, "read", source)),
        };
        if let Some(found) = newer(&bytes) {
            return Err(JournalError::Newer { path: path.to_owned(), found });
        }
        let Scan { records, len, beyond } = scan(&bytes);
        let has_header = bytes.starts_with(HEADER);
        if beyond.is_empty() && has_header {
            let torn = bytes.len() - len;
            let mut opened = Self::opened(disk, path, (len, records), None)?;
            opened.torn_bytes = torn as u64;
            if torn > 0 {
                opened.journal.cut()?;
            } else {
                // What was read may be in memory only: the process that wrote it may have been
                // killed before it synced. From here on things follow from it.
                opened.journal.sync()?;
            }
            return Ok(opened);
        }
        let set_aside = set_aside(&disk, path, &bytes)?;
        let whole = encode_all(&records)?;
        disk.replace(path, &whole)?;
        let damage = Damage { set_aside: Some(set_aside), beyond };
        Self::opened(disk, path, (whole.len(), records), Some(damage))
    }

    fn opened(
        disk: D,
        path: &Path,
        (len, records): (usize, Vec<Record>),
        damage: Option<Damage>,
    ) -> Result<Opened<D>, JournalError> {
        let medium = disk.append_at(path, len as u64).map_err(|e| io_error(path, "open", e))?;
        let journal = Self {
            disk,
            path: path.to_owned(),
            medium,
            len: len as u64,
            has_rest: false,
            is_detached: false,
        };
        Ok(Opened { journal, records, torn_bytes: 0, damage })
    }

    /// Replaces the whole journal by these records: temporary file, sync, rename, sync.
    ///
    /// # Errors
    /// [`JournalError`]; either journal is then whole, and this one goes on.
    pub fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let bytes = encode_all(records)?;
        self.disk.replace(&self.path, &bytes)?;
        // Until the new file is open, appending would go to the former one, which has no name.
        self.is_detached = true;
        let len = bytes.len() as u64;
        let opened = self.disk.append_at(&self.path, len);
        self.medium = opened.map_err(|e| io_error(&self.path, "open", e))?;
        (self.len, self.has_rest, self.is_detached) = (len, false, false);
        Ok(())
    }

    /// Appends records with one write and one sync. After `Ok` they survive a power cut; after
    /// an error none of them may be acted on, and the next call first cuts off what remains.
    ///
    /// # Errors
    /// [`JournalError::Io`] or [`JournalError::TooLong`].
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.is_detached {
            return Err(io_error(&self.path, "reopen", ErrorKind::NotConnected.into()));
        }
        if self.has_rest {
            self.cut()?;
        }
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes)?;
        }
        // From here on an error leaves bytes behind of which nobody knows whether they are durable.
        self.has_rest = true;
        self.write_all(&bytes).map_err(|source| io_error(&self.path, "write", source))?;
        self.sync()?;
        self.len += bytes.len() as u64;
        self.has_rest = false;
        Ok(())
    }

    /// Whether only [`Journal::compact`] makes it usable again.
    pub const fn is_detached(&self) -> bool {
        self.is_detached
    }

    /// Bytes on disk.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds no record.
    pub const fn is_empty(&self) -> bool {
        self.len == HEADER.len() as u64
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        #[cfg(feature = "planted-bugs")]
        if protocol::planted::has(protocol::planted::Bug::NoSync) {
            return Ok(());
        }
        self.medium.sync().map_err(|source| io_error(&self.path, "sync", source))
    }

    fn cut(&mut self) -> Result<(), JournalError> {
        self.medium.cut(self.len).map_err(|source| io_error(&self.path, "cut", source))?;
        self.has_rest = false;
        Ok(())
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.medium.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What can be read of a journal's bytes.
struct Scan {
    records: Vec<Record>,
    /// Where the readable beginning ends.
    len: usize,
    /// Whole records found beyond an unreadable place.
    beyond: Vec<Record>,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut records = Vec::new();
    let mut at = if bytes.starts_with(HEADER) { HEADER.len() } else { 0 };
    if at > 0 {
        while let Some((record, next)) = decode(bytes, at) {
            records.push(record);
            at = next;
        }
    }
    let len = at;
    let mut beyond = Vec::new();
    while at < bytes.len() {
        match decode(bytes, at) {
            Some((record, next)) => {
                beyond.push(record);
                at = next;
            }
            None => at += 1,
        }
    }
    Scan { records, len, beyond }
}

/// The record at that offset and where it ends; `None` when there is no whole one.
fn decode(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let len = usize::try_from(number(at)?).ok().filter(|len| *len <= RECORD_BYTES)?;
    let crc = number(at + 4)?;
    let start = at + FRAMING;
    let content = bytes.get(start..start.checked_add(len)?)?;
    if crc32fast::hash(content) != crc {
        return None;
    }
    Some((serde_json::from_slice(content).ok()?, start + len))
}

fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), JournalError> {
    let content = serde_json::to_vec(record).unwrap_or_default();
    let len = u32::try_from(content.len()).ok().filter(|_| content.len() <= RECORD_BYTES);
    let len = len.filter(|len| *len > 0).ok_or(JournalError::TooLong(content.len()))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&content).to_be_bytes());
    out.extend_from_slice(&content);
    Ok(())
}

fn encode_all(records: &[Record]) -> Result<Vec<u8>, JournalError> {
    let mut bytes = HEADER.to_vec();
    for record in records {
        encode(record, &mut bytes)?;
    }
    Ok(bytes)
}

/// Keeps a copy of a damaged journal beside it, under a name that is not taken.
fn set_aside(disk: &impl Disk, path: &Path, bytes: &[u8]) -> Result<PathBuf, JournalError> {
    let mut number = 1_u32;
    loop {
        let copy = path.with_extension(format!("damaged-{number}"));
        match disk.keep(&copy, bytes) {
            Ok(()) => return Ok(copy),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(io_error(&copy, "set aside", source)),
        }
    }
}

/// The version of a journal that is newer than this one.
fn newer(bytes: &[u8]) -> Option<char> {
    let (name, version) = HEADER.split_at(HEADER.len() - 1);
    let found = bytes.strip_prefix(name)?.first()?;
    let is_newer = found.is_ascii_digit() && version.first() < Some(found);
    is_newer.then(|| char::from(*found))
}

fn io_error(path: &Path, step: &'static str, source: io::Error) -> JournalError {
    JournalError::Io { path: path.to_owned(), step, source }
}
