//! The tree against its definition, and proofs that must not hold.

use proptest::prelude::*;

use super::*;
use crate::fixture::{self, Organisation};

fn devices(count: u16) -> Vec<DeviceId> {
    let random = |n: u16| {
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        bytes
    };
    (0..count).map(|n| DeviceId::new(fixture::NOW, random(n))).collect()
}

/// RFC 6962, 2.1, word for word: split at the largest power of two below the count.
fn reference_root(devices: &[DeviceId]) -> Hash {
    match devices {
        [] => unreachable!("a tree has devices"),
        [one] => Hash::leaf(one),
        many => {
            let split = many.len().next_power_of_two() / 2;
            let (left, right) = many.split_at(split);
            Hash::node(&reference_root(left), &reference_root(right))
        }
    }
}

#[test]
fn root_is_that_of_rfc_6962() {
    for count in 1..=70 {
        let mut devices = devices(count);
        devices.sort_unstable();
        let tree = DeviceTree::new(devices.iter().copied()).expect("not empty");
        assert_eq!(tree.root(), reference_root(&devices), "{count} devices");
    }
}

#[test]
fn no_devices_make_no_tree() {
    assert!(DeviceTree::new([]).is_none());
}

#[test]
fn doubles_count_once() {
    let one = fixture::device(1);
    let tree = DeviceTree::new([one, one]).expect("not empty");
    assert_eq!(tree.devices(), [one]);
}

#[test]
fn proof_for_another_count_does_not_hold() {
    let tree = DeviceTree::new(devices(5)).expect("not empty");
    let mut manifest = Organisation::new().manifest(1, fixture::wipe(), &tree);
    let member = tree.devices()[4];
    let proof = tree.proof(&member).expect("a member");
    assert!(manifest.includes(&member, &proof));
    manifest.device_count = 4;
    assert!(!manifest.includes(&member, &proof));
    manifest.device_count = 9;
    assert!(!manifest.includes(&member, &proof));
}

proptest! {
    #[test]
    fn every_member_is_proved_and_nobody_else(count in 1u16..200, stranger in 200u16..400) {
        let tree = DeviceTree::new(devices(count)).expect("not empty");
        let manifest = Organisation::new().manifest(1, fixture::wipe(), &tree);
        let stranger = devices(stranger + 1)[usize::from(stranger)];
        prop_assert!(tree.proof(&stranger).is_none());
        for member in tree.devices() {
            let proof = tree.proof(member).expect("a member");
            prop_assert!(manifest.includes(member, &proof));
            prop_assert!(!manifest.includes(&stranger, &proof));
        }
    }

    #[test]
    fn altered_proofs_do_not_hold(count in 2u16..100, at in any::<prop::sample::Index>(), bit in 0usize..256) {
        let tree = DeviceTree::new(devices(count)).expect("not empty");
        let manifest = Organisation::new().manifest(1, fixture::wipe(), &tree);
        let member = tree.devices()[at.index(tree.devices().len())];
        let proof = tree.proof(&member).expect("a member");
        for step in 0..proof.path.len() {
            let mut altered = proof.clone();
            altered.path[step].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!manifest.includes(&member, &altered));
        }
        let mut longer = proof.clone();
        longer.path.push(Hash([0; 32]));
        prop_assert!(!manifest.includes(&member, &longer));
        let mut moved = proof;
        moved.index = u32::MAX;
        prop_assert!(!manifest.includes(&member, &moved));
    }
}
