//! Records survive any cut, and what is no collection is told from one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn item(name: &str) -> Record {
    let stat = Stat { mode: 0o100_644, uid: 0, gid: 0, bytes: 3, modified_at: -1, changed_at: 2 };
    Record::Item(Item {
        source: Source::Path,
        name: name.to_owned(),
        kind: Kind::File,
        target: None,
        stat: Some(stat),
    })
}

fn end() -> Record {
    Record::End(ItemEnd { bytes: 3, trouble: Some("vanished".to_owned()), ..ItemEnd::default() })
}

fn life() -> Vec<Record> {
    let content = |bytes: &[u8]| Record::Content(bytes.to_vec());
    vec![item("/a"), content(b"ab"), content(b"c"), end(), item("/b"), end(), Record::Done]
}

proptest! {
    #[test]
    fn records_come_out_as_they_went_in_however_they_are_cut(cuts in vec(1_usize..40, 0..80)) {
        let bytes: Vec<u8> = life().iter().flat_map(Record::encode).collect();
        let (mut unpacker, mut out, mut rest) = (Unpacker::default(), Vec::new(), bytes.as_slice());
        for cut in cuts {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            out.extend(unpacker.push(piece).unwrap());
            rest = left;
        }
        out.extend(unpacker.push(rest).unwrap());
        prop_assert_eq!(out, life());
        prop_assert!(unpacker.is_done());
    }

    #[test]
    fn spelled_names_print_and_tell_names_apart(one in vec(any::<u8>(), 0..40), other in vec(any::<u8>(), 0..40)) {
        let (a, b) = (spelled(&one), spelled(&other));
        prop_assert!(a.chars().all(|c| crate::action::is_printable(c.encode_utf8(&mut [0; 4]))));
        prop_assert_eq!(a == b, one == other);
    }
}

#[test]
fn names_are_spelled_so_that_nothing_hides_in_them() {
    assert_eq!(spelled("/tmp/ä b".as_bytes()), "/tmp/ä b");
    assert_eq!(spelled(b"a\x1b[2J\n\\x\xff"), "a\\x1b[2J\\x0a\\\\x\\xff");
    assert_eq!(spelled("a\u{202e}b".as_bytes()), "a\\xe2\\x80\\xaeb");
}

#[test]
fn what_is_too_long_unknown_or_out_of_place_is_refused() {
    let push = |bytes: &[u8]| Unpacker::default().push(bytes);
    assert_eq!(push(&[9, 0, 0, 0, 0]), Err(CollectionError::Record { kind: 9, length: 0 }));
    let length = u32::MAX;
    assert_eq!(push(&[2, 255, 255, 255, 255]), Err(CollectionError::Record { kind: 2, length }));
    assert!(matches!(push(&[1, 0, 0, 0, 2, b'{', b'}']), Err(CollectionError::About(_))));
    for records in [
        vec![Record::Content(vec![1])],
        vec![end()],
        vec![item("a"), item("b")],
        vec![item("a"), Record::Done],
        vec![Record::Done, Record::Done],
    ] {
        let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
        assert_eq!(push(&bytes), Err(CollectionError::Order), "{records:?}");
    }
    let mut unpacker = Unpacker::default();
    let bytes: Vec<u8> = life().iter().flat_map(Record::encode).collect();
    unpacker.push(&bytes[..bytes.len() - 1]).unwrap();
    assert!(!unpacker.is_done(), "it breaks off");
}

#[test]
fn collection_says_what_each_chunk_has_and_nothing_beyond_the_limits() {
    let full = (limits::CHUNK_BYTES + TAG_BYTES) as u64;
    let hash = Hash::sha256(b"");
    let once = crate::sealed::CaseSecret::new([3; 32]).public().unwrap();
    let of = |chunks, bytes| Collection {
        chunks,
        bytes,
        chunks_sha256: hash,
        once,
        items: 1,
        left_out: 0,
        content_bytes: 1,
    };
    let good = of(3, 2 * full + 20);
    assert_eq!(Collection::of(&good.evidence()), Some(good.clone()));
    let lengths: Vec<_> = (0..4).map(|number| good.chunk_bytes(number)).collect();
    let full_chunk = usize::try_from(full).unwrap();
    assert_eq!(lengths, [Some(full_chunk), Some(full_chunk), Some(20), None]);
    for (chunks, bytes) in [
        (0, 0),
        (1, 15),
        (1, full + 1),
        (2, full),
        (2, full + 15),
        (limits::COLLECTION_CHUNKS + 1, full * u64::from(limits::COLLECTION_CHUNKS + 1)),
        (u32::MAX, u64::MAX),
    ] {
        assert_eq!(Collection::of(&of(chunks, bytes).evidence()), None, "{chunks} {bytes}");
    }
    assert_eq!(Collection::of(&Evidence::new()), None);
    let mut swapped = ChunkHashes::default();
    let mut hashes = ChunkHashes::default();
    for (one, other) in [(b"a", b"b"), (b"b", b"a")] {
        hashes.add(&Hash::sha256(one));
        swapped.add(&Hash::sha256(other));
    }
    assert_ne!(hashes.finish(), swapped.finish());
}
