//! Each wrong envelope has exactly one reason.

use std::time::Duration;

use super::*;
use crate::fixture::{self, NOW, Organisation, device};
use crate::manifest::{DeviceTree, Hash};
use crate::offline::OfflineSecret;

/// Verifies on device 1 what `change` made of a good, twice approved wipe of devices 1 and 2.
fn reason(change: impl FnOnce(&Organisation, &mut Envelope)) -> Result<(), RefusalReason> {
    let organisation = Organisation::new();
    let tree = DeviceTree::new([device(1), device(2)]).expect("two devices");
    let manifest = organisation.manifest(1, fixture::wipe(), &tree);
    let envelope = Envelope {
        proof: tree.proof(&device(1)).expect("device 1 is in the tree"),
        manifest,
        ..organisation.envelope(1, fixture::wipe(), device(1), 1)
    };
    let mut envelope = organisation.approved(envelope, &[&organisation.alice, &organisation.bob]);
    change(&organisation, &mut envelope);
    let jws = sign(&envelope, &organisation.command_key).expect("signs");
    organisation.verifying(device(1)).verify(&jws).map(|_| ()).map_err(|refusal| refusal.reason)
}

#[test]
fn good_wipe_with_two_persons_is_believed() {
    assert_eq!(reason(|_, _| ()), Ok(()));
}

#[test]
fn order_for_simulated_devices_is_taken_by_no_other_and_is_what_was_approved() {
    let organisation = Organisation::new();
    let mut envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let plain = serde_json::to_value(&envelope.manifest).expect("plain data");
    assert_eq!(plain.get("simulated"), None, "signatures of before stay good");
    envelope.manifest.simulated = true;
    let jws = sign(&envelope, &organisation.command_key).expect("signs");
    let acts = organisation.verifying(device(1));
    let refusal = acts.verify(&jws).expect_err("it acts");
    assert_eq!(refusal.reason, RefusalReason::WrongAudience);
    assert!(refusal.authentic.is_some(), "its number counts as seen");
    assert!(Verifying { is_simulated: true, ..acts }.verify(&jws).is_ok());
    // Nobody takes the mark off, or puts it on, under an approval.
    let outcome = reason(|organisation, envelope| {
        envelope.manifest.simulated = true;
        *envelope =
            organisation.approved(envelope.clone(), &[&organisation.alice, &organisation.bob]);
        envelope.manifest.simulated = false;
    });
    assert_eq!(outcome, Err(RefusalReason::WidenedManifest));
}

#[test]
fn wipe_with_one_approval_is_refused() {
    let outcome = reason(|_, envelope| envelope.approvals.truncate(1));
    assert_eq!(outcome, Err(RefusalReason::MissingApproval));
}

#[test]
fn one_persons_two_keys_count_once() {
    let outcome = reason(|organisation, envelope| {
        *envelope = organisation
            .approved(envelope.clone(), &[&organisation.alice, &organisation.alice_spare]);
    });
    assert_eq!(outcome, Err(RefusalReason::DoubledApproval));
}

#[test]
fn the_same_approval_twice_counts_once() {
    let outcome = reason(|organisation, envelope| {
        *envelope =
            organisation.approved(envelope.clone(), &[&organisation.alice, &organisation.alice]);
    });
    assert_eq!(outcome, Err(RefusalReason::DoubledApproval));
}

#[test]
fn approval_by_a_stranger_is_refused() {
    let outcome = reason(|organisation, envelope| {
        let stranger = fixture::signing_key(99);
        *envelope = organisation
            .approved(envelope.clone(), &[&organisation.alice, &organisation.bob, &stranger]);
    });
    assert_eq!(outcome, Err(RefusalReason::BadApproval));
}

#[test]
fn altered_approval_is_refused() {
    let outcome = reason(|_, envelope| {
        let text = envelope.approvals[0].as_str().to_owned();
        let (signed, signature) = text.rsplit_once('.').expect("three parts");
        let flipped: String = signature.chars().rev().collect();
        envelope.approvals[0] = CompactJws::from_text(format!("{signed}.{flipped}"));
    });
    assert_eq!(outcome, Err(RefusalReason::BadApproval));
}

#[test]
fn approval_of_another_order_is_refused() {
    let outcome = reason(|organisation, envelope| {
        let mut other = envelope.manifest.clone();
        other.order_id = fixture::order(9);
        envelope.approvals[1] = organisation.approval(&other, &organisation.bob);
    });
    assert_eq!(outcome, Err(RefusalReason::WidenedManifest));
}

#[test]
fn manifest_widened_after_approval_is_refused() {
    let widened = reason(|organisation, envelope| {
        let tree = DeviceTree::new((1..=3).map(device)).expect("three devices");
        envelope.manifest = organisation.manifest(1, fixture::wipe(), &tree);
        envelope.proof = tree.proof(&device(1)).expect("in the tree");
    });
    assert_eq!(widened, Err(RefusalReason::WidenedManifest));
    let harsher = reason(|_, envelope| {
        envelope.manifest.action = Action::Wipe(crate::action::Wipe {
            level: crate::action::WipeLevel::Data,
            power_off: true,
        });
    });
    assert_eq!(harsher, Err(RefusalReason::WidenedManifest));
    let longer = reason(|_, envelope| {
        envelope.manifest.expires_at = envelope.manifest.expires_at.plus(Duration::from_secs(60));
    });
    assert_eq!(longer, Err(RefusalReason::WidenedManifest));
    let other_plan = reason(|_, envelope| {
        envelope.manifest.plans.insert(device(1), Hash::sha256(b"another plan"));
    });
    assert_eq!(other_plan, Err(RefusalReason::WidenedManifest));
}

#[test]
fn envelope_that_outlives_its_manifest_is_refused() {
    let outcome = reason(|_, envelope| envelope.exp = envelope.exp.plus(Duration::from_secs(1)));
    assert_eq!(outcome, Err(RefusalReason::WidenedManifest));
}

#[test]
fn device_outside_the_manifest_is_refused() {
    let outcome = reason(|organisation, envelope| {
        let tree = DeviceTree::new([device(2), device(3)]).expect("two devices");
        envelope.manifest = organisation.manifest(1, fixture::wipe(), &tree);
        *envelope =
            organisation.approved(envelope.clone(), &[&organisation.alice, &organisation.bob]);
    });
    assert_eq!(outcome, Err(RefusalReason::WidenedManifest));
}

#[test]
fn another_device_or_enrollment_is_the_wrong_audience() {
    let other_device = reason(|_, envelope| envelope.aud = device(2));
    assert_eq!(other_device, Err(RefusalReason::WrongAudience));
    let other_enrollment = reason(|_, envelope| envelope.generation = 2);
    assert_eq!(other_enrollment, Err(RefusalReason::WrongAudience));
}

#[test]
fn validity_is_judged_at_both_ends() {
    let expired = reason(|_, envelope| envelope.exp = NOW);
    assert_eq!(expired, Err(RefusalReason::Expired));
    let early = reason(|_, envelope| envelope.nbf = NOW.plus(Duration::from_secs(301)));
    assert_eq!(early, Err(RefusalReason::NotYetValid));
    let within_skew = reason(|_, envelope| envelope.nbf = NOW.plus(Duration::from_secs(300)));
    assert_eq!(within_skew, Ok(()));
    let too_long = reason(|_, envelope| envelope.nbf = Timestamp::from_millis(0));
    assert_eq!(too_long, Err(RefusalReason::ValidityTooLong));
}

#[test]
fn more_devices_than_the_class_may_is_refused() {
    let outcome = reason(|organisation, envelope| {
        let tree = DeviceTree::new((1..=11).map(device)).expect("eleven devices");
        envelope.manifest = organisation.manifest(1, fixture::wipe(), &tree);
        envelope.proof = tree.proof(&device(1)).expect("in the tree");
        *envelope =
            organisation.approved(envelope.clone(), &[&organisation.alice, &organisation.bob]);
    });
    assert_eq!(outcome, Err(RefusalReason::TooManyDevices));
}

#[test]
fn lane_that_is_not_the_verbs_is_unsupported() {
    let outcome = reason(|_, envelope| envelope.lane = Lane::Bulk);
    assert_eq!(outcome, Err(RefusalReason::Unsupported));
}

#[test]
fn signature_of_another_key_is_refused_before_the_claims_are_read() {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    for key in [&organisation.root_key, &organisation.alice, &fixture::signing_key(99)] {
        let jws = sign(&envelope, key).expect("signs");
        let refusal = organisation.verifying(device(1)).verify(&jws).expect_err("refused");
        assert_eq!(refusal.reason, RefusalReason::BadSignature);
        assert_eq!(refusal.authentic, None);
    }
}

#[test]
fn every_altered_character_is_refused() {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let text = sign(&envelope, &organisation.command_key).expect("signs").to_string();
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let altered = CompactJws::from_text(String::from_utf8(bytes).expect("still ASCII"));
        let outcome = organisation.verifying(device(1)).verify(&altered);
        assert!(outcome.is_err(), "believed with character {at} altered");
    }
}

#[test]
fn documents_of_another_type_are_malformed() {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let as_receipt = jws::sign(crate::receipt::TYP, &envelope, &organisation.command_key);
    let refusal =
        organisation.verifying(device(1)).verify(&as_receipt.expect("signs")).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::Malformed);
    let garbage = CompactJws::from_text("x.y".to_owned());
    let refusal = organisation.verifying(device(1)).verify(&garbage).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::Malformed);
    let huge = CompactJws::from_text("x".repeat(limits::ENVELOPE_BYTES + 1));
    let refusal = organisation.verifying(device(1)).verify(&huge).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::Malformed);
}

#[test]
fn verb_of_a_newer_protocol_is_unsupported() {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let mut claims = serde_json::to_value(&envelope).expect("serialises");
    claims["manifest"]["action"] = serde_json::json!({"verb": "teleport", "params": {}});
    let jws = jws::sign(TYP, &claims, &organisation.command_key).expect("signs");
    let refusal = organisation.verifying(device(1)).verify(&jws).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::Unsupported);
}

#[test]
fn command_key_orders_only_its_verbs() {
    let mut organisation = Organisation::new();
    organisation.trust.command_keys[0].verbs.remove("lock");
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let jws = sign(&envelope, &organisation.command_key).expect("signs");
    let refusal = organisation.verifying(device(1)).verify(&jws).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::BadSignature);
}

#[test]
fn protected_device_needs_one_approval_more() {
    let mut organisation = Organisation::new();
    organisation.trust.protected_devices.insert(device(1));
    let envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let bare = sign(&envelope, &organisation.command_key).expect("signs");
    let refusal = organisation.verifying(device(1)).verify(&bare).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::MissingApproval);
    let approved = organisation.approved(envelope, &[&organisation.bob]);
    let approved = sign(&approved, &organisation.command_key).expect("signs");
    assert!(organisation.verifying(device(1)).verify(&approved).is_ok());
}

#[test]
fn a_refusal_names_the_claims_only_when_they_are_authentic_and_ours() {
    let organisation = Organisation::new();
    let wipe = organisation.envelope(1, fixture::wipe(), device(1), 1);
    let jws = sign(&wipe, &organisation.command_key).expect("signs");
    let ours = organisation.verifying(device(1)).verify(&jws).expect_err("not approved");
    assert_eq!(ours.authentic.as_deref(), Some(&wipe));
    let theirs = organisation.verifying(device(2)).verify(&jws).expect_err("not addressed");
    assert_eq!(theirs.authentic, None);
}

/// Verifies on device 1 a lock with a code, which needs one person, as unlocking does; after
/// `change`, signed by a key that may order these verbs.
fn reason_with_code(
    verbs: &[Verb],
    change: impl FnOnce(&Organisation, &mut Envelope),
) -> Result<(), RefusalReason> {
    let mut organisation = Organisation::new();
    organisation.trust.approvals.insert("unlock".to_owned(), 1);
    organisation.trust.command_keys[0].verbs =
        verbs.iter().map(|verb| verb.as_str().to_owned()).collect();
    let mut envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let code = OfflineSecret::new([1; 32]).code(&device(1));
    envelope.manifest.offline_codes.insert(device(1), code.commitment(&device(1)));
    let mut envelope = organisation.approved(envelope, &[&organisation.alice]);
    change(&organisation, &mut envelope);
    let jws = sign(&envelope, &organisation.command_key).expect("signs");
    organisation.verifying(device(1)).verify(&jws).map(|_| ()).map_err(|refusal| refusal.reason)
}

#[test]
fn order_with_an_offline_code_needs_who_may_end_it() {
    let both = [Verb::Lock, Verb::Unlock];
    assert_eq!(reason_with_code(&both, |_, _| ()), Ok(()));
    let unapproved = reason_with_code(&both, |_, envelope| envelope.approvals.clear());
    assert_eq!(unapproved, Err(RefusalReason::MissingApproval));
    let without_code = reason_with_code(&both, |_, envelope| {
        envelope.approvals.clear();
        envelope.manifest.offline_codes.clear();
    });
    assert_eq!(without_code, Ok(()), "a lock alone needs nobody here");
    assert_eq!(reason_with_code(&[Verb::Lock], |_, _| ()), Err(RefusalReason::BadSignature));
}

#[test]
fn server_cannot_put_a_code_of_its_own_into_an_order() {
    let both = [Verb::Lock, Verb::Unlock];
    let own = OfflineSecret::new([2; 32]).code(&device(1)).commitment(&device(1));
    let replaced = reason_with_code(&both, |_, envelope| {
        envelope.manifest.offline_codes.insert(device(1), own);
    });
    assert_eq!(replaced, Err(RefusalReason::WidenedManifest));
    let added = reason_with_code(&both, |organisation, envelope| {
        envelope.manifest.offline_codes.clear();
        *envelope = organisation.approved(envelope.clone(), &[&organisation.alice]);
        envelope.manifest.offline_codes.insert(device(1), own);
    });
    assert_eq!(added, Err(RefusalReason::WidenedManifest));
}

#[test]
fn code_for_what_nothing_ends_or_for_too_many_is_refused() {
    let own = OfflineSecret::new([2; 32]).code(&device(1)).commitment(&device(1));
    let wipe = reason(|organisation, envelope| {
        envelope.manifest.offline_codes.insert(device(1), own);
        *envelope =
            organisation.approved(envelope.clone(), &[&organisation.alice, &organisation.bob]);
    });
    assert_eq!(wipe, Err(RefusalReason::Unsupported));
    let many = reason_with_code(&[Verb::Lock, Verb::Unlock], |organisation, envelope| {
        envelope.manifest.offline_codes = (0..=50).map(|number| (device(number), own)).collect();
        *envelope = organisation.approved(envelope.clone(), &[&organisation.alice]);
    });
    assert_eq!(many, Err(RefusalReason::Unsupported));
}
