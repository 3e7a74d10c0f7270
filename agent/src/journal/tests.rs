//! The journal under torn writes, damage, a failing disk, and against a plain list.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use protocol::id::CommandId;
use protocol::jws::CompactJws;
use protocol::ledger::Record;
use protocol::state::PerLane;
use protocol::time::Timestamp;
use runtime::files::FileError;

use super::{Disk, Filesystem, HEADER, Journal, JournalError, Medium, Opened};

fn command(number: u8) -> CommandId {
    CommandId::new(Timestamp::from_millis(1), [number; 10])
}

fn intent(number: u8) -> Record {
    Record::Intent { command_id: command(number) }
}

fn done(number: u8, text: &str) -> Record {
    let receipt = CompactJws::from_text(text.to_owned());
    Record::Done { command_id: command(number), receipt }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    Journal::create(&path).unwrap();
    (folder, path)
}

/// A journal of those records, in a folder of its own.
fn written(records: &[Record]) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = folder();
    let mut journal = Journal::open(&path).unwrap().journal;
    for record in records {
        journal.append(std::slice::from_ref(record)).unwrap();
    }
    (folder, path)
}

fn open(path: &Path) -> Opened {
    Journal::open(path).unwrap()
}

#[test]
fn torn_end_is_cut_at_every_byte() {
    let records = [intent(1), done(1, "receipt"), intent(2)];
    let (_folder, path) = written(&records);
    let whole = std::fs::read(&path).unwrap();
    let (_other, two) = written(&records[..2]);
    let before = std::fs::read(two).unwrap().len();
    for end in before..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        let mut opened = open(&path);
        assert_eq!(opened.records, records[..2], "cut at {end}");
        assert_eq!((opened.damage, opened.torn_bytes), (None, (end - before) as u64));
        opened.journal.append(&[intent(3)]).unwrap();
        let expected = [intent(1), done(1, "receipt"), intent(3)];
        assert_eq!(open(&path).records, expected, "appended after a cut at {end}");
    }
}

#[test]
fn flipped_byte_in_the_last_record_is_a_torn_end() {
    let (_folder, path) = written(&[intent(1), intent(2)]);
    let whole = std::fs::read(&path).unwrap();
    let (_other, one) = written(&[intent(1)]);
    for at in std::fs::read(one).unwrap().len()..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let opened = open(&path);
        assert_eq!(opened.records, [intent(1)], "flipped at {at}");
        assert_eq!(opened.damage, None);
    }
}

#[test]
fn damage_in_the_middle_keeps_the_beginning_and_sets_the_rest_aside() {
    let last_seq = PerLane { urgent: 9, bulk: 4 };
    let (_folder, path) = written(&[intent(1), intent(2), Record::Sequence { last_seq }]);
    let mut bytes = std::fs::read(&path).unwrap();
    let (_other, one) = written(&[intent(1)]);
    let at = std::fs::read(one).unwrap().len() + 12;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let opened = open(&path);
    let damage = opened.damage.unwrap();
    assert_eq!(opened.records, [intent(1)]);
    assert_eq!(damage.beyond, [Record::Sequence { last_seq }]);
    assert_eq!(std::fs::read(damage.set_aside.unwrap()).unwrap(), bytes);
    let again = open(&path);
    assert_eq!((again.records, again.damage), (vec![intent(1)], None));
}

#[test]
fn lost_or_headless_journal_is_damage() {
    let (_folder, path) = folder();
    std::fs::remove_file(&path).unwrap();
    assert!(open(&path).damage.is_some());
    assert!(open(&path).damage.is_none());
    std::fs::write(&path, b"").unwrap();
    assert!(open(&path).damage.is_some());
    std::fs::write(&path, b"TOCSINJx").unwrap();
    assert!(open(&path).damage.is_some());
}

#[test]
fn journal_of_a_newer_agent_is_refused_and_left_as_it_is() {
    let (_folder, path) = written(&[intent(1)]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] = b'9';
    std::fs::write(&path, &bytes).unwrap();
    let refused = Journal::open(&path).unwrap_err();
    assert!(matches!(refused, JournalError::Newer { found: '9', .. }), "{refused:?}");
    assert!(refused.to_string().contains("version 9; this agent reads 1"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn compaction_replaces_the_whole_and_appending_goes_on() {
    let (_folder, path) = written(&[intent(1), intent(2)]);
    let mut journal = open(&path).journal;
    journal.compact(&[intent(2)]).unwrap();
    journal.append(&[intent(3)]).unwrap();
    assert_eq!(journal.len(), std::fs::metadata(&path).unwrap().len());
    assert_eq!(open(&path).records, [intent(2), intent(3)]);
}

#[test]
fn overlong_record_is_an_error_and_leaves_nothing() {
    let (_folder, path) = folder();
    let mut journal = open(&path).journal;
    let long = done(1, &"x".repeat(super::RECORD_BYTES));
    assert!(matches!(journal.append(&[long]), Err(JournalError::TooLong(_))));
    journal.append(&[intent(1)]).unwrap();
    assert_eq!(open(&path).records, [intent(1)]);
}

/// A file that fails as told, once, and is a file otherwise.
#[derive(Debug)]
struct Faulty {
    file: std::fs::File,
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The disk is full after that many bytes.
    Full(usize),
    /// Written bytes cannot be made durable.
    Sync,
    /// Every write takes one byte only.
    Short,
}

impl Medium for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.fault {
            Some(Fault::Full(0)) => {
                self.fault = None;
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(Fault::Full(room)) => {
                let count = Medium::write(&mut self.file, &bytes[..room.min(bytes.len())])?;
                self.fault = Some(Fault::Full(room - count));
                Ok(count)
            }
            Some(Fault::Short) => Medium::write(&mut self.file, &bytes[..1]),
            Some(Fault::Sync) | None => Medium::write(&mut self.file, bytes),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.fault == Some(Fault::Sync) {
            self.fault = None;
            return Err(io::Error::from_raw_os_error(5));
        }
        Medium::sync(&mut self.file)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.cut(len)
    }
}

/// A disk whose journal meets one fault.
#[derive(Debug)]
struct FaultyDisk(Option<Fault>);

impl Disk for FaultyDisk {
    type File = Faulty;

    fn exists(&self, path: &Path) -> bool {
        Filesystem.exists(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Filesystem.read(path)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        Filesystem.replace(path, bytes)
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        Filesystem.keep(path, bytes)
    }

    fn append_at(&self, path: &Path, len: u64) -> io::Result<Faulty> {
        Ok(Faulty { file: Filesystem.append_at(path, len)?, fault: self.0 })
    }
}

fn faulty(path: &Path, fault: Fault) -> Journal<FaultyDisk> {
    let mut journal = Journal::open_on(FaultyDisk(None), path).unwrap().journal;
    journal.medium.fault = Some(fault);
    journal
}

#[test]
fn records_that_cannot_be_synced_are_not_believed_at_open() {
    // A process that was killed before its sync leaves them in memory only.
    let (_folder, path) = written(&[intent(1)]);
    let opened = Journal::open_on(FaultyDisk(Some(Fault::Sync)), &path);
    assert!(matches!(opened, Err(JournalError::Io { step: "sync", .. })), "{opened:?}");
    assert_eq!(open(&path).records, [intent(1)]);
}

#[test]
fn record_that_failed_to_become_durable_is_gone_after_the_next_append() {
    for fault in [Fault::Full(0), Fault::Full(1), Fault::Full(20), Fault::Sync] {
        let (_folder, path) = written(&[intent(1)]);
        let mut journal = faulty(&path, fault);
        assert!(journal.append(&[intent(2)]).is_err(), "{fault:?}");
        journal.append(&[intent(3)]).unwrap();
        assert_eq!(open(&path).records, [intent(1), intent(3)], "{fault:?}");
    }
}

#[test]
fn short_writes_are_continued() {
    let (_folder, path) = folder();
    faulty(&path, Fault::Short).append(&[intent(1), intent(2)]).unwrap();
    assert_eq!(open(&path).records, [intent(1), intent(2)]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Record>),
    Reopen,
    Compact,
    /// A crash leaves the beginning of a record behind.
    Tear(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0_u8..8, "[a-z]{0,40}").prop_map(|(n, text)| done(n, &text));
    let step = prop_oneof![
        4 => proptest::collection::vec(record, 1..4).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
        2 => (1_usize..60).prop_map(Step::Tear),
    ];
    proptest::collection::vec(step, 1..20)
}

proptest! {
    #[test]
    fn journal_equals_a_plain_list(steps in steps()) {
        let (_folder, path) = folder();
        let mut model: Vec<Record> = Vec::new();
        let mut journal = open(&path).journal;
        for step in steps {
            match step {
                Step::Append(records) => {
                    journal.append(&records).unwrap();
                    model.extend(records);
                }
                Step::Reopen => journal = open(&path).journal,
                Step::Compact => {
                    model.drain(..model.len() / 2);
                    journal.compact(&model).unwrap();
                }
                Step::Tear(len) => {
                    let mut record = Vec::new();
                    super::encode(&done(9, "torn"), &mut record).unwrap();
                    let torn = &record[..len.min(record.len() - 1)];
                    OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
                    journal = open(&path).journal;
                }
            }
            let opened = open(&path);
            prop_assert_eq!(&opened.records, &model);
            prop_assert!(opened.damage.is_none());
        }
        prop_assert!(std::fs::read(&path).unwrap().starts_with(HEADER));
    }
}
