//! What a hostile device packs, as whoever holds the case's key reads it.

use protocol::collection::{Item, ItemEnd, Kind, Record, Source, Unpacker};

/// Records are the same however their bytes are cut, and come in an order that makes sense.
pub(crate) fn run(input: &[u8]) {
    let whole = Unpacker::default().push(input);
    let mut unpacker = Unpacker::default();
    let mut records = Vec::new();
    let mut is_broken = false;
    for byte in input.chunks(3) {
        match unpacker.push(byte) {
            Ok(more) => records.extend(more),
            Err(_) => {
                is_broken = true;
                break;
            }
        }
    }
    assert_eq!(whole.is_err(), is_broken, "how it is cut decides what it is");
    if let Ok(whole) = whole {
        assert_eq!(whole, records, "how it is cut decides what is read");
    }
    let mut is_inside = false;
    for record in &records {
        match record {
            Record::Item(_) => assert!(!std::mem::replace(&mut is_inside, true)),
            Record::Content(_) => assert!(is_inside),
            Record::End(_) => assert!(std::mem::replace(&mut is_inside, false)),
            Record::Done => assert!(!is_inside),
        }
    }
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let item = Item {
        source: Source::Path,
        name: "/etc/passwd".to_owned(),
        kind: Kind::File,
        target: None,
        stat: None,
    };
    let end = ItemEnd { bytes: 4, sha256: "00".to_owned(), is_cut: true, ..ItemEnd::default() };
    let records =
        [Record::Item(item), Record::Content(b"root".to_vec()), Record::End(end), Record::Done];
    let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
    let broken = bytes.iter().copied().take(bytes.len() - 7).collect();
    vec![("whole", bytes), ("broken", broken), ("done", Record::Done.encode())]
}
