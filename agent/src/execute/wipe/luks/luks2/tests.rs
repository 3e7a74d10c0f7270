//! Headers made by hand: which ones count, and what impossible ones are answered with.

use aws_lc_rs::digest::{SHA256, digest};

use super::super::memory::Memory;
use super::{LayoutError, SIZES, claimed_uuid, layout, shows_header};

const UUID: &str = "0e9f5b9c-93a8-4d5e-8a0e-1f2a3b4c5d6e";
const VOLUME_BYTES: usize = 20 * 1024 * 1024;

fn json(keyslot: u64, data: u64) -> String {
    format!(
        r#"{{"keyslots":{{"1":{{"type":"luks2","area":{{"offset":"{keyslot}","size":"4096"}}}}}},
        "segments":{{"0":{{"type":"crypt","offset":"{data}","size":"dynamic"}}}},
        "digests":{{}},"tokens":{{}},
        "config":{{"json_size":"12288","keyslots_size":"65536"}}}}"#
    )
}

/// One header of 16 KiB with a correct checksum.
fn header(magic: &[u8; 6], offset: u64, sequence: u64, json: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x4000];
    bytes[..6].copy_from_slice(magic);
    bytes[6..8].copy_from_slice(&2u16.to_be_bytes());
    bytes[8..16].copy_from_slice(&0x4000u64.to_be_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_be_bytes());
    bytes[72..78].copy_from_slice(b"sha256");
    bytes[168..168 + UUID.len()].copy_from_slice(UUID.as_bytes());
    bytes[256..264].copy_from_slice(&offset.to_be_bytes());
    bytes[4096..4096 + json.len()].copy_from_slice(json.as_bytes());
    let checksum = digest(&SHA256, &bytes);
    bytes[448..480].copy_from_slice(checksum.as_ref());
    bytes
}

fn volume(primary: &[u8], secondary: &[u8]) -> Memory {
    let mut bytes = vec![0; VOLUME_BYTES];
    bytes[..primary.len()].copy_from_slice(primary);
    bytes[0x4000..0x4000 + secondary.len()].copy_from_slice(secondary);
    Memory(bytes)
}

fn pair(json: &str) -> Memory {
    volume(&header(b"LUKS\xba\xbe", 0, 3, json), &header(b"SKUL\xba\xbe", 0x4000, 3, json))
}

#[test]
fn layout_spans_everything_between_headers_and_data() {
    let layout = layout(&pair(&json(0x8000, 0x10_0000))).unwrap();
    assert_eq!(layout.uuid, UUID);
    assert_eq!((layout.header_bytes, layout.keyslots), (0x4000, 1));
    assert_eq!(layout.key_area, 0x8000..0x10_0000);
    assert_eq!(layout.data, Some(0x10_0000..VOLUME_BYTES as u64));
}

#[test]
fn detached_data_leaves_the_keyslots_area_that_the_header_names() {
    let layout = layout(&pair(&json(0x8000, 0))).unwrap();
    assert_eq!(layout.key_area, 0x8000..0x8000 + 65536);
    assert_eq!(layout.data, None);
}

#[test]
fn second_header_serves_when_the_first_is_damaged_or_older() {
    let (old, new) = (json(0x8000, 0x8_0000), json(0x8000, 0x10_0000));
    let second = header(b"SKUL\xba\xbe", 0x4000, 4, &new);
    let mut damaged = header(b"LUKS\xba\xbe", 0, 9, &old);
    damaged[5000] ^= 1;
    for first in [damaged, header(b"LUKS\xba\xbe", 0, 3, &old), Vec::new()] {
        let volume = volume(&first, &second);
        assert_eq!(layout(&volume).unwrap().key_area.end, 0x10_0000);
        assert_eq!(claimed_uuid(&volume, 0x4000).unwrap().as_deref(), Some(UUID));
    }
}

#[test]
fn impossible_extents_are_refused() {
    for json in [json(0x4000, 0x10_0000), json(0xf_ffff, 0x10_0000), json(u64::MAX, 0x10_0000)] {
        assert!(matches!(layout(&pair(&json)), Err(LayoutError::Impossible("keyslot"))));
    }
    assert!(matches!(layout(&pair("{}")), Err(LayoutError::Impossible("JSON area"))));
}

#[test]
fn anything_else_is_not_luks2() {
    let mut version_1 = header(b"LUKS\xba\xbe", 0, 3, "{}");
    version_1[7] = 1;
    let mut huge = header(b"LUKS\xba\xbe", 0, 3, "{}");
    huge[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    for bytes in [version_1, huge, vec![0; 0x4000]] {
        assert!(matches!(layout(&volume(&bytes, &[])), Err(LayoutError::NotLuks)));
    }
    for length in [0, 1, 511, 4096, 0x4000, 0x8000] {
        let mut cut = pair(&json(0x8000, 0x10_0000));
        cut.0.truncate(length);
        assert!(layout(&cut).is_err(), "{length} bytes");
    }
}

#[test]
fn header_is_seen_wherever_one_can_begin() {
    assert!(!shows_header(&volume(&[], &[])).unwrap());
    for offset in std::iter::once(0).chain(SIZES) {
        let mut volume = volume(&[], &[]);
        let offset = usize::try_from(offset).unwrap();
        volume.0[offset..offset + 6].copy_from_slice(b"SKUL\xba\xbe");
        assert!(shows_header(&volume).unwrap(), "{offset}");
    }
}
