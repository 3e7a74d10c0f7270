//! What a wipe knows of LUKS: which format a volume has, and where its keys are.
//!
//! Owns the words that both formats share. Reading their headers is the part of [`luks1`] and
//! [`luks2`]; writing is nobody's here.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::volume::Volume;

mod luks1;
mod luks2;
#[cfg(test)]
mod memory;

/// Bytes of the part that a volume of either format begins with, and that names it.
pub(super) const SECTOR: usize = 512;
/// What a volume of either format begins with.
const PRIMARY: &[u8; 6] = b"LUKS\xba\xbe";

/// Which LUKS a volume is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::execute) enum Format {
    /// One header, without a checksum.
    Luks1,
    /// Two headers of equal size, one behind the other.
    #[default]
    Luks2,
}

impl Format {
    /// The format as evidence and plans name it.
    pub(in crate::execute) const fn as_str(self) -> &'static str {
        match self {
            Self::Luks1 => "luks1",
            Self::Luks2 => "luks2",
        }
    }

    /// Where the headers lie, when one of them has that size.
    pub(super) const fn headers(self, header_bytes: u64) -> Range<u64> {
        match self {
            Self::Luks1 => 0..header_bytes,
            Self::Luks2 => 0..header_bytes * 2,
        }
    }

    /// The parts of the headers in the order in which they may be overwritten: the sector that
    /// names the volume goes in one write, before the last other copy of that name.
    pub(super) fn order(self, header_bytes: usize) -> Vec<Range<usize>> {
        const BINARY: usize = luks2::BINARY_BYTES;
        match self {
            Self::Luks1 => vec![SECTOR..header_bytes, 0..SECTOR],
            Self::Luks2 => vec![
                header_bytes + BINARY..header_bytes * 2,
                BINARY..header_bytes,
                0..BINARY,
                header_bytes..header_bytes + BINARY,
            ],
        }
    }
}

/// Where the parts of a LUKS volume lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Which format it has.
    pub(super) format: Format,
    /// The volume's UUID as its header spells it.
    pub(super) uuid: String,
    /// Bytes of one header.
    pub(super) header_bytes: u64,
    /// How many keyslots hold a key.
    pub(super) keyslots: usize,
    /// Which they are, each with the SHA-256 of its salt: another key has another one.
    pub(super) salts: BTreeMap<u32, String>,
    /// The whole space between the headers and the data.
    pub(super) key_area: Range<u64>,
    /// The data, unless it lies on another device.
    pub(super) data: Option<Range<u64>>,
}

/// Why a volume's layout is not known.
#[derive(Debug, thiserror::Error)]
pub(in crate::execute) enum LayoutError {
    /// The volume could not be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// There is no valid LUKS header.
    #[error("is not a LUKS volume, or its headers are damaged")]
    NotLuks,
    /// A header is valid but says what cannot be.
    #[error("has a LUKS header with an impossible {0}")]
    Impossible(&'static str),
}

/// What there is to know of a volume's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::execute) struct Keys {
    /// Which format it has.
    pub(in crate::execute) format: Format,
    /// The volume's UUID as its header spells it.
    pub(in crate::execute) uuid: String,
    /// The keyslots that hold a key, each with the SHA-256 of its salt.
    pub(in crate::execute) slots: BTreeMap<u32, String>,
}

impl Keys {
    /// The lowest keyslot without a key.
    pub(in crate::execute) fn free_slot(&self) -> Option<u32> {
        let slots = match self.format {
            Format::Luks1 => luks1::KEYSLOTS,
            Format::Luks2 => luks2::KEYSLOTS,
        };
        (0..slots).find(|slot| !self.slots.contains_key(slot))
    }
}

/// The keys as the volume's valid headers tell them.
pub(in crate::execute) fn keys(volume: &dyn Volume) -> Result<Keys, LayoutError> {
    let Layout { format, uuid, salts: slots, .. } = layout(volume)?;
    Ok(Keys { format, uuid, slots })
}

/// The layout as the volume's valid headers tell it.
pub(super) fn layout(volume: &dyn Volume) -> Result<Layout, LayoutError> {
    match luks1::layout(volume)? {
        Some(layout) => Ok(layout),
        None => luks2::layout(volume),
    }
}

/// The UUID that the first header names, or the second where the first is gone; checksums do not
/// matter. Tells a volume that is half destroyed from any other.
pub(super) fn claimed_uuid(
    volume: &dyn Volume,
    format: Format,
    header_bytes: u64,
) -> io::Result<Option<String>> {
    let mut sector = [0; SECTOR];
    if volume.size() < SECTOR as u64 {
        return Ok(None);
    }
    volume.read_at(&mut sector, 0)?;
    match format {
        Format::Luks1 => Ok(luks1::claimed_uuid(&sector)),
        Format::Luks2 => luks2::claimed_uuid(volume, header_bytes),
    }
}

/// Whether any place where a LUKS header can begin still shows one.
pub(super) fn shows_header(volume: &dyn Volume) -> io::Result<bool> {
    luks2::shows_header(volume)
}

/// The UUID field, which both formats have at the same place, if it holds characters of UUIDs
/// only.
fn uuid(header: &[u8]) -> Option<String> {
    text(&header[168..208])
        .filter(|uuid| !uuid.is_empty())
        .filter(|uuid| uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
}

/// A field of text that ends at its first NUL.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).ok()
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes[at..at + 2].iter().fold(0, |number, byte| (number << 8) | u16::from(*byte))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}
