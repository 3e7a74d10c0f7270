//! Tokens and directories: what is read back, and what is not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{DeviceCertificate, Directory, DirectoryError, EnrollmentToken};
use crate::key::SigningKey;
use crate::time::Timestamp;
use crate::trust::{CommandKey, RootKeys, TrustRoot};

fn token() -> EnrollmentToken {
    EnrollmentToken {
        secret: "s3cret".to_owned(),
        api: vec!["api.example:8443".to_owned(), "[::1]:1".to_owned()],
        ca_spki_sha256: "ab".repeat(32),
    }
}

fn trust(command: &SigningKey) -> TrustRoot {
    TrustRoot {
        version: 1,
        issued_at: Timestamp::from_millis(0),
        root: RootKeys { keys: vec![command.public().clone()], threshold: 1 },
        command_keys: vec![CommandKey { key: command.public().clone(), verbs: BTreeSet::new() }],
        approvers: Vec::new(),
        approvals: BTreeMap::new(),
        protected_devices: BTreeSet::new(),
    }
}

fn directory(hub: &str) -> Directory {
    Directory {
        issued_at: Timestamp::from_millis(7),
        api_addresses: vec!["127.0.0.1:1".to_owned()],
        hub_addresses: vec![hub.to_owned()],
    }
}

#[test]
fn token_is_read_back_and_hides_its_secret() {
    let text = token().to_string();
    assert_eq!(format!(" {text}\n").parse::<EnrollmentToken>().unwrap(), token());
    assert!(!format!("{:?}", token()).contains("s3cret"));
}

#[test]
fn text_that_is_no_token_is_refused() {
    let without_api = EnrollmentToken { api: Vec::new(), ..token() }.to_string();
    let without_port = EnrollmentToken { api: vec!["api".to_owned()], ..token() }.to_string();
    let short_pin = EnrollmentToken { ca_spki_sha256: "ab".to_owned(), ..token() }.to_string();
    for text in ["", "tocsin-enroll-1.", "tocsin-enroll-2.e30", "tocsin-enroll-1.%%"] {
        assert!(text.parse::<EnrollmentToken>().is_err(), "{text}");
    }
    for text in [without_api, without_port, short_pin] {
        assert!(text.parse::<EnrollmentToken>().is_err(), "{text}");
    }
}

#[test]
fn directory_is_believed_only_from_a_command_key() {
    let ours = SigningKey::from_seed(&[1; 32]).unwrap();
    let other = SigningKey::from_seed(&[2; 32]).unwrap();
    let good = directory("hub.example:443");
    let jws = good.sign(&ours).unwrap();
    assert_eq!(Directory::verify(&jws, &trust(&ours)).unwrap(), good);
    assert_eq!(Directory::verify(&jws, &trust(&other)), Err(DirectoryError::Stranger));
    let odd = directory("hub.example").sign(&ours).unwrap();
    assert_eq!(Directory::verify(&odd, &trust(&ours)), Err(DirectoryError::Addresses));
}

#[test]
fn certificate_is_renewed_at_two_thirds_of_its_life() {
    let not_before = Timestamp::from_millis(1_000);
    let certificate = DeviceCertificate {
        chain_pem: String::new(),
        ca_pem: String::new(),
        not_before,
        not_after: not_before.plus(Duration::from_secs(9)),
    };
    assert_eq!(certificate.renew_at(), not_before.plus(Duration::from_secs(6)));
}
