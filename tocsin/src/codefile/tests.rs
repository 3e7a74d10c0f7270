//! Tests of files of offline codes.

use protocol::fixture::{device, order};

use super::*;

/// As cheap as argon2 allows: these tests are not about its strength.
const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };
const PASSPHRASE: &str = "correct horse";

fn made(folder: &Path) -> PathBuf {
    let path = folder.join("codes");
    let devices = [(device(1), "web-1"), (device(2), "web-2"), (device(3), "web-2")];
    let devices = devices.map(|(id, name)| (id, name.to_owned())).into();
    let subject = Subject { verb: Verb::Lock, devices };
    let (secret, entropy) = (OfflineSecret::new([5; 32]), Entropy::seeded(7));
    CodeFile::create(&path, &secret, subject, (PASSPHRASE, CHEAP), &entropy).unwrap();
    path
}

#[test]
fn codes_come_back_with_the_passphrase_and_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    CodeFile::read(&path).unwrap().accepted(order(1)).unwrap();
    let file = CodeFile::read(&path).unwrap();
    assert_eq!((file.order(), file.verb()), (Some(order(1)), Verb::Lock));
    let (id, name) = file.device("web-1").unwrap();
    assert_eq!((id, name), (device(1), "web-1"));
    let code = file.open(PASSPHRASE).unwrap().code(&id);
    assert_eq!(code, OfflineSecret::new([5; 32]).code(&device(1)));
    assert!(matches!(
        file.open("battery staple"),
        Err(CodeFileError::Sealing(SealError::Passphrase))
    ));
}

#[test]
fn name_of_two_devices_names_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = CodeFile::read(&made(folder.path())).unwrap();
    assert!(matches!(file.device("web-2"), Err(CodeFileError::Device(_))));
    assert!(matches!(file.device("web-3"), Err(CodeFileError::Device(_))));
    assert_eq!(file.device(&device(3).to_string()).unwrap().0, device(3));
}

#[test]
fn secret_is_not_in_the_file_and_an_altered_file_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("BQUFBQUFBQUF"), "fives as base64");
    for (from, to) in
        [("web-1", "web-9"), ("\"lock\"", "\"quarantine\""), ("passes = 1", "passes = 2")]
    {
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let altered = CodeFile::read(&path).unwrap();
        assert!(altered.open(PASSPHRASE).is_err(), "{from}");
    }
}

#[test]
fn existing_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let subject = Subject { verb: Verb::Lock, devices: BTreeMap::new() };
    let again = CodeFile::create(
        &path,
        &OfflineSecret::new([6; 32]),
        subject,
        (PASSPHRASE, CHEAP),
        &Entropy::seeded(8),
    );
    assert!(matches!(again, Err(CodeFileError::Exists(_))));
    assert!(CodeFile::read(&path).unwrap().open(PASSPHRASE).is_ok());
}
