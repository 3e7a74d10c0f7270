//! What a simulated device answers, frame by frame.

use protocol::fixture::{self, NOW, Organisation};
use protocol::receipt;
use protocol::trust::SignedTrustRoot;
use runtime::tls;
use runtime::tls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;

fn device(organisation: &Organisation) -> Device {
    let key = rcgen::KeyPair::generate().expect("a key is drawn");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("it signs");
    let identity = tls::Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    };
    let enrolled = Enrolled {
        id: fixture::device(1),
        generation: 1,
        key: fixture::device_key(),
        tls: crate::fleet::client(&[certificate.der().clone()], &identity).expect("a client"),
        trust: organisation.trust.clone(),
        hubs: Vec::new(),
        api: Vec::new(),
    };
    Device::new(enrolled, BootId::new(NOW, [1; 10]))
}

/// Command `number` at that place of the urgent lane.
fn command(organisation: &Organisation, number: u8, seq: u64, after_seq: u64) -> CommandFrame {
    let envelope = organisation.envelope(number, fixture::lock(), fixture::device(1), seq);
    organisation.deliver(&envelope, after_seq)
}

fn receipt_of(device: &Device, frame: &AgentFrame) -> Receipt {
    let AgentFrame::Receipt { jws, .. } = frame else { panic!("no receipt: {frame:?}") };
    receipt::verify(jws, &device.enrolled.key.public()).expect("signed by the device")
}

#[test]
fn believed_command_ends_with_a_receipt_that_says_simulated() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    assert_eq!(device.deliver(&command(&organisation, 1, 1, 0), NOW), Delivered::Taken);
    let ended = device.work(NOW);
    let [(id, frame)] = ended.as_slice() else { panic!("one command: {ended:?}") };
    let receipt = receipt_of(&device, frame);
    let Outcome::Succeeded { evidence } = &receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!(evidence.get("simulated"), Some(&true.into()));
    assert_eq!((*id, receipt.iss), (fixture::command(1), fixture::device(1)));
    assert!(device.is_waiting() && device.receipts() == [frame.clone()]);
}

#[test]
fn same_command_again_has_no_second_effect() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    let frame = command(&organisation, 1, 1, 0);
    device.deliver(&frame, NOW);
    assert!(matches!(device.deliver(&frame, NOW), Delivered::Known(AgentFrame::Ack { .. })));
    assert_eq!(device.work(NOW).len(), 1);
    let again = device.deliver(&frame, NOW);
    assert!(matches!(again, Delivered::Known(AgentFrame::Receipt { .. })));
    assert!(device.work(NOW).is_empty());
}

#[test]
fn only_its_own_receipt_confirms_a_command_and_only_once() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    let frame = command(&organisation, 1, 1, 0);
    device.deliver(&frame, NOW);
    device.work(NOW);
    let receipts = device.receipts();
    let [AgentFrame::Receipt { jws, .. }] = receipts.as_slice() else { panic!("{receipts:?}") };
    assert_eq!(device.confirm("another".to_owned(), NOW), None);
    assert_eq!(device.confirm(jws.sha256(), NOW), Some(fixture::command(1)));
    assert_eq!(device.confirm(jws.sha256(), NOW), None);
    assert!(!device.is_waiting() && device.receipts().is_empty());
    let again = device.deliver(&frame, NOW);
    assert!(matches!(again, Delivered::Known(AgentFrame::Receipt { .. })), "{again:?}");
    assert!(!device.is_waiting(), "a receipt that is told again waits for nothing");
}

#[test]
fn missed_command_is_asked_for() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    assert_eq!(device.deliver(&command(&organisation, 2, 2, 1), NOW), Delivered::Gap);
    assert!(device.work(NOW).is_empty());
    device.deliver(&command(&organisation, 1, 1, 0), NOW);
    assert_eq!(device.deliver(&command(&organisation, 2, 2, 1), NOW), Delivered::Taken);
    let AgentFrame::Sync { last_seq } = device.sync() else { panic!("no sync") };
    assert_eq!(last_seq.urgent, 2);
}

#[test]
fn envelope_of_a_stranger_is_refused_with_a_receipt() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    let stranger = Organisation { command_key: fixture::signing_key(9), ..Organisation::new() };
    let delivered = device.deliver(&command(&stranger, 1, 1, 0), NOW);
    let Delivered::Refused(RefusalReason::BadSignature, Some(frame)) = delivered else {
        panic!("believed: {delivered:?}")
    };
    let receipt = receipt_of(&device, &frame);
    assert!(matches!(receipt.outcome, Outcome::Refused { .. }));
    assert!(device.work(NOW).is_empty());
}

#[test]
fn next_trust_root_comes_into_force_and_an_unsigned_one_does_not() {
    let organisation = Organisation::new();
    let mut device = device(&organisation);
    let mut next = organisation.trust.clone();
    next.version = 2;
    let forged = SignedTrustRoot::sign(&next, &[&organisation.command_key]).expect("it signs");
    assert!(device.trust(&forged).is_err());
    let signed = SignedTrustRoot::sign(&next, &[&organisation.root_key]).expect("it signs");
    device.trust(&signed).expect("the next version by the root key");
    assert_eq!(device.hello(NOW).trust_version, 2);
}

#[test]
fn each_session_has_a_later_epoch_than_the_one_before() {
    let mut device = device(&Organisation::new());
    let first = device.hello(NOW).epoch;
    assert_eq!(first, NOW.as_millis());
    assert_eq!(device.hello(NOW.minus(std::time::Duration::from_secs(9))).epoch, first + 1);
}
