//! Reads LUKS2 headers, and nothing else: where the keys are, and whether a header is left.
//!
//! Source: "LUKS2 On-Disk Format Specification" 1.1.2, chapters 2 and 3. Two headers of equal
//! size lie one behind the other, each a binary part of 4096 bytes and a JSON area; behind them
//! comes the keyslots area, then the data. Every length that a header claims is bounded before it
//! is used. Writing is not this module's business.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use serde::{Deserialize, Deserializer};

use super::{Format, Layout, LayoutError, PRIMARY, be16, be64, text, uuid};
use crate::execute::sha256_hex;
use crate::execute::wipe::volume::Volume;

#[cfg(test)]
mod tests;

/// Keyslots that a header may have.
pub(super) const KEYSLOTS: u32 = 32;
/// Bytes of a header's binary part.
pub(super) const BINARY_BYTES: usize = 4096;
/// Where a secondary header may begin; equally, the sizes that a header may have.
const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
const SECONDARY: &[u8; 6] = b"SKUL\xba\xbe";
/// The checksum field inside the binary part, which counts as zero in the checksum.
const CHECKSUM: Range<usize> = 448..512;
/// Largest keyslots area that cryptsetup makes.
const MAX_KEYSLOTS_BYTES: u64 = 128 * 1024 * 1024;

/// One header that passed its checksum.
struct Header {
    sequence: u64,
    bytes: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    keyslots: BTreeMap<String, Keyslot>,
    segments: BTreeMap<String, Segment>,
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Keyslot {
    area: Area,
    #[serde(default)]
    kdf: Kdf,
}

#[derive(Debug, Default, Deserialize)]
struct Kdf {
    #[serde(default)]
    salt: String,
}

#[derive(Debug, Deserialize)]
struct Area {
    #[serde(deserialize_with = "number")]
    offset: u64,
    #[serde(deserialize_with = "number")]
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Segment {
    #[serde(deserialize_with = "number")]
    offset: u64,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(deserialize_with = "number")]
    keyslots_size: u64,
}

/// LUKS2 writes 64-bit numbers as decimal strings.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The layout as the newest valid header tells it.
pub(super) fn layout(volume: &dyn Volume) -> Result<Layout, LayoutError> {
    let mut newest = header_at(volume, 0, PRIMARY)?;
    for offset in SIZES {
        if let Some(header) = header_at(volume, offset, SECONDARY)?
            && newest.as_ref().is_none_or(|newest| newest.sequence < header.sequence)
        {
            newest = Some(header);
        }
    }
    parse(&newest.ok_or(LayoutError::NotLuks)?.bytes, volume.size())
}

/// The UUID that the first header names, or the second where the first is gone; checksums do not
/// matter. Tells a volume that is half destroyed from any other.
pub(super) fn claimed_uuid(volume: &dyn Volume, header_bytes: u64) -> io::Result<Option<String>> {
    for (offset, magic) in [(0, PRIMARY), (header_bytes, SECONDARY)] {
        let mut sector = [0; 512];
        if volume.size() < offset.saturating_add(512) {
            continue;
        }
        volume.read_at(&mut sector, offset)?;
        if sector.starts_with(magic) && be16(&sector, 6) == 2 {
            return Ok(uuid(&sector));
        }
    }
    Ok(None)
}

/// Whether any place where a LUKS header can begin still shows one.
pub(super) fn shows_header(volume: &dyn Volume) -> io::Result<bool> {
    for offset in std::iter::once(0).chain(SIZES) {
        let mut magic = [0; 6];
        if volume.size() < offset + 6 {
            break;
        }
        volume.read_at(&mut magic, offset)?;
        if &magic == PRIMARY || &magic == SECONDARY {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The header at that offset, if it is whole: magic, version, size, place and checksum.
fn header_at(volume: &dyn Volume, offset: u64, magic: &[u8; 6]) -> io::Result<Option<Header>> {
    let mut binary = vec![0; BINARY_BYTES];
    if volume.size() < offset + BINARY_BYTES as u64 {
        return Ok(None);
    }
    volume.read_at(&mut binary, offset)?;
    let size = be64(&binary, 8);
    let in_place = offset == 0 || offset == size;
    let fits = volume.size().checked_sub(offset).is_some_and(|left| size <= left);
    if !binary.starts_with(magic)
        || be16(&binary, 6) != 2
        || be64(&binary, 256) != offset
        || !(SIZES.contains(&size) && in_place && fits)
    {
        return Ok(None);
    }
    let Ok(length) = usize::try_from(size) else { return Ok(None) };
    let mut bytes = vec![0; length];
    volume.read_at(&mut bytes, offset)?;
    let claimed = bytes[CHECKSUM].to_vec();
    bytes[CHECKSUM].fill(0);
    let algorithm = match text(&bytes[72..104]).as_deref() {
        Some("sha256") => &SHA256,
        Some("sha512") => &SHA512,
        Some(_) | None => return Ok(None),
    };
    let whole = claimed.starts_with(digest(algorithm, &bytes).as_ref());
    Ok(whole.then(|| Header { sequence: be64(&bytes, 16), bytes }))
}

fn parse(header: &[u8], volume_bytes: u64) -> Result<Layout, LayoutError> {
    let impossible = LayoutError::Impossible;
    let header_bytes = be64(header, 8);
    let json = header[BINARY_BYTES..].split(|byte| *byte == 0).next().unwrap_or_default();
    let metadata: Metadata = serde_json::from_slice(json).map_err(|_| impossible("JSON area"))?;
    let start = header_bytes * 2;
    if start > volume_bytes {
        return Err(impossible("size"));
    }
    let first_data = metadata.segments.values().map(|segment| segment.offset).min();
    // Data that begins inside the headers is data on another device.
    let data = first_data.filter(|first| *first >= start).map(|first| first..volume_bytes);
    let end = match &data {
        Some(data) => data.start,
        None if metadata.config.keyslots_size > MAX_KEYSLOTS_BYTES => {
            return Err(impossible("keyslots area"));
        }
        None => start + metadata.config.keyslots_size,
    };
    let key_area = start..end.min(volume_bytes);
    for Keyslot { area, .. } in metadata.keyslots.values() {
        let area_end = area.offset.checked_add(area.size).ok_or(impossible("keyslot"))?;
        if area.offset < key_area.start || area_end > key_area.end {
            return Err(impossible("keyslot"));
        }
    }
    let salt = |(slot, keyslot): (&String, &Keyslot)| {
        Some((slot.parse().ok()?, sha256_hex(keyslot.kdf.salt.as_bytes())))
    };
    let salts = metadata.keyslots.iter().filter_map(salt).collect();
    Ok(Layout {
        format: Format::Luks2,
        uuid: uuid(header).ok_or(impossible("UUID"))?,
        header_bytes,
        keyslots: metadata.keyslots.len(),
        salts,
        key_area,
        data: data.filter(|data| !data.is_empty()),
    })
}
