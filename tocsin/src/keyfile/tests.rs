//! Tests of sealed key files.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::*;

/// As cheap as argon2 allows: these tests are not about its strength.
const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };
const PASSPHRASE: &str = "correct horse";

fn sealed(folder: &Path) -> (PathBuf, PublicKey) {
    let path = folder.join("alice.key");
    let public = create(&path, PASSPHRASE, CHEAP, &Entropy::seeded(7)).unwrap();
    (path, public)
}

#[test]
fn key_comes_back_with_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let (path, made) = sealed(folder.path());
    assert_eq!(*open(&path, PASSPHRASE).unwrap().public(), made);
    assert_eq!(public(&path).unwrap(), made);
    assert!(is_sealed(&path).unwrap());
}

#[test]
fn wrong_passphrase_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sealed(folder.path());
    assert!(matches!(open(&path, "battery staple"), Err(KeyFileError::Passphrase(_))));
}

#[test]
fn file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sealed(folder.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn seed_is_not_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = sealed(folder.path());
    let seed = Entropy::seeded(7).bytes::<32>();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains(&BASE64.encode(seed)));
}

#[test]
fn altered_file_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let (path, made) = sealed(folder.path());
    let text = std::fs::read_to_string(&path).unwrap();
    let other = SigningKey::from_seed(&[9; 32]).unwrap().public().to_string();
    for (from, to) in [
        (made.to_string(), other),
        ("passes = 1".to_owned(), "passes = 2".to_owned()),
        ("version = 1".to_owned(), "version = 2".to_owned()),
        ("memory_kib = 64".to_owned(), "memory_kib = 4000000".to_owned()),
    ] {
        assert!(text.contains(&from), "{from}");
        std::fs::write(&path, text.replace(&from, &to)).unwrap();
        assert!(open(&path, PASSPHRASE).is_err(), "{to}");
    }
}

#[test]
fn existing_file_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (path, made) = sealed(folder.path());
    let again = create(&path, PASSPHRASE, CHEAP, &Entropy::seeded(8));
    assert!(matches!(again, Err(KeyFileError::Exists(_))));
    assert_eq!(public(&path).unwrap(), made);
}

#[test]
fn short_passphrase_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.key");
    let made = create(&path, "short", CHEAP, &Entropy::seeded(7));
    assert!(matches!(made, Err(KeyFileError::TooShort)));
    assert!(!path.exists());
}

#[test]
fn plain_root_key_is_told_from_a_sealed_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    let made = api::keys::create(&path, &Entropy::seeded(3)).unwrap();
    assert!(!is_sealed(&path).unwrap());
    assert_eq!(open_plain(&path).unwrap().public(), made.public());
    assert!(matches!(open(&path, PASSPHRASE), Err(KeyFileError::Malformed(_))));
}
