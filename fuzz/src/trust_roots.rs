//! Versions of the trust root, from somebody who has no root key and from somebody who has one.

use protocol::action::Verb;
use protocol::fixture::{self, Organisation, signing_key};
use protocol::jws;
use protocol::manifest::DeviceTree;
use protocol::trust::{self, SignedTrustRoot, TrustRoot};

use crate::json;

/// Signed versions as they travel; and, where it is no such list, the claims of one, which the
/// root key signs here.
pub(crate) fn run(input: &[u8]) {
    let organisation = Organisation::new();
    if let Ok(signed) = serde_json::from_slice::<SignedTrustRoot>(input) {
        if let Ok(root) = signed.succeed(&organisation.trust) {
            assert_eq!(root, next(&organisation), "a version that nobody signed is believed");
        }
        if let Ok(root) = signed.pin() {
            used(&organisation, &root);
        }
    }
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let signed = jws::sign(trust::TYP, &claims, &organisation.root_key);
    let signed = SignedTrustRoot::of(vec![signed.expect("any JSON can be signed")]);
    if let Ok(root) = signed.succeed(&organisation.trust) {
        assert_eq!(root.version, organisation.trust.version + 1, "versions follow one another");
        used(&organisation, &root);
    }
}

/// A root that is believed destroys nothing on fewer than two persons' word unless it says so, and
/// counts nobody whom it does not name.
fn used(organisation: &Organisation, root: &TrustRoot) {
    let device = fixture::device(1);
    let devices = DeviceTree::new([device]).expect("one device");
    for action in [fixture::lock(), fixture::wipe(), fixture::run_script().0] {
        let verb = action.verb();
        let manifest = organisation.manifest(1, action, &devices);
        if let Ok(needs) = root.needs(&manifest, &device)
            && verb == Verb::Wipe
            && !root.approvals.contains_key(verb.as_str())
        {
            assert!(needs.persons >= 2, "{needs:?}");
        }
        let approval = organisation.approval(&manifest, &organisation.alice);
        let is_counted = protocol::envelope::check_approval(&approval, &manifest, root).is_ok();
        let is_named = root.signer(organisation.alice.public().id()).is_some();
        assert!(is_named || !is_counted, "somebody who is not named counts");
    }
}

/// The one version that follows the fixture's.
fn next(organisation: &Organisation) -> TrustRoot {
    let mut root = organisation.trust.clone();
    root.version += 1;
    root.protected_devices.insert(fixture::device(9));
    root
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let organisation = Organisation::new();
    let key = &organisation.root_key;
    let root = next(&organisation);
    let signed = |root: &TrustRoot, key: &protocol::key::SigningKey| {
        json(&SignedTrustRoot::sign(root, &[key]).expect("the fixture signs"))
    };
    let mut skipped = root.clone();
    skipped.version += 1;
    vec![
        ("first", json(&organisation.signed_trust())),
        ("next", signed(&root, key)),
        ("of_another", signed(&root, &signing_key(77))),
        ("skipped", signed(&skipped, key)),
        ("claims", json(&root)),
    ]
}
