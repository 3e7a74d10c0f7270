//! What a device collects beyond the first look: how it is packed, and what its receipt says of it.
//!
//! A collection is one run of bytes: records, each a kind (one byte), a length (four bytes, big-endian)
//! and so many bytes. It is cut into chunks of [`limits::CHUNK_BYTES`], each sealed to the case
//! ([`ChunkSealer`](crate::sealed::ChunkSealer)). The receipt names their number, their bytes and the
//! hash over their hashes, so that what arrives later is exactly what the device signed, or is refused.
//! What is in the records is hostile, whoever carried it.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::manifest::Hash;
use crate::receipt::Evidence;
use crate::sealed::{CaseKey, TAG_BYTES};

#[cfg(test)]
mod tests;

/// Under which name a receipt's evidence speaks of a collection.
pub const EVIDENCE: &str = "collection";
/// Where a device asks what of a collection is there, and puts chunks: then a command id follows.
pub const PATH: &str = "/agent/v1/collections";

/// Bytes of a record of contents.
pub const CONTENT_BYTES: usize = 32 * 1024;
/// Bytes of a record about an item.
const ABOUT_BYTES: usize = 96 * 1024;
/// Bytes before a record's own.
const HEAD_BYTES: usize = 5;
/// Keeps the hash over chunks from being one of anything else.
const CHUNKS: &[u8] = b"tocsin-chunks-v1";

/// What a receipt says of a collection. `items`, `left_out` and `content_bytes` are the device's
/// word about what is inside; the rest binds each byte that arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// How many chunks.
    pub chunks: u32,
    /// Bytes of all of them, sealed.
    pub bytes: u64,
    /// The hash over the hashes of the sealed chunks, in their order.
    pub chunks_sha256: Hash,
    /// Public half of the key of one use.
    pub once: CaseKey,
    /// How many files and regions of memory.
    pub items: u32,
    /// How many of them are not whole, or not there at all.
    pub left_out: u32,
    /// Bytes that were read of them.
    pub content_bytes: u64,
}

impl Collection {
    /// The one that this evidence speaks of. `None` when there is none, or none within the limits.
    pub fn of(evidence: &Evidence) -> Option<Self> {
        let said: Self = serde_json::from_value(evidence.get(EVIDENCE)?.clone()).ok()?;
        said.is_sound().then_some(said)
    }

    /// The evidence that speaks of it.
    pub fn evidence(&self) -> Evidence {
        let value = serde_json::to_value(self).expect("numbers and hashes have a JSON form");
        Evidence::new().with(EVIDENCE, value)
    }

    /// Bytes of that chunk; `None` when there is none of that number.
    pub fn chunk_bytes(&self, number: u32) -> Option<usize> {
        let full = limits::CHUNK_BYTES + TAG_BYTES;
        let before = u64::from(number).checked_mul(full as u64)?;
        let left = usize::try_from(self.bytes.checked_sub(before)?).ok()?;
        (number < self.chunks).then_some(left.min(full))
    }

    /// Full chunks, and a last one of at least its tag.
    fn is_sound(&self) -> bool {
        let full = (limits::CHUNK_BYTES + TAG_BYTES) as u64;
        let Some(before) = self.chunks.checked_sub(1) else { return false };
        let last = self.bytes.checked_sub(u64::from(before) * full);
        self.chunks <= limits::COLLECTION_CHUNKS
            && last.is_some_and(|last| (TAG_BYTES as u64..=full).contains(&last))
    }
}

/// What of a collection is at the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The first chunks that are not, at most [`limits::MISSING_CHUNKS`] of them. None: all are there.
    pub missing: Vec<u32>,
}

/// The hash over the hashes of sealed chunks, in their order.
#[derive(Clone)]
pub struct ChunkHashes(Context);

impl std::fmt::Debug for ChunkHashes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkHashes").finish_non_exhaustive()
    }
}

impl Default for ChunkHashes {
    fn default() -> Self {
        let mut context = Context::new(&SHA256);
        context.update(CHUNKS);
        Self(context)
    }
}

impl ChunkHashes {
    /// The next chunk has this hash.
    pub fn add(&mut self, chunk: &Hash) {
        self.0.update(chunk.as_bytes());
    }

    /// The hash over all that were added.
    pub fn finish(self) -> Hash {
        Hash::from_digest(&self.0.finish())
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An item begins.
    Item(Item),
    /// Bytes of the item that began last.
    Content(Vec<u8>),
    /// That item ends.
    End(ItemEnd),
    /// Nothing follows.
    Done,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Why it was collected.
    pub source: Source,
    /// Its name, such as its path. Bytes that do not print as they read stand as `\xNN`, and a
    /// backslash as two.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where a link leads, spelled as names are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What the file system said of it; a region of memory has none of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<Stat>,
}

/// Why an item was collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Memory of a process.
    Memory,
    /// A log.
    Log,
    /// A path that the order names.
    Path,
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file, read.
    File,
    /// A region of memory, read.
    Region,
    /// A symbolic link, not followed.
    Link,
    /// A device, a socket, a pipe: never opened.
    Special,
    /// Something that the order names and that is not there, or cannot be looked at.
    Absent,
}

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Its mode, with its type.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its length in bytes before it was read.
    pub bytes: u64,
    /// When it was modified, in seconds since 1970.
    pub modified_at: i64,
    /// When it was changed (status, name, owner), in the same.
    pub changed_at: i64,
}

/// How an item ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemEnd {
    /// Bytes of its contents in the collection.
    pub bytes: u64,
    /// Their SHA-256, lowercase hexadecimal.
    pub sha256: String,
    /// It is larger than what was read of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// It was written to, or another took its place, while it was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_changed: bool,
    /// Why it is not whole, or not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl ItemEnd {
    /// Whether the item is here as it was.
    pub const fn is_whole(&self) -> bool {
        !self.is_cut && !self.has_changed && self.trouble.is_none()
    }
}

/// Bytes that are no collection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectionError {
    /// A record of a kind that this version does not know, or longer than it may be.
    #[error("a record of kind {kind} with {length} bytes")]
    Record {
        /// Its kind.
        kind: u8,
        /// Its length.
        length: u32,
    },
    /// What a record says is not understood.
    #[error("a record is not understood: {0}")]
    About(String),
    /// A record where it cannot be.
    #[error("a record where there can be none of its kind")]
    Order,
}

impl Record {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let json =
            |value: serde_json::Result<Vec<u8>>| value.expect("texts and numbers have a form");
        let (kind, bytes) = match self {
            Self::Item(item) => (1, json(serde_json::to_vec(item))),
            Self::Content(bytes) => (2, bytes.clone()),
            Self::End(end) => (3, json(serde_json::to_vec(end))),
            Self::Done => (4, Vec::new()),
        };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        [&[kind][..], &length.to_be_bytes(), &bytes].concat()
    }

    fn decode(kind: u8, bytes: &[u8]) -> Result<Self, CollectionError> {
        let about = |error: serde_json::Error| CollectionError::About(error.to_string());
        Ok(match kind {
            1 => Self::Item(serde_json::from_slice(bytes).map_err(about)?),
            2 => Self::Content(bytes.to_vec()),
            3 => Self::End(serde_json::from_slice(bytes).map_err(about)?),
            _ => Self::Done,
        })
    }
}

/// Reads records out of chunks, however they are cut. Never holds more than one record and one chunk.
#[derive(Debug, Default)]
pub struct Unpacker {
    rest: Vec<u8>,
    at: Place,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Between,
    Inside,
    Done,
}

impl Unpacker {
    /// The records that are whole with these bytes.
    ///
    /// # Errors
    /// [`CollectionError`]; nothing that follows can be read.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Record>, CollectionError> {
        self.rest.extend_from_slice(bytes);
        let (mut records, mut taken) = (Vec::new(), 0);
        while let Some((record, length)) = next(self.rest.get(taken..).unwrap_or_default())? {
            self.at = match (self.at, &record) {
                (Place::Between, Record::Item(_)) | (Place::Inside, Record::Content(_)) => {
                    Place::Inside
                }
                (Place::Inside, Record::End(_)) => Place::Between,
                (Place::Between, Record::Done) => Place::Done,
                (Place::Between | Place::Inside | Place::Done, _) => {
                    return Err(CollectionError::Order);
                }
            };
            records.push(record);
            taken += length;
        }
        self.rest.drain(..taken);
        Ok(records)
    }

    /// Whether the last record was read, and nothing follows it.
    pub fn is_done(&self) -> bool {
        self.at == Place::Done && self.rest.is_empty()
    }
}

/// The first record of these bytes with its length; `None` when it is not whole.
fn next(bytes: &[u8]) -> Result<Option<(Record, usize)>, CollectionError> {
    let Some(([kind, length @ ..], rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let most = match kind {
        1 | 3 => ABOUT_BYTES,
        2 => CONTENT_BYTES,
        4 => 0,
        _ => return Err(CollectionError::Record { kind: *kind, length }),
    };
    let size = usize::try_from(length).ok().filter(|size| *size <= most);
    let size = size.ok_or(CollectionError::Record { kind: *kind, length })?;
    let Some(bytes) = rest.get(..size) else { return Ok(None) };
    Ok(Some((Record::decode(*kind, bytes)?, HEAD_BYTES + size)))
}

/// A name of the endpoint as text that prints as it reads, and from which its bytes can be told.
pub fn spelled(name: &[u8]) -> String {
    let mut text = String::new();
    let escaped = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    };
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            let spelled = c.encode_utf8(&mut [0; 4]).to_owned();
            match c {
                '\\' => text.push_str("\\\\"),
                _ if crate::action::is_printable(&spelled) => text.push(c),
                _ => escaped(&mut text, spelled.as_bytes()),
            }
        }
        escaped(&mut text, piece.invalid());
    }
    text
}
