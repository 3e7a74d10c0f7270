//! Keys, requests and validity against an independent X.509 implementation.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use protocol::time::Timestamp;
use rcgen::{CertificateParams, CertificateSigningRequestParams, PublicKeyData as _};

use super::tpm::Sealed;
use super::{KeyPair, KeyPlace, der};

#[test]
fn key_is_made_once_and_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.key");
    let made = KeyPair::load_or_make(&path, &KeyPlace::file()).unwrap();
    let known = KeyPair::load_or_make(&path, &KeyPlace::file()).unwrap();
    assert_eq!(made.public(), known.public());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn certificate_request_is_read_by_another_implementation() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::load_or_make(&folder.path().join("device.key"), &KeyPlace::file()).unwrap();
    let request = key.certificate_request().unwrap();
    let read = CertificateSigningRequestParams::from_pem(&request).unwrap();
    assert_eq!(read.public_key.der_bytes(), key.public().as_point());
}

#[test]
fn validity_is_read_in_both_of_its_forms() {
    for (year, millis) in [(2026, 1_772_323_200_000), (2052, 2_592_864_000_000)] {
        let mut params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(year, 3, 1);
        params.not_after = rcgen::date_time_ymd(year, 3, 8);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let (begin, end) = der::validity(certificate.der()).unwrap();
        assert_eq!((year, begin), (year, Timestamp::from_millis(millis)));
        assert_eq!(end.since(begin), Duration::from_secs(7 * 86_400));
    }
}

#[test]
fn cut_certificate_has_no_validity_and_no_panic() {
    let params = CertificateParams::new(vec!["device".to_owned()]).unwrap();
    let whole = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let whole = whole.der().to_vec();
    for end in 0..whole.len() {
        assert_eq!(der::validity(&whole[..end]), None, "{end}");
    }
}

#[test]
fn numbers_of_a_signature_are_written_as_der_wants_them() {
    let mut fixed = [0; 64];
    // A first bit that is set, and zeros before a number that is short.
    (fixed[0], fixed[31], fixed[62], fixed[63]) = (0x80, 1, 0x7f, 2);
    let mut r = vec![2, 33, 0, 0x80];
    r.extend([0; 30]);
    r.push(1);
    let expected = [vec![0x30, 39], r, vec![2, 2, 0x7f, 2]].concat();
    assert_eq!(der::ecdsa(&fixed), expected);
    assert_eq!(der::ecdsa(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
}

#[test]
fn file_of_a_sealed_key_is_read_back_whole_or_not_at_all() {
    let sealed = Sealed { public: vec![1; 90], private: vec![2; 200] };
    let der = der::sealed_key(&sealed);
    assert_eq!(der::read_sealed_key(&der), Some(sealed));
    for end in 0..der.len() {
        assert_eq!(der::read_sealed_key(&der[..end]), None, "{end}");
    }
    assert_eq!(der::read_sealed_key(&[&der[..], &[0]].concat()), None);
}
