//! What is sealed opens for its case and its command, and for nobody and nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use super::{CaseKey, CaseSecret, ChunkOpener, SealedError};

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

/// Three chunks of one stream, and what opens them.
fn stream(case: &CaseSecret) -> (Vec<Vec<u8>>, CaseKey) {
    let mut sealer = case.public().expect("a key").chunks(b"command", [3; 32]).expect("a sealer");
    let pieces = [("one", false), ("two", false), ("three", true)];
    let sealed = pieces.map(|(piece, is_last)| sealer.seal(piece.into(), is_last).expect("seals"));
    assert_eq!(sealer.seal(Vec::new(), true), Err(SealedError::Ended), "nothing follows the last");
    (sealed.to_vec(), sealer.once())
}

fn opened(opener: &mut ChunkOpener, chunks: &[&Vec<u8>]) -> Result<Vec<u8>, SealedError> {
    let numbered = chunks.iter().enumerate();
    let opened: Result<Vec<_>, _> = numbered
        .map(|(number, chunk)| opener.open((*chunk).clone(), number + 1 == chunks.len()))
        .collect();
    Ok(opened?.concat())
}

#[test]
fn chunks_open_in_their_order_and_in_no_other_way() {
    let (case, other) = (CaseSecret::new([1; 32]), CaseSecret::new([2; 32]));
    let (sealed, once) = stream(&case);
    let [one, two, three] = sealed.as_slice() else { unreachable!("three were sealed") };
    let opener = |about: &[u8]| case.chunks(about, &once).expect("an opener");
    let good = opened(&mut opener(b"command"), &[one, two, three]);
    assert_eq!(good.expect("opens"), b"onetwothree");
    let mut altered = two.clone();
    altered[0] ^= 1;
    let shorter = three[..three.len() - 1].to_vec();
    for (what, chunks) in [
        ("dropped", vec![one, three]),
        ("truncated", vec![one, two]),
        ("swapped", vec![two, one, three]),
        ("doubled", vec![one, one, two, three]),
        ("altered", vec![one, &altered, three]),
        ("cut", vec![one, two, &shorter]),
    ] {
        let refused = opened(&mut opener(b"command"), &chunks);
        assert_eq!(refused, Err(SealedError::Closed), "{what}");
    }
    let mut ended = opener(b"command");
    opened(&mut ended, &[one, two, three]).expect("opens");
    assert_eq!(ended.open(three.clone(), true), Err(SealedError::Ended), "added");
    let closed = Err(SealedError::Closed);
    assert_eq!(opened(&mut opener(b"another"), &[one, two, three]), closed);
    let mut others = other.chunks(b"command", &once).expect("an opener");
    assert_eq!(opened(&mut others, &[one, two, three]), closed);
    // Another stream's chunk is no chunk of this one, though the case and the command are the same.
    let key = case.public().expect("a key");
    let mut again = key.chunks(b"command", [4; 32]).expect("a sealer");
    let foreign = again.seal(b"one".to_vec(), false).expect("seals");
    assert_eq!(opened(&mut opener(b"command"), &[&foreign, two, three]), closed);
}
