//! A draft is signed by whom it concerns, over what it says, on top of what its signers know.

use protocol::fixture::{self, NOW, Organisation, signing_key};
use protocol::key::SigningKey;
use protocol::trust::{SignedTrustRoot, TrustError, TrustRoot};

use super::change::{Change, describe};
use super::draft::{Draft, DraftError, fingerprint};
use crate::cli::{Cli, Verb};

/// The change that such a command line makes.
fn change(words: &str) -> Change {
    let words = ["tocsin", "trust"].into_iter().chain(words.split(' ')).chain(["--draft", "d"]);
    let cli = <Cli as clap::Parser>::try_parse_from(words).unwrap();
    let Verb::Trust(super::TrustVerb::Change(change)) = cli.verb else { panic!("no change") };
    change
}

fn key(seed: u8) -> SigningKey {
    signing_key(seed)
}

/// A draft on top of version 1, which one root key signed: from now on two of three must.
fn ceremony() -> (Organisation, Draft) {
    let organisation = Organisation::new();
    let mut draft = Draft::new(vec![organisation.signed_trust()], NOW).unwrap();
    for seed in [51, 52, 53] {
        draft.change(&change(&format!("add-root-key {}", key(seed).public()))).unwrap();
    }
    let own = organisation.root_key.public();
    draft.change(&change(&format!("remove-root-key {own}"))).unwrap();
    draft.change(&change("set-threshold root 2")).unwrap();
    (organisation, draft)
}

#[test]
fn change_of_root_keys_takes_the_old_one_and_enough_of_the_new_from_separate_copies() {
    let (organisation, mut draft) = ceremony();
    let known = fingerprint(&organisation.trust);
    let mut copies = [draft.clone(), draft.clone(), draft.clone()];
    let first = copies[0].believe(organisation.root_key.public(), None).unwrap();
    assert_eq!(first, organisation.trust);
    copies[0].sign(&first, &organisation.root_key).unwrap();
    for (copy, seed) in copies[1..].iter_mut().zip([51, 52]) {
        let stranger = copy.believe(key(seed).public(), None);
        assert_eq!(stranger, Err(DraftError::Stranger), "it has signed nothing yet");
        let current = copy.believe(key(seed).public(), Some(&known)).unwrap();
        copy.sign(&current, &key(seed)).unwrap();
    }
    for (at, copy) in copies.into_iter().enumerate() {
        let missing = draft.finish(&organisation.trust);
        assert!(
            matches!(missing, Err(TrustError::Inconsistent | TrustError::TooFewSignatures { .. })),
            "{at}"
        );
        draft.merge(copy).unwrap();
    }
    let second = draft.finish(&organisation.trust).unwrap();
    let second = (second.succeed(&organisation.trust).unwrap(), second);
    assert_eq!(second.0.root.threshold, 2);

    // From now on two of three, and the former key counts for nothing.
    let chain = vec![organisation.signed_trust(), second.1];
    let mut third = Draft::new(chain, NOW).unwrap();
    third.change(&change("set-threshold lock 1")).unwrap();
    let former = third.believe(organisation.root_key.public(), None);
    assert_eq!(former, Err(DraftError::NoRootKey(2)));
    for (seed, is_enough) in [(51, false), (53, true)] {
        let told = fingerprint(&second.0);
        let current = third.believe(key(seed).public(), Some(&told)).unwrap();
        third.sign(&current, &key(seed)).unwrap();
        assert_eq!(third.finish(&current).is_ok(), is_enough);
    }
}

#[test]
fn hostile_draft_that_was_altered_after_signing_has_lost_its_signatures() {
    let (organisation, mut draft) = ceremony();
    draft.sign(&organisation.trust, &organisation.root_key).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("draft");
    let mut json = serde_json::to_value(&draft).unwrap();
    json["next"]["approvals"] = serde_json::json!({ "wipe": 0 });
    std::fs::write(&path, json.to_string()).unwrap();
    let altered = Draft::load(&path).unwrap();
    assert!(matches!(altered.finish(&organisation.trust), Err(TrustError::Inconsistent)));
    let mut signed = altered.clone();
    assert!(signed.merge(draft).is_err(), "no copies of one draft");
}

/// The control plane hands out a chain in which everything but the signer's own key is its own.
#[test]
fn hostile_chain_that_only_names_the_signers_key_is_not_signed_on() {
    let victim = key(51);
    let mut made_up = Organisation::new();
    made_up.trust.root.keys.push(victim.public().clone());
    let chain = vec![SignedTrustRoot::sign(&made_up.trust, &[&made_up.root_key]).unwrap()];
    let draft = Draft::new(chain, NOW).unwrap();
    assert_eq!(draft.believe(victim.public(), None), Err(DraftError::Stranger));
    let told = fingerprint(&TrustRoot { version: 9, ..made_up.trust.clone() });
    let other = draft.believe(victim.public(), Some(&told));
    assert!(matches!(other, Err(DraftError::OtherVersion { version: 1, .. })));
}

#[test]
fn mass_role_comes_into_a_draft_step_by_step_and_is_judged_as_a_whole() {
    let organisation = Organisation::new();
    let mut draft = Draft::new(vec![organisation.signed_trust()], NOW).unwrap();
    for (seed, person) in [(11, "ann"), (12, "ben"), (13, "cleo")] {
        let refused = draft.clone().sign(&organisation.trust, &organisation.root_key);
        assert_eq!(refused.is_err(), seed > 11, "fewer than three persons are no mass role");
        let public = key(seed).public().clone();
        let added = format!("add-approver {public} --person {person} --role mass");
        draft.change(&change(&added)).unwrap();
    }
    draft.sign(&organisation.trust, &organisation.root_key).unwrap();
    let signed = draft.finish(&organisation.trust).unwrap();
    let next = signed.succeed(&organisation.trust).unwrap();
    assert_eq!(next.mass.map(|mass| (mass.threshold, mass.approvers.len())), Some((3, 3)));
}

#[test]
fn every_change_is_described_to_whoever_signs() {
    let device = fixture::device(1);
    for words in [
        format!("add-approver {} --person zoe", key(60).public()),
        format!("add-approver {} --person zoe --role break-glass", key(60).public()),
        format!("remove-approver {}", key(3).public()),
        "set-threshold lock 2".to_owned(),
        "set-threshold wipe 1".to_owned(),
        "set-threshold root 2".to_owned(),
        format!("protect {device}"),
        "set-undo wipe 10m".to_owned(),
        "end-freezes".to_owned(),
        format!("group-devices board {device}"),
        format!("add-root-key {}", key(60).public()),
        format!("remove-root-key {}", key(1).public()),
        format!("add-command-key {}", key(60).public()),
        format!("remove-command-key {}", key(2).public()),
    ] {
        let organisation = Organisation::new();
        let mut next = organisation.trust.clone();
        change(&words).apply(&mut next).unwrap();
        assert_ne!(next, organisation.trust, "{words} changes nothing");
        assert!(!describe(&organisation.trust, &next).is_empty(), "{words} is not described");
        assert!(describe(&next, &next).is_empty());
    }
}
