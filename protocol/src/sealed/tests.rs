//! What is sealed opens for its case and its command, and for nobody and nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::{CaseKey, CaseSecret, SealedError};

#[test]
fn evidence_opens_for_its_case_and_about_its_command_only() {
    let (case, other) = (CaseSecret::new([1; 32]), CaseSecret::new([2; 32]));
    let key = case.public().expect("a key");
    let sealed = key.seal(b"what was seen", b"command", [3; 32]).expect("seals");
    assert_eq!(case.open(&sealed, b"command").expect("opens"), b"what was seen");
    assert_eq!(case.open(&sealed, b"another command"), Err(SealedError::Closed));
    assert_eq!(other.open(&sealed, b"command"), Err(SealedError::Closed));
    let again = key.seal(b"what was seen", b"command", [4; 32]).expect("seals");
    assert_ne!(sealed, again);
}

#[test]
fn every_altered_byte_is_noticed() {
    let case = CaseSecret::new([1; 32]);
    let sealed = case.public().expect("a key").seal(b"seen", b"", [3; 32]).expect("seals");
    let bytes = BASE64.decode(&sealed).expect("base64url");
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        assert!(case.open(&BASE64.encode(altered), b"").is_err(), "byte {at}");
    }
    assert_eq!(case.open("AAAA", b""), Err(SealedError::Malformed));
}

#[test]
fn keys_are_texts_and_a_key_that_gives_everybody_the_same_secret_is_none() {
    let case = CaseSecret::new([7; 32]);
    let key = case.public().expect("a key");
    assert_eq!(key.to_string().parse(), Ok(key));
    let read: CaseSecret = case.reveal().parse().expect("a secret");
    assert_eq!(read.public(), Ok(key));
    assert_eq!("short".parse::<CaseKey>(), Err(SealedError::Malformed));
    assert_eq!(CaseKey([0; 32]).seal(b"seen", b"", [3; 32]), Err(SealedError::Key));
}
