//! Tests of reading and judging device certificates.

use protocol::id::DeviceId;
use rcgen::{CertificateParams, KeyPair, SanType};
use runtime::tls::Validity;
use runtime::tls::pki_types::CertificateDer;
use uuid::Uuid;

use super::{CertificateError, Identity, Revocations};

/// Of a certificate whose time does not matter.
pub(crate) const FOR_EVER: Validity = Validity { not_before_secs: 0, not_after_secs: u64::MAX };

const DEVICE: &str = "urn:tocsin:device:0198c0de-0000-7000-8000-000000000001";

fn certificate(uris: &[&str]) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn identity_is_read_from_the_names() {
    let identity = Identity::read(&certificate(&[DEVICE, "urn:tocsin:generation:3"])).unwrap();
    assert_eq!(identity.device.to_string(), &DEVICE["urn:tocsin:device:".len()..]);
    assert_eq!(identity.generation, 3);
    assert_eq!(identity.validity.not_after_secs, 1_893_456_000);
}

#[test]
fn ambiguous_or_missing_names_are_no_device() {
    let other = "urn:tocsin:device:0198c0de-0000-7000-8000-000000000002";
    for uris in [
        &[][..],
        &[DEVICE],
        &["urn:tocsin:generation:1"],
        &[DEVICE, other, "urn:tocsin:generation:1"],
        &[DEVICE, "urn:tocsin:generation:1", "urn:tocsin:generation:2"],
        &["urn:tocsin:device:nobody", "urn:tocsin:generation:1"],
        &[DEVICE, "urn:tocsin:generation:-1"],
    ] {
        let outcome = Identity::read(&certificate(uris));
        assert_eq!(outcome, Err(CertificateError::NotADevice), "{uris:?}");
    }
    let garbage = CertificateDer::from(vec![0x30, 0x03, 0x01]);
    assert_eq!(Identity::read(&garbage), Err(CertificateError::NotADevice));
}

#[test]
fn certificate_does_not_count_past_its_end() {
    let identity = Identity::read(&certificate(&[DEVICE, "urn:tocsin:generation:3"])).unwrap();
    let revocations = Revocations::default();
    assert_eq!(identity.check(identity.validity.not_after_secs, &revocations), Ok(()));
    let late = identity.validity.not_after_secs + 1;
    assert_eq!(identity.check(late, &revocations), Err(CertificateError::Expired));
    let early = identity.validity.not_before_secs - 1;
    assert_eq!(identity.check(early, &revocations), Err(CertificateError::Expired));
}

#[test]
fn revocation_holds_for_older_generations_and_is_never_taken_back() {
    let revocations = Revocations::default();
    let device = DeviceId::from_uuid(Uuid::nil());
    revocations.add(device, 2);
    revocations.add(device, 1);
    let covered = [1, 2, 3].map(|generation| revocations.covers(device, generation));
    assert_eq!(covered, [true, true, false]);
}
