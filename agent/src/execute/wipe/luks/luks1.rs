//! Reads LUKS1 headers, and nothing else: where the keys are.
//!
//! Source: "LUKS On-Disk Format Specification" 1.2.3, chapter 2. One header of 592 bytes without
//! a checksum names eight keyslots; each has its key material, spread over stripes, in front of
//! the data. Every length that the header claims is bounded before it is used.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Format, Layout, LayoutError, PRIMARY, SECTOR, be16, be32, uuid};
use crate::execute::sha256_hex;
use crate::execute::wipe::volume::Volume;

#[cfg(test)]
mod tests;

/// Bytes of the header, up to a whole sector.
const HEADER_BYTES: usize = 2 * SECTOR;
/// Keyslots that every header has, used or not.
pub(super) const KEYSLOTS: u32 = 8;
/// Where their descriptions begin, and how long each is.
const KEYSLOTS_AT: usize = 208;
const KEYSLOT_BYTES: usize = 48;
/// The salt within.
const SALT: Range<usize> = 8..40;
/// What a keyslot in use begins with; the specification calls it LUKS_KEY_ENABLED.
const ENABLED: u32 = 0x00AC_71F3;
/// Longest key, and most stripes, that cryptsetup makes or accepts.
const MAX_KEY_BYTES: u32 = 512;
const MAX_STRIPES: u32 = 4000;

/// The layout, where the volume begins with a LUKS1 header.
pub(super) fn layout(volume: &dyn Volume) -> Result<Option<Layout>, LayoutError> {
    if volume.size() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut header = vec![0; HEADER_BYTES];
    volume.read_at(&mut header, 0)?;
    if !is_header(&header) {
        return Ok(None);
    }
    parse(&header, volume.size()).map(Some)
}

/// The UUID that the first sector names, where it is one of a LUKS1 header.
pub(super) fn claimed_uuid(sector: &[u8; SECTOR]) -> Option<String> {
    if is_header(sector) { uuid(sector) } else { None }
}

fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(PRIMARY) && be16(bytes, 6) == 1
}

fn parse(header: &[u8], volume_bytes: u64) -> Result<Layout, LayoutError> {
    let impossible = LayoutError::Impossible;
    let sectors = |at: usize| u64::from(be32(header, at)) * SECTOR as u64;
    let (payload, key_bytes) = (sectors(104), be32(header, 108));
    if key_bytes == 0 || key_bytes > MAX_KEY_BYTES {
        return Err(impossible("key length"));
    }
    let mut starts = u64::MAX;
    let mut end = 0;
    let mut salts = BTreeMap::new();
    for (slot, at) in (0..KEYSLOTS).zip((KEYSLOTS_AT..).step_by(KEYSLOT_BYTES)) {
        let (start, stripes) = (sectors(at + 40), be32(header, at + 44));
        if start < HEADER_BYTES as u64 || stripes == 0 || stripes > MAX_STRIPES {
            return Err(impossible("keyslot"));
        }
        let material = u64::from(key_bytes) * u64::from(stripes);
        starts = starts.min(start);
        end = end.max(start + material.next_multiple_of(SECTOR as u64));
        if be32(header, at) == ENABLED {
            salts.insert(slot, sha256_hex(&header[at + SALT.start..at + SALT.end]));
        }
    }
    // A payload that begins before the keys end is a payload on another device.
    let data = (payload >= end && payload <= volume_bytes).then_some(payload..volume_bytes);
    let key_area = starts..data.as_ref().map_or(end, |data| data.start);
    if key_area.end > volume_bytes {
        return Err(impossible("keyslot"));
    }
    Ok(Layout {
        format: Format::Luks1,
        uuid: uuid(header).ok_or(impossible("UUID"))?,
        header_bytes: starts,
        keyslots: salts.len(),
        salts,
        key_area,
        data: data.filter(|data| !data.is_empty()),
    })
}
