//! Tests of atomic writing and bounded reading.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{FileError, PRIVATE, PUBLIC, read_bounded, write_atomic};

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn write_replaces_content_and_mode_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    write_atomic(&path, b"old", PUBLIC).unwrap();
    write_atomic(&path, b"new", PRIVATE).unwrap();
    assert_eq!(read_bounded(&path, 3).unwrap(), b"new");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, PRIVATE);
    assert_eq!(entries(folder.path()), ["key.pem"]);
}

#[test]
fn failed_write_keeps_the_old_and_removes_the_temporary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("occupied");
    std::fs::create_dir_all(path.join("child")).unwrap();
    let error = write_atomic(&path, b"new", PRIVATE).unwrap_err();
    assert!(matches!(error, FileError::Write { .. }), "{error:?}");
    assert_eq!(entries(folder.path()), ["occupied"]);
}

#[test]
fn missing_file_is_told_apart() {
    let error = read_bounded(Path::new("/nonexistent/file"), 10).unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "cannot read /nonexistent/file");
}

#[test]
fn oversized_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    std::fs::write(&path, [0; 11]).unwrap();
    let error = read_bounded(&path, 10).unwrap_err();
    assert!(matches!(error, FileError::TooLarge { max: 10, .. }), "{error:?}");
    assert_eq!(read_bounded(&path, 11).unwrap().len(), 11);
}
