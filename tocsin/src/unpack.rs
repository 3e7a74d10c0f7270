//! From sealed chunks to files on the machine of whoever holds the case's key.
//!
//! What is inside was written by a device that may be in hostile hands, and its names by anybody on it. So
//! no file here has a name of theirs: each is numbered, with so much of the name behind the number as can do
//! nothing, and an index says what each is. Nothing is followed, replaced or made outside of the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use protocol::collection::{CollectionError, Item, ItemEnd, Record, Unpacker};
use protocol::limits;
use protocol::sealed::{ChunkOpener, SealedError, TAG_BYTES};
use runtime::files::{FileError, PRIVATE, read_bounded};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// The file that says what the others are.
const INDEX: &str = "index.json";
/// The same, while it is written.
const PART: &str = "index.json.part";
/// Characters of a name that stand behind its number.
const NAME_CHARS: usize = 48;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, regions of memory, links and what else was met.
    pub items: usize,
    /// How many of them are not whole, or not there.
    pub left_out: usize,
    /// Bytes of contents.
    pub bytes: u64,
}

/// Why nothing was unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A chunk is another case's or command's, or altered.
    #[error("chunk {0}: {1}")]
    Chunk(usize, SealedError),
    /// The records are none.
    #[error("what is inside is not understood: {0}")]
    Collection(#[from] CollectionError),
    /// It does not end where it should.
    #[error("what is inside breaks off")]
    BrokenOff,
    /// More items than a device collects.
    #[error("there are more than {} items inside", limits::COLLECTION_ITEMS)]
    TooMany,
    /// An item is not what its end says.
    #[error("item {0} is not what its end says")]
    Item(usize),
    /// Reading or writing did not work.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The same.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One line of the index.
#[derive(Debug, Serialize)]
struct Entry {
    /// The file in this folder; none where nothing was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(flatten)]
    item: Item,
    #[serde(flatten)]
    end: ItemEnd,
}

/// Opens chunks into a folder, which must not be there. All of it, or nothing.
///
/// # Errors
/// [`UnpackError`]; then there is no folder.
pub fn into(
    folder: &Path,
    opener: ChunkOpener,
    chunks: &[PathBuf],
) -> Result<Unpacked, UnpackError> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let unpacked = Index::begin(folder).map_err(UnpackError::from).and_then(|index| {
        let unpacking = Unpacking { folder, index, open: None };
        unpacking.run(opener, chunks)
    });
    unpacked.inspect_err(|_| {
        // Best effort: the error that matters is the one above.
        drop(fs::remove_dir_all(folder));
    })
}

struct Unpacking<'a> {
    folder: &'a Path,
    index: Index,
    open: Option<Open>,
}

/// The index, written as it grows: a device may give ten thousand items names of tens of thousands of bytes.
struct Index {
    file: BufWriter<File>,
    done: Unpacked,
}

impl Index {
    fn begin(folder: &Path) -> io::Result<Self> {
        let path = folder.join(PART);
        let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        let mut file = BufWriter::new(file);
        file.write_all(b"[")?;
        Ok(Self { file, done: Unpacked::default() })
    }

    fn add(&mut self, entry: &Entry) -> io::Result<()> {
        self.file.write_all(if self.done.items > 0 { b",\n" } else { b"\n" })?;
        serde_json::to_writer(&mut self.file, entry)?;
        self.done.items += 1;
        self.done.left_out += usize::from(!entry.end.is_whole());
        self.done.bytes += entry.end.bytes;
        Ok(())
    }

    fn finish(mut self, folder: &Path) -> io::Result<Unpacked> {
        self.file.write_all(b"\n]\n")?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(folder.join(PART), folder.join(INDEX))?;
        File::open(folder)?.sync_all()?;
        Ok(self.done)
    }
}

/// The item that is being written.
struct Open {
    item: Item,
    file: Option<(String, File)>,
    context: Context,
    bytes: u64,
}

impl Unpacking<'_> {
    fn run(mut self, mut opener: ChunkOpener, chunks: &[PathBuf]) -> Result<Unpacked, UnpackError> {
        let mut unpacker = Unpacker::default();
        for (number, path) in chunks.iter().enumerate() {
            let sealed = read_bounded(path, limits::CHUNK_BYTES + TAG_BYTES)?;
            let opened = opener
                .open(sealed, number + 1 == chunks.len())
                .map_err(|error| UnpackError::Chunk(number, error))?;
            for record in unpacker.push(&opened)? {
                self.take(record)?;
            }
        }
        if !unpacker.is_done() {
            return Err(UnpackError::BrokenOff);
        }
        Ok(self.index.finish(self.folder)?)
    }

    /// The unpacker lets records come in an order that makes sense alone.
    fn take(&mut self, record: Record) -> Result<(), UnpackError> {
        match (record, &mut self.open) {
            (Record::Item(item), _) => {
                if self.index.done.items >= limits::COLLECTION_ITEMS {
                    return Err(UnpackError::TooMany);
                }
                let context = Context::new(&SHA256);
                self.open = Some(Open { item, file: None, context, bytes: 0 });
            }
            (Record::Content(bytes), Some(open)) => {
                open.write(self.folder, self.index.done.items, &bytes)?;
            }
            (Record::End(end), open) => {
                let number = self.index.done.items;
                let open = open.take().ok_or(UnpackError::BrokenOff)?;
                self.index.add(&open.end(number, end)?)?;
            }
            (Record::Content(_), None) => return Err(UnpackError::BrokenOff),
            (Record::Done, _) => {}
        }
        Ok(())
    }
}

impl Open {
    fn write(&mut self, folder: &Path, number: usize, bytes: &[u8]) -> io::Result<()> {
        let (_, file) = match &mut self.file {
            Some(file) => file,
            none => {
                let name = file_name(number, &self.item.name);
                let path = folder.join(&name);
                let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path);
                none.insert((name, file?))
            }
        };
        file.write_all(bytes)?;
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(self, number: usize, end: ItemEnd) -> Result<Entry, UnpackError> {
        let digest = self.context.finish();
        let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if (self.bytes, &sha256) != (end.bytes, &end.sha256) {
            return Err(UnpackError::Item(number));
        }
        Ok(Entry { file: self.file.map(|(name, _)| name), item: self.item, end })
    }
}

/// A name that leads nowhere and hides nothing, whatever the endpoint's is.
fn file_name(number: usize, name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    let fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let kept: String = last.chars().filter(fine).take(NAME_CHARS).collect();
    format!("{number:05}-{kept}")
}
