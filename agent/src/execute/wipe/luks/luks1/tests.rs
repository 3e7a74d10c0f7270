//! LUKS1 headers made by hand: which ones count, and what impossible ones are answered with.

use super::super::memory::Memory;
use super::super::{Format, LayoutError, claimed_uuid};
use super::*;

const UUID: &str = "0e9f5b9c-93a8-4d5e-8a0e-1f2a3b4c5d6e";
const VOLUME_BYTES: usize = 4 * 1024 * 1024;
/// Sectors between two keyslots of 32 bytes in 4000 stripes, as cryptsetup places them.
const SLOT_SECTORS: u32 = 256;

/// A volume whose keyslots begin at sector 8 and whose data begins at that sector.
fn volume(payload: u32) -> Memory {
    let mut bytes = vec![0; VOLUME_BYTES];
    bytes[..6].copy_from_slice(PRIMARY);
    bytes[6..8].copy_from_slice(&1u16.to_be_bytes());
    bytes[104..108].copy_from_slice(&payload.to_be_bytes());
    bytes[108..112].copy_from_slice(&32u32.to_be_bytes());
    bytes[168..168 + UUID.len()].copy_from_slice(UUID.as_bytes());
    for slot in 0..8u32 {
        let at = KEYSLOTS_AT + slot as usize * KEYSLOT_BYTES;
        let state = if slot < 2 { ENABLED } else { 0x0000_DEAD };
        bytes[at..at + 4].copy_from_slice(&state.to_be_bytes());
        let start = 8 + slot * SLOT_SECTORS;
        bytes[at + 40..at + 44].copy_from_slice(&start.to_be_bytes());
        bytes[at + 44..at + 48].copy_from_slice(&4000u32.to_be_bytes());
    }
    Memory(bytes)
}

fn found(volume: &Memory) -> Layout {
    layout(volume).unwrap().unwrap()
}

#[test]
fn layout_spans_all_eight_keyslots_used_or_not() {
    let layout = found(&volume(4096));
    assert_eq!((layout.format, layout.uuid.as_str()), (Format::Luks1, UUID));
    assert_eq!((layout.header_bytes, layout.keyslots), (4096, 2));
    assert_eq!(layout.key_area, 4096..4096 * 512);
    assert_eq!(layout.data, Some(4096 * 512..VOLUME_BYTES as u64));
    let named = claimed_uuid(&volume(4096), Format::Luks1, 4096).unwrap();
    assert_eq!(named.as_deref(), Some(UUID));
}

#[test]
fn detached_data_leaves_the_keyslots_that_the_header_names() {
    let end = u64::from(8 + 7 * SLOT_SECTORS) * 512 + 128_000;
    for payload in [0, 8, u32::MAX] {
        let layout = found(&volume(payload));
        assert_eq!((layout.key_area, layout.data), (4096..end, None), "{payload}");
    }
}

#[test]
fn impossible_lengths_are_refused() {
    let cases: [(usize, u32, &str); 6] = [
        (108, 0, "key length"),
        (108, 513, "key length"),
        (KEYSLOTS_AT + 40, 1, "keyslot"),
        (KEYSLOTS_AT + 44, 0, "keyslot"),
        (KEYSLOTS_AT + 44, 4001, "keyslot"),
        (KEYSLOTS_AT + 40, u32::MAX, "keyslot"),
    ];
    for (at, number, what) in cases {
        let mut volume = volume(0);
        volume.0[at..at + 4].copy_from_slice(&number.to_be_bytes());
        let error = layout(&volume).unwrap_err();
        assert!(matches!(error, LayoutError::Impossible(word) if word == what), "{at} {number}");
    }
    let mut nameless = volume(4096);
    nameless.0[168] = b'/';
    assert!(matches!(layout(&nameless), Err(LayoutError::Impossible("UUID"))));
}

#[test]
fn anything_else_is_not_luks1() {
    let mut version_2 = volume(4096);
    version_2.0[7] = 2;
    let mut short = volume(4096);
    short.0.truncate(1023);
    for volume in [version_2, short, Memory(Vec::new()), Memory(vec![0; 4096])] {
        assert!(layout(&volume).unwrap().is_none());
    }
}
