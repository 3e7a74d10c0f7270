//! Command lines that are understood, and those that are not.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Invocation, UsageError, Verb, parse};

fn read(line: &str) -> Result<Invocation, UsageError> {
    parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn enrollment_takes_token_name_and_places() {
    let read = read("enroll tocsin-enroll-1.x --state /s --name web --config /c --force").unwrap();
    let verb = Verb::Enroll {
        token: "tocsin-enroll-1.x".to_owned(),
        name: Some("web".to_owned()),
        force: true,
    };
    let expected =
        Invocation { verb, config: Some(PathBuf::from("/c")), state: Some(PathBuf::from("/s")) };
    assert_eq!(read, expected);
}

#[test]
fn managed_files_are_named_by_absolute_paths() {
    let expected = Verb::Manage { paths: vec!["/etc/a".into(), "/etc/b".into()] };
    assert_eq!(read("manage /etc/a --state /s /etc/b").unwrap().verb, expected);
    assert_eq!(read("manage"), Err(UsageError::NoPath));
    assert_eq!(read("manage etc/a"), Err(UsageError::NoPath));
}

#[test]
fn mistakes_are_named() {
    assert_eq!(read("enroll"), Err(UsageError::NoToken));
    assert_eq!(read("run --state"), Err(UsageError::NoValue("--state")));
    assert_eq!(read("run --force"), Err(UsageError::Unknown("--force".to_owned())));
    assert_eq!(read("dance"), Err(UsageError::Unknown("dance".to_owned())));
    assert_eq!(read("").unwrap().verb, Verb::Help);
    assert_eq!(read("reassert").unwrap().verb, Verb::Reassert);
    assert_eq!(read("status --json").unwrap().verb, Verb::Status { json: true });
}
