//! A sealed text opens where it was put, with its key, as it is; and nowhere else.

use runtime::Entropy;

use super::kms::{DataKeyBytes, KeyError, Kms as _, KmsError, LocalKms, add_key};
use super::seal::{DataKey, SealedText};
use super::{Column, Key, OUTCOME, RECEIPT};

const NAMED: Column =
    Column { table: "people", name: "secret", key: Key::Text("name"), only: "", was_clear: false };

fn bytes(text: &str) -> Vec<u8> {
    SealedText::of(text).unwrap().bytes().unwrap()
}

#[test]
fn hostile_text_that_was_moved_or_altered_does_not_open() {
    let key = DataKey::new("k", &[7; 32]);
    let place = RECEIPT.place(&"row 1");
    let text = key.seal(place.as_bytes(), b"a receipt", [1; 16]).unwrap();
    assert_eq!(SealedText::of(&text).unwrap().key, "k");
    let sealed = bytes(&text);
    assert_eq!(&**key.open(place.as_bytes(), &sealed).unwrap(), b"a receipt");
    for other in [RECEIPT.place(&"row 2"), OUTCOME.place(&"row 1"), NAMED.place(&"row 1")] {
        assert!(key.open(other.as_bytes(), &sealed).is_none(), "{other:?}");
    }
    assert!(DataKey::new("k", &[8; 32]).open(place.as_bytes(), &sealed).is_none());
    for index in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[index] ^= 1;
        assert!(key.open(place.as_bytes(), &altered).is_none(), "byte {index}");
        assert!(key.open(place.as_bytes(), &sealed[..index]).is_none(), "{index} bytes");
    }
    let again = key.seal(place.as_bytes(), b"a receipt", [2; 16]).unwrap();
    assert_ne!(text, again, "what is equal does not look equal");
    assert!(!format!("{key:?}").contains('7'));
}

#[tokio::test]
async fn data_key_is_unwrapped_by_whoever_wrapped_it_and_under_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vault.key");
    let entropy = Entropy::system();
    let former = LocalKms::create(&file, entropy.clone()).unwrap();
    let key = DataKeyBytes::new([3; 32]);
    let wrapped = former.wrap("one", &key).await.unwrap();
    let by = former.key_id().to_owned();
    assert_eq!(former.unwrap("one", &by, &wrapped).await.unwrap(), key);
    let renamed = former.unwrap("two", &by, &wrapped).await;
    assert_eq!(renamed.unwrap_err(), KmsError::Refused("two".to_owned()));

    let id = add_key(&file, entropy.clone()).unwrap();
    let both = LocalKms::load(None, &file, entropy.clone()).unwrap();
    assert_eq!(both.key_id(), id);
    assert_ne!(id, by);
    assert_eq!(both.unwrap("one", &by, &wrapped).await.unwrap(), key, "the former one stays");
    let text = std::fs::read_to_string(&file).unwrap();
    let first = text.lines().next().unwrap();
    let alone = LocalKms::parse(first, entropy.clone()).unwrap();
    let error = alone.unwrap("one", &by, &wrapped).await.unwrap_err();
    assert!(error.to_string().contains(&by) && error.to_string().contains(&id), "{error}");
    for text in ["", "AAAA", &format!("{first} AAAA")] {
        let parsed = LocalKms::parse(text, entropy.clone());
        assert!(matches!(parsed, Err(KeyError::Malformed)), "{text}");
    }
}
