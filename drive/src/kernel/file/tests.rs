//! What the kernel answers of a file that is not encrypted.

use super::*;

#[test]
fn file_that_is_not_encrypted_has_no_policy_and_lies_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [1; 4096]).unwrap();
    let file = File::open(&path).unwrap();
    assert!(matches!(policy(&file), Ok(None) | Err(_)));
    for extent in extents(&file).unwrap().unwrap_or_default() {
        assert!(!extent.physical.is_empty());
    }
    assert_eq!(attribute(&file, "user.never").unwrap_or_default(), None);
    assert!(overwrite_attribute(&file, "user.never", b"x").is_err(), "nothing is made");
}

#[test]
fn policies_are_named_as_fscrypt_names_their_files() {
    assert_eq!(Policy::V1([0xab, 0, 1, 2, 3, 4, 5, 6]).key_name(), "ab00010203040506");
    assert_eq!(Policy::V2([0x0f; 16]).key_name(), "0f".repeat(16));
    assert_eq!(specifier(Policy::V1([7; 8])).name[..9], [7, 7, 7, 7, 7, 7, 7, 7, 0]);
    assert_eq!((specifier(Policy::V1([7; 8])).kind, specifier(Policy::V2([7; 16])).kind), (1, 2));
}
