//! The spool: sealed chunks of a collection in the state directory, until they are at the control plane.
//!
//! A folder per command, with a file per chunk, a hash of each, and, once all are there, a document about them:
//! without it the folder counts for nothing. What a disk gives back otherwise than it was written is never sent. Bounded in number, and never takes the room that the journal on the
//! same disk needs. Knows nothing of what is sealed in the chunks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use protocol::collection::{ChunkHashes, Collection};
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::receipt::Evidence;
use protocol::sealed::SealedError;
use protocol::time::Timestamp;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use serde::{Deserialize, Serialize};

/// Where spools lie in the state directory.
const PLACE: &str = "collections";
/// The document that makes a spool whole.
const ABOUT: &str = "collection";
/// The hashes of the chunks, one behind the other.
const HASHES: &str = "hashes";
/// Spools that wait for the control plane at a time.
const WAITING: usize = 4;
/// Bytes that stay free on the disk: the journal lies there too.
const RESERVE: u64 = 64 * 1024 * 1024;
/// How long a spool is kept that the control plane does not take.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Bytes of the document: about as many as a receipt has.
const ABOUT_BYTES: usize = 64 * 1024;

/// The spool of one command.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    here: PathBuf,
}

/// What is known of a whole spool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spooled {
    /// The chunks.
    pub(crate) collection: Collection,
    /// What the receipt says of the first look, which came before them.
    pub(crate) first_look: Evidence,
}

/// Why a collection was not spooled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The agent stops.
    #[error("the agent stops")]
    Left,
    /// A chunk was not sealed.
    #[error("a chunk cannot be sealed: {0}")]
    Sealing(#[from] SealedError),
    /// Reading or writing did not work.
    #[error("the spool is not usable: {0}")]
    Disk(#[from] io::Error),
    /// There would be too little left for the journal.
    #[error("the disk is full: less than {RESERVE} bytes would be left")]
    Full,
    /// A chunk is not as it was written.
    #[error("a chunk in the spool is not as it was written")]
    Altered,
    /// Too many were not taken yet.
    #[error("{WAITING} collections wait already until the control plane takes them")]
    Waiting,
}

impl Spool {
    /// The spool of that command.
    pub(crate) fn of(state_dir: &Path, command_id: CommandId) -> Self {
        Self { here: state_dir.join(PLACE).join(command_id.to_string()) }
    }

    /// Every whole spool. Those that nobody took in a week, and what a crash left of others for as
    /// long, are removed.
    pub(crate) fn all(
        state_dir: &Path,
        now: Timestamp,
    ) -> Result<Vec<(CommandId, Self)>, SpoolError> {
        let entries = match fs::read_dir(state_dir.join(PLACE)) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?.into_iter(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut spools: Vec<_> = ids.map(|id: CommandId| (id, Self::of(state_dir, id))).collect();
        spools.sort_by_key(|(id, _)| *id);
        spools.retain(|(id, spool)| {
            let is_over = spool.age(now).is_some_and(|age| age > KEPT);
            if is_over {
                tracing::warn!(command.id = %id, "collection was taken by nobody, and is removed");
                spool.remove();
            }
            !is_over && spool.is_whole()
        });
        Ok(spools)
    }

    /// Whether one more may be begun.
    pub(crate) fn room(state_dir: &Path) -> Result<(), SpoolError> {
        let waiting = fs::read_dir(state_dir.join(PLACE)).into_iter().flatten().flatten().count();
        if waiting >= WAITING { Err(SpoolError::Waiting) } else { Ok(()) }
    }

    /// An empty folder, whatever was there.
    pub(super) fn begin(&self) -> Result<(), SpoolError> {
        self.remove();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.here)?;
        Ok(())
    }

    /// Writes a chunk.
    pub(super) fn put(&self, number: u32, sealed: &[u8]) -> Result<(), SpoolError> {
        let disk = statvfs(&self.here).map_err(io::Error::from)?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        if free < RESERVE + sealed.len() as u64 {
            return Err(SpoolError::Full);
        }
        let path = self.chunk_path(number);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        file.write_all(sealed)?;
        file.sync_all()?;
        let hashes = self.here.join(HASHES);
        let mut hashes = OpenOptions::new().append(true).create(true).mode(PRIVATE).open(hashes)?;
        hashes.write_all(Hash::sha256(sealed).as_bytes())?;
        Ok(())
    }

    /// From now on it is whole, also after a power cut.
    pub(super) fn seal(&self, spooled: &Spooled) -> Result<(), SpoolError> {
        File::open(self.here.join(HASHES))?.sync_all()?;
        File::open(&self.here)?.sync_all()?;
        let bytes = serde_json::to_vec(spooled).map_err(io::Error::other)?;
        write_atomic(&self.here.join(ABOUT), &bytes, PRIVATE).map_err(of_file)?;
        if let Some(place) = self.here.parent() {
            File::open(place)?.sync_all()?;
        }
        Ok(())
    }

    /// A disk that does not say counts as one that has it: reading it will tell.
    pub(super) fn is_whole(&self) -> bool {
        self.here.join(ABOUT).try_exists().unwrap_or(true)
    }

    /// What is known of it.
    pub(crate) fn spooled(&self) -> Result<Spooled, SpoolError> {
        let bytes = read_bounded(&self.here.join(ABOUT), ABOUT_BYTES).map_err(of_file)?;
        Ok(serde_json::from_slice(&bytes).map_err(io::Error::other)?)
    }

    /// The same. Where no hashes are that were signed for, all chunks are looked at now: one that is sent must
    /// be known to be as it was written.
    pub(crate) fn checked(&self) -> Result<Spooled, SpoolError> {
        let spooled = self.spooled()?;
        if self.hashes(&spooled.collection).is_some() { Ok(spooled) } else { self.verified() }
    }

    /// The same, after all chunks were read again.
    pub(super) fn verified(&self) -> Result<Spooled, SpoolError> {
        let spooled = self.spooled()?;
        let mut hashes = ChunkHashes::default();
        for number in 0..spooled.collection.chunks {
            hashes.add(&Hash::sha256(&self.bytes(&spooled.collection, number)?));
        }
        if hashes.finish() == spooled.collection.chunks_sha256 {
            Ok(spooled)
        } else {
            Err(SpoolError::Altered)
        }
    }

    /// A chunk of a spool that was checked, exactly as it was written.
    pub(crate) fn chunk(&self, of: &Collection, number: u32) -> Result<Vec<u8>, SpoolError> {
        let bytes = self.bytes(of, number)?;
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        match self.hashes(of).and_then(|hashes| hashes.get(number).copied()) {
            Some(hash) if hash != *Hash::sha256(&bytes).as_bytes() => Err(SpoolError::Altered),
            // Without hashes it was read and found right when the spool was checked.
            Some(_) | None => Ok(bytes),
        }
    }

    /// A chunk as the disk gives it back.
    fn bytes(&self, of: &Collection, number: u32) -> Result<Vec<u8>, SpoolError> {
        let length = of.chunk_bytes(number).ok_or(SpoolError::Altered)?;
        match read_bounded(&self.chunk_path(number), length) {
            Ok(bytes) if bytes.len() == length => Ok(bytes),
            Ok(_) | Err(FileError::TooLarge { .. }) => Err(SpoolError::Altered),
            Err(error) if error.is_not_found() => Err(SpoolError::Altered),
            Err(error) => Err(of_file(error)),
        }
    }

    /// The hashes of all chunks, if they are those that were signed for. An earlier version kept none.
    fn hashes(&self, of: &Collection) -> Option<Vec<[u8; HASH_BYTES]>> {
        let length = usize::try_from(of.chunks).ok()?.checked_mul(HASH_BYTES)?;
        let bytes = read_bounded(&self.here.join(HASHES), length).ok()?;
        let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
        let mut all = ChunkHashes::default();
        hashes.iter().for_each(|hash| all.add(&Hash::new(*hash)));
        let is_signed_for = rest.is_empty() && all.finish() == of.chunks_sha256;
        is_signed_for.then(|| hashes.to_vec())
    }

    /// Forgets it.
    pub(crate) fn remove(&self) {
        // The document first: what is left of a removal is not whole.
        let _ = fs::remove_file(self.here.join(ABOUT));
        if let Err(error) = fs::remove_dir_all(&self.here)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "spool was not removed");
        }
    }

    fn age(&self, now: Timestamp) -> Option<Duration> {
        let modified = fs::metadata(&self.here).ok()?.mtime();
        let modified = u64::try_from(modified).ok()?.saturating_mul(1000);
        Some(now.since(Timestamp::from_millis(modified)))
    }

    fn chunk_path(&self, number: u32) -> PathBuf {
        self.here.join(format!("{number:06}"))
    }
}

fn of_file(error: FileError) -> SpoolError {
    SpoolError::Disk(io::Error::other(error))
}
