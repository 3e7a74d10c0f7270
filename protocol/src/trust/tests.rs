//! Trust roots move forward only, along an unbroken chain of signatures.

use std::time::Duration;

use super::*;
use crate::fixture::{self, Organisation};

mod rules;

fn next(organisation: &Organisation) -> TrustRoot {
    TrustRoot { version: 2, ..organisation.trust.clone() }
}

#[test]
fn first_version_is_pinned_when_its_own_root_signed_it() {
    let organisation = Organisation::new();
    assert_eq!(organisation.signed_trust().pin().as_ref(), Ok(&organisation.trust));
    let forged = SignedTrustRoot::sign(&organisation.trust, &[&organisation.alice]);
    let error = forged.expect("signs").pin().expect_err("refused");
    assert_eq!(error, TrustError::TooFewSignatures { version: 1, signed: 0, needed: 1 });
}

#[test]
fn authority_without_a_backup_is_not_pinned() {
    let organisation = Organisation::new();
    let pins = |count: u8| {
        let authority_pins = (0..count).map(|at| AuthorityPin::from_bytes([at; 32])).collect();
        let root = TrustRoot { authority_pins, ..next(&organisation) };
        let signed = SignedTrustRoot::sign(&root, &[&organisation.root_key]).expect("signs");
        signed
            .succeed(&organisation.trust)
            .map(|root| root.may_vouch(AuthorityPin::from_bytes([9; 32])))
    };
    assert_eq!(pins(0), Ok(true), "nothing is pinned");
    for count in [2, 8] {
        assert_eq!(pins(count), Ok(false), "{count}");
    }
    for count in [1, 9] {
        assert!(matches!(pins(count), Err(TrustError::Unsound(_))), "{count}");
    }
}

#[test]
fn pin_is_64_hex_digits() {
    let text = "00112233445566778899aabbccddeeff".repeat(2);
    let pin: AuthorityPin = text.parse().expect("a pin");
    assert_eq!((pin.to_string(), pin.as_bytes()[17]), (text.clone(), 0x11));
    for wrong in ["", "0", &text[1..], &format!("{text}00"), &text.replace('f', "g"), "ä"] {
        assert_eq!(wrong.parse::<AuthorityPin>(), Err(ParsePinError), "{wrong}");
    }
}

#[test]
fn next_version_by_the_same_root_is_accepted() {
    let organisation = Organisation::new();
    let signed = SignedTrustRoot::sign(&next(&organisation), &[&organisation.root_key]);
    assert_eq!(signed.expect("signs").succeed(&organisation.trust), Ok(next(&organisation)));
}

#[test]
fn older_same_and_skipped_versions_are_refused() {
    let organisation = Organisation::new();
    for offered in [0, 1, 3, u32::MAX] {
        let root = TrustRoot { version: offered, ..organisation.trust.clone() };
        let signed = SignedTrustRoot::sign(&root, &[&organisation.root_key]).expect("signs");
        let error = signed.succeed(&organisation.trust).expect_err("refused");
        assert_eq!(error, TrustError::NotNext { current: 1, offered });
    }
}

#[test]
fn a_new_root_key_needs_the_signatures_of_both() {
    let organisation = Organisation::new();
    let new_key = fixture::signing_key(50);
    let mut root = next(&organisation);
    root.root.keys = vec![new_key.public().clone()];
    let by = |signers: &[&dyn Signer]| {
        SignedTrustRoot::sign(&root, signers).expect("signs").succeed(&organisation.trust)
    };
    assert!(matches!(by(&[&new_key]), Err(TrustError::TooFewSignatures { version: 1, .. })));
    assert!(matches!(
        by(&[&organisation.root_key]),
        Err(TrustError::TooFewSignatures { version: 2, .. })
    ));
    assert_eq!(by(&[&organisation.root_key, &new_key]), Ok(root.clone()));
}

#[test]
fn one_key_twice_is_not_two_signatures() {
    let mut organisation = Organisation::new();
    organisation.trust.root.keys.push(fixture::signing_key(51).public().clone());
    organisation.trust.root.threshold = 2;
    let key = &organisation.root_key;
    let signed = SignedTrustRoot::sign(&organisation.trust, &[key, key]).expect("signs");
    assert!(matches!(signed.pin(), Err(TrustError::TooFewSignatures { signed: 1, .. })));
    organisation.trust.root.keys[1] = key.public().clone();
    let signed = SignedTrustRoot::sign(&organisation.trust, &[key, key]).expect("signs");
    assert!(matches!(signed.pin(), Err(TrustError::Unsound(_))));
}

#[test]
fn signatures_over_different_texts_are_refused() {
    let organisation = Organisation::new();
    let one = SignedTrustRoot::sign(&organisation.trust, &[&organisation.root_key]);
    let other = SignedTrustRoot::sign(&next(&organisation), &[&organisation.root_key]);
    let mixed = [one.expect("signs").0, other.expect("signs").0].concat();
    assert_eq!(SignedTrustRoot(mixed).pin(), Err(TrustError::Inconsistent));
    assert_eq!(SignedTrustRoot(Vec::new()).pin(), Err(TrustError::Inconsistent));
}

#[test]
fn root_that_fits_no_frame_is_refused() {
    let mut organisation = Organisation::new();
    organisation.trust.protected_devices = (0..450u16)
        .map(|n| DeviceId::new(fixture::NOW.plus(Duration::from_millis(n.into())), [0; 10]))
        .collect();
    let key = &organisation.root_key;
    let once = SignedTrustRoot::sign(&organisation.trust, &[key]).expect("signs");
    assert!(once.pin().is_ok());
    let thrice = SignedTrustRoot::sign(&organisation.trust, &[key, key, key]).expect("signs");
    let too_long = TrustError::Document(JwsError::TooLong { max: limits::TRUST_ROOT_BYTES });
    assert_eq!(thrice.pin(), Err(too_long));
}

#[test]
fn unsound_roots_are_refused() {
    let check = |change: fn(&mut TrustRoot)| {
        let mut organisation = Organisation::new();
        change(&mut organisation.trust);
        organisation.signed_trust().pin()
    };
    let unsound = |outcome| matches!(outcome, Err(TrustError::Unsound(_)));
    assert!(unsound(check(|root| root.root.threshold = 0)));
    assert!(unsound(check(|root| root.root.threshold = 2)));
    assert!(unsound(check(|root| root.approvers.push(root.approvers[0].clone()))));
    assert!(unsound(check(|root| root.approvers[0].key = root.command_keys[0].key.clone())));
    assert!(unsound(check(|root| {
        root.root.threshold = 2;
        root.root.keys.push(root.root.keys[0].clone());
    })));
    let quorum = |root: &TrustRoot, threshold| {
        let approvers = root.approvers.clone();
        Some(Quorum { approvers, threshold })
    };
    let mut organisation = Organisation::new();
    // One key has one purpose: a mass key that approves as well would not stay offline.
    organisation.trust.mass = quorum(&organisation.trust, 2);
    assert!(unsound(organisation.signed_trust().pin()));
    organisation.trust.approvers.clear();
    assert!(organisation.signed_trust().pin().is_ok());
    for threshold in [0, 1, 3] {
        if let Some(mass) = &mut organisation.trust.mass {
            mass.threshold = threshold;
        }
        assert!(unsound(organisation.signed_trust().pin()), "mass of {threshold}");
    }
}
