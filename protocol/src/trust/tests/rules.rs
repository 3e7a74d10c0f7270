//! Each class of verbs has its limit, and each limit its one way beyond it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::action::{Action, AllowedPeer, Freeze, Quarantine, Thaw, Verb};
use crate::envelope::{self, Approval, Envelope, Verified};
use crate::fixture::{self, NOW, Organisation, device, signing_key};
use crate::key::SigningKey;
use crate::limits;
use crate::manifest::DeviceTree;
use crate::receipt::RefusalReason;
use crate::trust::{Approver, Authority, Quorum, SignedTrustRoot, TrustGroup};

/// The keys of the mass role, each of another person but for the last two.
const MASS: [(u8, &str); 6] =
    [(11, "ann"), (12, "ben"), (13, "cleo"), (14, "dan"), (15, "eve"), (16, "eve")];

fn quorum(keys: &[(u8, &str)], threshold: u8) -> Option<Quorum> {
    let approver = |(seed, person): &(u8, &str)| Approver {
        key: signing_key(*seed).public().clone(),
        person: person.parse().expect("a plain name"),
        operators: BTreeSet::new(),
    };
    Some(Quorum { approvers: keys.iter().map(approver).collect(), threshold })
}

fn organisation() -> Organisation {
    let mut organisation = Organisation::new();
    organisation.trust.mass = quorum(&MASS, 3);
    organisation.trust.break_glass = quorum(&[(20, "gil")], 1);
    organisation.signed_trust().pin().expect("a sound root");
    organisation
}

/// What device 1 says to that action on that many devices, approved by those keys.
fn judge(
    organisation: &Organisation,
    action: Action,
    devices: u8,
    keys: &[SigningKey],
) -> Result<Verified, RefusalReason> {
    let tree = DeviceTree::new((1..=devices).map(device)).expect("devices");
    let manifest = organisation.manifest(1, action.clone(), &tree);
    let envelope = Envelope {
        proof: tree.proof(&device(1)).expect("device 1 is in the tree"),
        manifest,
        ..organisation.envelope(1, action, device(1), 1)
    };
    let keys: Vec<_> = keys.iter().collect();
    let envelope = organisation.approved(envelope, &keys);
    let jws = envelope::sign(&envelope, &organisation.command_key).expect("signs");
    organisation.verifying(device(1)).verify(&jws).map_err(|refusal| refusal.reason)
}

fn keys(seeds: &[u8]) -> Vec<SigningKey> {
    seeds.iter().map(|seed| signing_key(*seed)).collect()
}

fn outcome(
    organisation: &Organisation,
    action: Action,
    devices: u8,
    seeds: &[u8],
) -> Result<(), RefusalReason> {
    judge(organisation, action, devices, &keys(seeds)).map(|_| ())
}

const ALICE: u8 = 3;
const BOB: u8 = 5;

#[test]
fn what_the_root_does_not_name_has_safe_defaults() {
    let organisation = Organisation::new();
    let needed = |verb| organisation.trust.threshold(verb, &device(1));
    assert_eq!((needed(Verb::Wipe), needed(Verb::SelectiveWipe)), (2, 2));
    assert_eq!((needed(Verb::Lock), needed(Verb::Refresh)), (0, 0));
    assert_eq!((needed(Verb::RunScript), needed(Verb::RotateCredentials)), (1, 1));
    assert_eq!(needed(Verb::CryptoLock), 2);
    assert_eq!(organisation.trust.mass, None);
    assert_eq!(organisation.trust.break_glass, None);
}

/// A root that was written before there were groups, a mass role and break-glass.
#[test]
fn older_root_is_read_with_safe_defaults_and_followed_by_a_newer_one() {
    let organisation = organisation();
    let mut older = serde_json::to_value(&organisation.trust).expect("serialises");
    for newer in ["groups", "mass", "break_glass"] {
        older.as_object_mut().expect("an object").remove(newer);
    }
    let key = &organisation.root_key;
    let document = crate::jws::sign(crate::trust::TYP, &older, key).expect("signs");
    let signed: SignedTrustRoot =
        serde_json::from_value(serde_json::json!([document])).expect("a signed root");
    let pinned = signed.pin().expect("believed");
    assert_eq!((&pinned.mass, &pinned.break_glass), (&None, &None));
    assert!(pinned.groups.is_empty());
    let next = crate::trust::TrustRoot { version: 2, ..organisation.trust.clone() };
    let signed = SignedTrustRoot::sign(&next, &[key]).expect("signs");
    assert_eq!(signed.succeed(&pinned), Ok(next));
}

#[test]
fn many_devices_cost_a_disruptive_order_one_approval() {
    let organisation = Organisation::new();
    assert_eq!(outcome(&organisation, fixture::lock(), 50, &[]), Ok(()));
    let refused = outcome(&organisation, fixture::lock(), 51, &[]);
    assert_eq!(refused, Err(RefusalReason::MissingApproval));
    assert_eq!(outcome(&organisation, fixture::lock(), 51, &[BOB]), Ok(()));
}

#[test]
fn hostile_wipe_of_many_devices_needs_the_mass_role_and_nothing_else_will_do() {
    let with = organisation();
    assert_eq!(outcome(&with, fixture::wipe(), 10, &[ALICE, BOB]), Ok(()));
    let many = |seeds: &[u8]| outcome(&with, fixture::wipe(), 11, seeds);
    assert_eq!(many(&[ALICE, BOB]), Err(RefusalReason::MissingApproval));
    assert_eq!(many(&[11, 12]), Err(RefusalReason::MissingApproval));
    assert_eq!(many(&[ALICE, BOB, 11, 12]), Err(RefusalReason::MissingApproval));
    assert_eq!(many(&[11, 12, 13]), Ok(()));
    let without = Organisation::new();
    let refused = outcome(&without, fixture::wipe(), 11, &[ALICE, BOB]);
    assert_eq!(refused, Err(RefusalReason::TooManyDevices));
}

#[test]
fn hostile_person_with_two_mass_keys_counts_once() {
    let with = organisation();
    let refused = outcome(&with, fixture::wipe(), 11, &[14, 15, 16]);
    assert_eq!(refused, Err(RefusalReason::DoubledApproval));
    assert_eq!(outcome(&with, fixture::wipe(), 11, &[14, 15, 16, 11]), Ok(()));
}

#[test]
fn mass_keys_approve_nothing_else() {
    let with = organisation();
    for (action, devices) in [(fixture::wipe(), 10), (fixture::lock(), 51)] {
        let refused = outcome(&with, action, devices, &[11, 12, 13]);
        assert_eq!(refused, Err(RefusalReason::BadApproval));
    }
}

#[test]
fn hostile_wipe_of_a_protected_device_is_refused_whoever_signed() {
    let mut with = organisation();
    with.trust.protected_devices = BTreeSet::from([device(1)]);
    for (devices, seeds) in [(1, vec![ALICE, BOB]), (11, vec![11, 12, 13, 14, 15])] {
        let refused = outcome(&with, fixture::wipe(), devices, &seeds);
        assert_eq!(refused, Err(RefusalReason::ProtectedDevice));
    }
    let locked = |seeds: &[u8]| outcome(&with, fixture::lock(), 1, seeds);
    assert_eq!(locked(&[]), Err(RefusalReason::MissingApproval));
    assert_eq!(locked(&[BOB]), Ok(()));
}

#[test]
fn devices_of_a_group_need_more_persons_and_never_fewer() {
    let mut with = Organisation::new();
    let approvals = |verb: &str, persons| BTreeMap::from([(verb.to_owned(), persons)]);
    let group = |devices, approvals| TrustGroup { devices, approvals };
    let board = group(BTreeSet::from([device(1)]), approvals("lock", 2));
    let lax = group(BTreeSet::from([device(1)]), approvals("wipe", 0));
    let other = group(BTreeSet::from([device(2)]), approvals("wipe", 3));
    let names = ["board", "lax", "other"].map(|name| name.parse().expect("a plain name"));
    with.trust.groups = names.into_iter().zip([board, lax, other]).collect();
    assert_eq!(outcome(&with, fixture::lock(), 2, &[ALICE]), Err(RefusalReason::MissingApproval));
    assert_eq!(outcome(&with, fixture::lock(), 2, &[ALICE, BOB]), Ok(()));
    let lax = outcome(&with, fixture::wipe(), 2, &[ALICE]);
    assert_eq!(lax, Err(RefusalReason::MissingApproval));
    assert_eq!(outcome(&with, fixture::wipe(), 2, &[ALICE, BOB]), Ok(()));
    assert_eq!(with.trust.threshold(Verb::Wipe, &device(2)), 3);
    assert_eq!(with.trust.threshold(Verb::Thaw, &device(2)), 3);
}

#[test]
fn one_person_stops_and_as_many_as_destroy_let_it_go_on() {
    let mut with = organisation();
    let freeze = || Action::Freeze(Freeze { until: NOW.plus(Duration::from_secs(60)) });
    with.trust.protected_devices.insert(device(1));
    assert_eq!(outcome(&with, freeze(), 60, &[]), Ok(()));
    with.trust.protected_devices.clear();
    let thaw = || Action::Thaw(Thaw {});
    assert_eq!(outcome(&with, thaw(), 1, &[ALICE]), Err(RefusalReason::MissingApproval));
    assert_eq!(outcome(&with, thaw(), 1, &[ALICE, BOB]), Ok(()));
    with.trust.approvals.insert("wipe".to_owned(), 3);
    assert_eq!(with.trust.threshold(Verb::Thaw, &device(1)), 3);
}

#[test]
fn longer_of_the_two_undo_windows_counts_and_none_is_endless() {
    let mut with = Organisation::new();
    let tree = DeviceTree::new([device(1)]).expect("one device");
    let mut window = |least: u32, asked: Option<u32>, action| {
        let least = ["wipe", "lock"].map(|verb| (verb.to_owned(), least));
        with.trust.undo_secs = BTreeMap::from(least);
        let mut manifest = with.manifest(1, action, &tree);
        manifest.undo_secs = asked;
        with.trust.undo_window(&manifest).as_secs()
    };
    assert_eq!(window(0, None, fixture::wipe()), 0);
    assert_eq!(window(60, Some(0), fixture::wipe()), 60);
    assert_eq!(window(60, Some(61), fixture::wipe()), 61);
    assert_eq!(window(u32::MAX, None, fixture::wipe()), limits::UNDO_WINDOW.as_secs());
    assert_eq!(window(60, None, fixture::lock()), 0);
}

#[test]
fn break_glass_stands_in_for_what_can_be_undone_and_says_so() {
    let mut with = organisation();
    with.trust.approvals.insert("lock".to_owned(), 2);
    let by = |action, devices, seeds: &[u8]| {
        judge(&with, action, devices, &keys(seeds)).map(|verified| verified.authority())
    };
    assert_eq!(by(fixture::lock(), 1, &[ALICE]), Err(RefusalReason::MissingApproval));
    assert_eq!(by(fixture::lock(), 1, &[20]), Ok(Authority::BreakGlass));
    assert_eq!(by(fixture::lock(), 10, &[20]), Ok(Authority::BreakGlass));
    assert_eq!(by(fixture::lock(), 1, &[ALICE, BOB]), Ok(Authority::Approvers));
}

#[test]
fn hostile_break_glass_destroys_nothing_reaches_few_and_ends_soon() {
    let mut with = organisation();
    with.trust.approvals.insert("lock".to_owned(), 2);
    assert_eq!(outcome(&with, fixture::wipe(), 1, &[20]), Err(RefusalReason::BadApproval));
    assert_eq!(outcome(&with, fixture::wipe(), 1, &[ALICE, 20]), Err(RefusalReason::BadApproval));
    assert_eq!(outcome(&with, fixture::lock(), 11, &[20]), Err(RefusalReason::BadApproval));
    // Of the hour that the order lasts, none may be left beyond an hour after the approval.
    for (early, expected) in [(1, RefusalReason::BadApproval), (-301, RefusalReason::BadApproval)] {
        let at = NOW.as_millis().saturating_add_signed(-early * 1000);
        let envelope = with.envelope(1, fixture::lock(), device(1), 1);
        let approved_at = crate::time::Timestamp::from_millis(at);
        let approval = Approval { manifest: envelope.manifest.clone(), approved_at };
        let approval = envelope::approve(&approval, &signing_key(20)).expect("signs");
        let envelope = Envelope { approvals: vec![approval], ..envelope };
        let jws = envelope::sign(&envelope, &with.command_key).expect("signs");
        let refusal = with.verifying(device(1)).verify(&jws).expect_err("refused");
        assert_eq!(refusal.reason, expected);
    }
    // Nobody can undo what a script did.
    let (run, script) = fixture::run_script();
    let approved = with.approved(with.envelope(1, run, device(1), 1), &[&signing_key(20)]);
    let envelope = Envelope { script: Some(script), ..approved };
    let jws = envelope::sign(&envelope, &with.command_key).expect("signs");
    let refusal = with.verifying(device(1)).verify(&jws).expect_err("refused");
    assert_eq!(refusal.reason, RefusalReason::BadApproval);
    let rotate = fixture::rotate(crate::action::Credential::Volumes);
    assert_eq!(outcome(&with, rotate, 12, &[20]), Err(RefusalReason::BadApproval));
    assert_eq!(crate::limits::BREAK_GLASS_VALIDITY, Duration::from_secs(3600));
}

#[test]
fn hostile_quarantine_that_ends_or_spares_takes_whoever_may_release() {
    let mut organisation = organisation();
    organisation.trust.approvals.insert("release".to_owned(), 2);
    let firm = Quarantine { allow: Vec::new(), resolver: false, until: None };
    let peer = AllowedPeer { address: [192, 0, 2, 1].into(), tcp_port: 443 };
    let loose = [
        Quarantine { until: Some(NOW.plus(Duration::from_secs(60))), ..firm.clone() },
        Quarantine { allow: vec![peer], ..firm.clone() },
        Quarantine { resolver: true, ..firm.clone() },
    ];
    assert!(judge(&organisation, Action::Quarantine(firm.clone()), 1, &[]).is_ok());
    for quarantine in loose.clone() {
        let action = Action::Quarantine(quarantine);
        let alone = judge(&organisation, action.clone(), 1, &keys(&[3]));
        assert_eq!(alone.unwrap_err(), RefusalReason::MissingApproval);
        assert!(judge(&organisation, action, 1, &keys(&[3, 5])).is_ok());
    }

    // Nor does a command key order it that may not order a release.
    organisation.trust.approvals.clear();
    organisation.trust.command_keys[0].verbs = BTreeSet::from(["quarantine".to_owned()]);
    assert!(judge(&organisation, Action::Quarantine(firm), 1, &[]).is_ok());
    for quarantine in loose {
        let refused = judge(&organisation, Action::Quarantine(quarantine), 1, &[]);
        assert_eq!(refused.unwrap_err(), RefusalReason::BadSignature);
    }
}

/// What device 1 says to a wipe that this operator asked for, approved by alice and bob.
fn asked_by(organisation: &Organisation, operator: &str) -> Result<(), RefusalReason> {
    let mut envelope = organisation.envelope(1, fixture::wipe(), device(1), 1);
    envelope.manifest.requested_by = Some(operator.parse().expect("a plain name"));
    let envelope = organisation.approved(envelope, &[&organisation.alice_spare, &organisation.bob]);
    let jws = envelope::sign(&envelope, &organisation.command_key).expect("signs");
    let verified = organisation.verifying(device(1)).verify(&jws);
    verified.map(|_| ()).map_err(|refusal| refusal.reason)
}

#[test]
fn hostile_requester_approves_nothing_of_their_own_with_any_key() {
    let mut organisation = Organisation::new();
    assert_eq!(asked_by(&organisation, "al"), Ok(()));
    assert_eq!(asked_by(&organisation, "alice"), Err(RefusalReason::BadApproval), "by name");
    // Another key of alice's says which operator she is.
    organisation.trust.approvers[0].operators = ["al", "root"].map(|n| n.parse().unwrap()).into();
    organisation.signed_trust().pin().expect("a sound root");
    for (operator, expected) in [
        ("al", Err(RefusalReason::BadApproval)),
        ("root", Err(RefusalReason::BadApproval)),
        ("bob", Err(RefusalReason::BadApproval)),
        ("carol", Ok(())),
    ] {
        assert_eq!(asked_by(&organisation, operator), expected, "{operator}");
    }
}

#[test]
fn hostile_server_cannot_name_another_requester_after_the_approval() {
    let organisation = Organisation::new();
    for named in [None, Some("carol")] {
        let mut envelope = organisation.envelope(1, fixture::wipe(), device(1), 1);
        envelope.manifest.requested_by = Some("dave".parse().expect("a plain name"));
        let keys = [&organisation.alice, &organisation.bob];
        let mut envelope = organisation.approved(envelope, &keys);
        envelope.manifest.requested_by = named.map(|name| name.parse().expect("a plain name"));
        let jws = envelope::sign(&envelope, &organisation.command_key).expect("signs");
        let refusal = organisation.verifying(device(1)).verify(&jws).expect_err("altered");
        assert_eq!(refusal.reason, RefusalReason::WidenedManifest);
    }
}

#[test]
fn break_glass_of_whoever_asked_stands_in_where_nobody_else_is_there() {
    let mut organisation = organisation();
    organisation.trust.approvals.insert("lock".to_owned(), 1);
    let mut envelope = organisation.envelope(1, fixture::lock(), device(1), 1);
    let ends = NOW.plus(Duration::from_secs(600));
    (envelope.exp, envelope.manifest.expires_at) = (ends, ends);
    envelope.manifest.requested_by = Some("gil".parse().expect("a plain name"));
    let glass = signing_key(20);
    let envelope = organisation.approved(envelope, &[&glass]);
    let jws = envelope::sign(&envelope, &organisation.command_key).expect("signs");
    organisation.verifying(device(1)).verify(&jws).expect("it stands in");
}

#[test]
fn documents_without_a_requester_are_written_as_before() {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::wipe(), device(1), 1);
    let manifest = serde_json::to_value(&envelope.manifest).expect("a document");
    let approver = serde_json::to_value(&organisation.trust.approvers[0]).expect("a document");
    assert!(manifest.get("requested_by").is_none() && approver.get("operators").is_none());
}
