//! The state directory: one agent, one chain of trust, and time that only moves forward.

use std::time::Duration;

use protocol::fixture::{Organisation, signing_key};
use protocol::time::Timestamp;
use protocol::trust::{RootKeys, SignedTrustRoot, TrustError, TrustRoot};

use super::{StateDir, StateError, TimeFloor, TrustChain};

fn state() -> (tempfile::TempDir, StateDir) {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(&folder.path().join("state")).unwrap();
    (folder, state)
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(secs * 1000)
}

fn version(organisation: &Organisation, version: u32) -> SignedTrustRoot {
    let root = TrustRoot { version, ..organisation.trust.clone() };
    SignedTrustRoot::sign(&root, &[&organisation.root_key]).unwrap()
}

#[test]
fn second_agent_on_a_state_directory_is_refused() {
    let (_folder, state) = state();
    let path = state.path().to_owned();
    assert!(matches!(StateDir::open(&path), Err(StateError::InUse(_))));
    drop(state);
    StateDir::open(&path).unwrap();
}

#[test]
fn trust_chain_survives_a_restart() {
    let (_folder, state) = state();
    let organisation = Organisation::new();
    assert!(matches!(TrustChain::load(&state), Err(StateError::NotEnrolled(_))));
    let mut chain = TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    chain.succeed(version(&organisation, 2)).unwrap();
    chain.succeed(version(&organisation, 3)).unwrap();
    assert_eq!(TrustChain::load(&state).unwrap().in_force(), chain.in_force());
    assert_eq!(chain.in_force().version, 3);
}

#[test]
fn only_the_newest_two_trust_roots_are_kept_and_they_prove_the_next() {
    let (_folder, state) = state();
    let organisation = Organisation::new();
    let mut chain = TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    let file = state.path().join("trust-roots.json");
    chain.succeed(version(&organisation, 2)).unwrap();
    let of_two = std::fs::metadata(&file).unwrap().len();
    for next in 3..30 {
        let mut chain = TrustChain::load(&state).unwrap();
        chain.succeed(version(&organisation, next)).unwrap();
        assert_eq!(chain.in_force().version, next);
    }
    assert!(std::fs::metadata(&file).unwrap().len() < of_two + 16);
}

#[test]
fn trust_root_of_other_root_keys_beside_the_former_is_not_loaded() {
    let (_folder, state) = state();
    let organisation = Organisation::new();
    let mut chain = TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    chain.succeed(version(&organisation, 2)).unwrap();
    let stranger = signing_key(99);
    let root = RootKeys { keys: vec![stranger.public().clone()], threshold: 1 };
    let forged = TrustRoot { version: 2, root, ..organisation.trust.clone() };
    let forged = SignedTrustRoot::sign(&forged, &[&stranger]).unwrap();
    let file = state.path().join("trust-roots.json");
    std::fs::write(&file, serde_json::to_vec(&[organisation.signed_trust(), forged]).unwrap())
        .unwrap();
    let refused = TrustChain::load(&state).unwrap_err();
    assert!(matches!(refused, StateError::Trust(TrustError::TooFewSignatures { .. })));
}

#[test]
fn earlier_trust_root_that_is_put_back_is_noticed_until_the_newest_is_back() {
    let (_folder, state) = state();
    let organisation = Organisation::new();
    let mut chain = TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    let file = state.path().join("trust-roots.json");
    let earlier = std::fs::read(&file).unwrap();
    chain.succeed(version(&organisation, 2)).unwrap();
    chain.succeed(version(&organisation, 3)).unwrap();
    assert!(!TrustChain::load(&state).unwrap().is_rolled_back());
    std::fs::write(&file, earlier).unwrap();
    let mut chain = TrustChain::load(&state).unwrap();
    assert!(chain.is_rolled_back());
    chain.succeed(version(&organisation, 2)).unwrap();
    assert!(TrustChain::load(&state).unwrap().is_rolled_back());
    chain.succeed(version(&organisation, 3)).unwrap();
    assert!(!TrustChain::load(&state).unwrap().is_rolled_back());
    // Another enrollment begins anew.
    TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    assert!(!TrustChain::load(&state).unwrap().is_rolled_back());
}

#[test]
fn earlier_or_skipped_version_is_refused_and_changes_nothing() {
    let (_folder, state) = state();
    let organisation = Organisation::new();
    let mut chain = TrustChain::pin(&state, organisation.signed_trust()).unwrap();
    chain.succeed(version(&organisation, 2)).unwrap();
    for offered in [1, 2, 4] {
        let refused = chain.succeed(version(&organisation, offered)).unwrap_err();
        assert!(matches!(refused, StateError::Trust(TrustError::NotNext { .. })), "{refused:?}");
    }
    assert_eq!(TrustChain::load(&state).unwrap().in_force().version, 2);
}

#[test]
fn time_moves_forward_only_and_not_beyond_its_cap() {
    let (_folder, state) = state();
    let mut floor = TimeFloor::load(&state).unwrap();
    assert!(floor.raise(at(1_000), at(5_000)));
    assert_eq!(floor.now(at(10)), at(1_000));
    assert_eq!(floor.now(at(2_000)), at(2_000));
    floor.raise(at(500), at(5_000));
    floor.raise(at(u64::from(u32::MAX)), at(5_000));
    floor.save().unwrap();
    assert_eq!(floor.now(at(0)), at(5_000));
    assert_eq!(TimeFloor::load(&state).unwrap().now(at(0)), at(5_000));
}

#[test]
fn distrust_survives_a_restart() {
    let (_folder, state) = state();
    TimeFloor::load(&state).unwrap().distrust(at(77)).unwrap();
    let floor = TimeFloor::load(&state).unwrap();
    assert_eq!(floor.distrust_before(), Some(at(77)));
    assert_eq!(floor.now(at(1)).since(at(1)), Duration::ZERO);
}
