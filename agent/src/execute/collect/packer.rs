//! From items to sealed chunks, within the order's bounds.
//!
//! Owns the bounds and the counting. Nothing that is not sealed reaches the disk.

use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use protocol::action::Sources;
use protocol::advance::Advance;
use protocol::collection::{CONTENT_BYTES, ChunkHashes, Collection, Item, ItemEnd, Record};
use protocol::limits;
use protocol::manifest::Hash;
use protocol::sealed::ChunkSealer;
use runtime::Clock;

use super::spool::{Spool, SpoolError};
use crate::execute::course::Course;
use crate::execute::hex;

/// Bytes that may be around contents, all items together: with the heads of the contents well below
/// [`limits::COLLECTION_EXTRA_CHUNKS`], beyond which the control plane takes none of it.
const ABOUT_BYTES: u64 = 32 * 1024 * 1024;

/// Packs items into the chunks of a spool.
#[derive(Debug)]
pub(super) struct Packer<'a> {
    sealer: ChunkSealer,
    spool: &'a Spool,
    course: &'a Course,
    clock: Clock,
    until: Instant,
    item_bytes: u64,
    total_bytes: u64,
    rest: Vec<u8>,
    hashes: ChunkHashes,
    made: Made,
}

#[derive(Debug, Default)]
struct Made {
    chunks: u32,
    bytes: u64,
    items: u32,
    left_out: u32,
    content_bytes: u64,
    about_bytes: u64,
}

/// An item whose contents are being read.
pub(super) struct Open {
    context: Context,
    bytes: u64,
    most: u64,
}

impl Open {
    /// Bytes that may still be read of it.
    pub(super) const fn room(&self) -> u64 {
        self.most.saturating_sub(self.bytes)
    }

    /// How it ends, if nothing more is said of it.
    pub(super) fn end(self) -> ItemEnd {
        let sha256 = hex(self.context.finish().as_ref());
        ItemEnd { bytes: self.bytes, sha256, ..ItemEnd::default() }
    }
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        (sealer, spool): (ChunkSealer, &'a Spool),
        sources: &Sources,
        (clock, until): (Clock, Instant),
        course: &'a Course,
    ) -> Self {
        Self {
            sealer,
            spool,
            course,
            clock,
            until,
            item_bytes: sources.item_bytes,
            total_bytes: sources.total_bytes,
            rest: Vec::new(),
            hashes: ChunkHashes::default(),
            made: Made::default(),
        }
    }

    /// Whether one more item may be spoken of.
    pub(super) fn has_room(&self) -> bool {
        let items = usize::try_from(self.made.items).unwrap_or(usize::MAX);
        items < limits::COLLECTION_ITEMS && self.made.about_bytes < ABOUT_BYTES
    }

    /// Begins an item. When the time is up nothing is read of it.
    pub(super) fn begin(&mut self, item: Item) -> Result<Open, SpoolError> {
        if self.course.is_left() {
            return Err(SpoolError::Left);
        }
        self.made.items += 1;
        self.record(&Record::Item(item))?;
        let left = self.total_bytes.saturating_sub(self.made.content_bytes);
        let most = if self.is_late() { 0 } else { self.item_bytes.min(left) };
        Ok(Open { context: Context::new(&SHA256), bytes: 0, most })
    }

    /// Whether the time for reading is up.
    pub(super) fn is_late(&self) -> bool {
        self.clock.now() >= self.until
    }

    /// Adds what was read of an item, in pieces of at most [`CONTENT_BYTES`].
    pub(super) fn add(&mut self, open: &mut Open, bytes: &[u8]) -> Result<(), SpoolError> {
        if self.course.is_left() {
            return Err(SpoolError::Left);
        }
        for piece in bytes.chunks(CONTENT_BYTES) {
            open.context.update(piece);
            open.bytes += piece.len() as u64;
            self.made.content_bytes += piece.len() as u64;
            self.record(&Record::Content(piece.to_vec()))?;
        }
        Ok(())
    }

    /// Ends an item.
    pub(super) fn end(&mut self, end: ItemEnd) -> Result<(), SpoolError> {
        self.made.left_out += u32::from(!end.is_whole());
        self.record(&Record::End(end))
    }

    /// An item of which nothing is read.
    pub(super) fn empty(&mut self, item: Item, trouble: Option<String>) -> Result<(), SpoolError> {
        let open = self.begin(item)?;
        self.end(ItemEnd { trouble, ..open.end() })
    }

    /// Seals what is left, and says what all of it is.
    pub(super) fn finish(mut self) -> Result<Collection, SpoolError> {
        self.record(&Record::Done)?;
        let rest = std::mem::take(&mut self.rest);
        self.seal(rest, true)?;
        let Made { chunks, bytes, items, left_out, content_bytes, .. } = self.made;
        let (chunks_sha256, once) = (self.hashes.finish(), self.sealer.once());
        Ok(Collection { chunks, bytes, chunks_sha256, once, items, left_out, content_bytes })
    }

    fn record(&mut self, record: &Record) -> Result<(), SpoolError> {
        let bytes = record.encode();
        match record {
            Record::Content(_) => {}
            Record::Item(_) | Record::End(_) | Record::Done => {
                self.made.about_bytes += bytes.len() as u64;
            }
        }
        self.rest.extend_from_slice(&bytes);
        // The last chunk is never empty.
        while self.rest.len() > limits::CHUNK_BYTES {
            let rest = self.rest.split_off(limits::CHUNK_BYTES);
            let chunk = std::mem::replace(&mut self.rest, rest);
            self.seal(chunk, false)?;
        }
        Ok(())
    }

    fn seal(&mut self, chunk: Vec<u8>, is_last: bool) -> Result<(), SpoolError> {
        let sealed = self.sealer.seal(chunk, is_last)?;
        self.spool.put(self.made.chunks, &sealed)?;
        self.hashes.add(&Hash::sha256(&sealed));
        self.made.chunks += 1;
        self.made.bytes += sealed.len() as u64;
        let (done, all) = (self.made.content_bytes, self.total_bytes);
        self.course.tell(Advance::at("chunks").bytes(done, all));
        Ok(())
    }
}
