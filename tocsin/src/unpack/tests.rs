//! What a hostile device packs makes numbered files in one folder, or nothing.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::collection::{Item, ItemEnd, Kind, Record, Source};
use protocol::sealed::CaseSecret;

use super::{UnpackError, Unpacked, file_name, into};

const ABOUT: &[u8] = b"command";

fn item(name: &str) -> Record {
    let (source, kind) = (Source::Path, Kind::Link);
    let target = Some("/etc/shadow".to_owned());
    Record::Item(Item { source, name: name.to_owned(), kind, target, stat: None })
}

fn end(contents: &[u8]) -> Record {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, contents);
    let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Record::End(ItemEnd { bytes: contents.len() as u64, sha256, ..ItemEnd::default() })
}

/// Unpacks records that are sealed in one chunk into a folder of that name.
fn unpacked(folder: &Path, records: &[Record]) -> Result<Unpacked, UnpackError> {
    let case = CaseSecret::new([9; 32]);
    let mut sealer = case.public().unwrap().chunks(ABOUT, [3; 32]).unwrap();
    let bytes = records.iter().flat_map(Record::encode).collect();
    let chunk: PathBuf = folder.with_extension("chunk");
    fs::write(&chunk, sealer.seal(bytes, true).unwrap()).unwrap();
    let opener = case.chunks(ABOUT, &sealer.once()).unwrap();
    into(folder, opener, &[chunk])
}

#[test]
fn names_of_the_endpoint_lead_nowhere() {
    for (name, kept) in [
        ("/etc/passwd", "00007-passwd"),
        ("/a/../../..", "00007-.."),
        ("/a/b\u{202e}c\\x1b[2J", "00007-bcx1b2J"),
        ("", "00007-"),
    ] {
        assert_eq!(file_name(7, name), kept);
    }
    assert_eq!(file_name(7, &"x".repeat(5000)).len(), 6 + 48);
}

#[test]
fn items_become_numbered_files_of_exactly_their_contents() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("items");
    let names = ["../../../../tmp/evil", "/etc/cron.d/x", "/etc/cron.d/x"];
    let mut records = Vec::new();
    for name in names {
        records.extend([item(name), Record::Content(b"one".to_vec()), end(b"one")]);
    }
    records.extend([item("/empty"), end(b""), Record::Done]);
    let found = unpacked(&folder, &records).unwrap();
    assert_eq!(found, Unpacked { items: 4, left_out: 0, bytes: 9 });
    let mut there: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .inspect(|entry| assert!(entry.file_type().unwrap().is_file()))
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, ["00000-evil", "00001-x", "00002-x", "index.json"]);
    assert_eq!(fs::read(folder.join("00001-x")).unwrap(), b"one");
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(index[0]["name"], names[0]);
    assert_eq!(index[3].get("file"), None);
    // What is there already is left alone.
    assert!(unpacked(&folder, &records).is_err());
    assert_eq!(fs::read(folder.join("00001-x")).unwrap(), b"one");
}

#[test]
fn what_lies_about_itself_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let content = || Record::Content(b"one".to_vec());
    let broken = [
        vec![item("a"), content(), end(b"two"), Record::Done],
        vec![item("a"), content(), end(b"one")],
        vec![item("a"), content(), Record::Done],
        vec![content(), end(b"one"), Record::Done],
        vec![item("a"), end(b""), Record::Done, item("b"), end(b"")],
    ];
    for (number, records) in broken.iter().enumerate() {
        let folder = place.path().join(number.to_string());
        assert!(unpacked(&folder, records).is_err(), "{records:?}");
        assert!(!folder.exists(), "{records:?}");
    }
}

#[test]
fn hostile_names_fill_the_disk_of_whoever_unpacks_and_not_the_memory() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("items");
    let case = CaseSecret::new([9; 32]);
    let mut sealer = case.public().unwrap().chunks(ABOUT, [3; 32]).unwrap();
    let opener = case.chunks(ABOUT, &sealer.once()).unwrap();
    // 100 MB of names.
    let pair: Vec<u8> =
        [item(&"x".repeat(50_000)), end(b"")].iter().flat_map(Record::encode).collect();
    let mut chunks = Vec::new();
    for number in 0..=400_usize {
        let bytes = if number == 400 { Record::Done.encode() } else { pair.repeat(5) };
        let path = place.path().join(number.to_string());
        fs::write(&path, sealer.seal(bytes, number == 400).unwrap()).unwrap();
        chunks.push(path);
    }
    let before = most_kb();
    let found = into(&folder, opener, &chunks).unwrap();
    assert_eq!(found.items, 2000);
    let taken = most_kb() - before;
    assert!(taken < 20_000, "{taken} kB");
    let index = fs::read(folder.join("index.json")).unwrap();
    assert!(index.len() > 100_000_000);
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).unwrap();
    assert_eq!(index.len(), 2000);
}

/// The most memory that this process had (`proc_pid_status(5)`).
fn most_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}
