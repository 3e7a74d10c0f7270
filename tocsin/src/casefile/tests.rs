//! Case keys that only their passphrase opens.

use std::fs;

use super::*;

const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

#[test]
fn sealed_key_opens_with_its_passphrase_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.key");
    let public = create(&path, ("correct horse", CHEAP), &Entropy::system()).unwrap();
    assert!(is_sealed(&path).unwrap());
    let secret = open(&path, "correct horse").unwrap();
    assert_eq!(secret.public().unwrap(), public);
    assert!(!fs::read_to_string(&path).unwrap().contains(&secret.reveal()));
    assert!(matches!(open(&path, "correct hors"), Err(KeyFileError::Passphrase(_))));
    let again = create(&path, ("correct horse", CHEAP), &Entropy::system());
    assert!(matches!(again, Err(KeyFileError::Exists(_))));
    let other = folder.path().join("other.key");
    let short = create(&other, ("short", CHEAP), &Entropy::system());
    assert!(matches!(short, Err(KeyFileError::TooShort)));
}

#[test]
fn public_half_that_was_exchanged_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let public = create(&one, ("correct horse", CHEAP), &Entropy::system()).unwrap();
    let other = create(&two, ("correct horse", CHEAP), &Entropy::system()).unwrap();
    let text = fs::read_to_string(&one).unwrap();
    fs::write(&one, text.replace(&public.to_string(), &other.to_string())).unwrap();
    assert!(matches!(open(&one, "correct horse"), Err(KeyFileError::Passphrase(_))));
}

#[test]
fn plain_key_of_a_former_version_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.key");
    let secret = CaseSecret::new([7; 32]);
    fs::write(&path, format!("{}\n", secret.reveal())).unwrap();
    assert!(!is_sealed(&path).unwrap());
    assert_eq!(open_plain(&path).unwrap().public(), secret.public());
    fs::write(&path, "no key").unwrap();
    assert!(matches!(open_plain(&path), Err(KeyFileError::Malformed(_))));
}
