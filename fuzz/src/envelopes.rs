//! Envelopes: from somebody without any key, and from somebody who has stolen the command key.

use std::collections::BTreeSet;

use protocol::envelope::{self, Envelope, Verified};
use protocol::fixture::{self, NOW, Organisation};
use protocol::frame::CommandFrame;
use protocol::jws::{self, CompactJws};
use protocol::ledger::{Ledger, Offer};
use protocol::manifest::{DeviceTree, Manifest};
use protocol::state::{Lane, VerbClass};

use crate::json;

/// The text of an envelope. Without a key nobody makes one that is believed: what is believed is,
/// character by character, one that was signed here.
pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let organisation = Organisation::new();
    let jws = CompactJws::from_text(text.to_owned());
    if organisation.verifying(fixture::device(1)).verify(&jws).is_ok() {
        let is_ours = seeds().iter().any(|(_, ours)| ours == input);
        assert!(is_ours, "an envelope that nobody signed is believed");
    }
    offered(&organisation, jws);
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let organisation = Organisation::new();
    let signed = |envelope: &Envelope| {
        let jws = envelope::sign(envelope, &organisation.command_key).expect("the fixture signs");
        jws.as_str().as_bytes().to_vec()
    };
    orders(&organisation).iter().map(|(name, envelope)| (*name, signed(envelope))).collect()
}

/// The claims of an envelope, signed here by the command key. Nothing that destroys is believed
/// unless two persons signed exactly that.
pub(crate) fn run_claims(input: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let organisation = Organisation::new();
    let signed = jws::sign(envelope::TYP, &claims, &organisation.command_key);
    let jws = signed.expect("any JSON can be signed");
    let device = fixture::device(1);
    if let Ok(verified) = organisation.verifying(device).verify(&jws) {
        holds(&organisation, &verified);
    }
    offered(&organisation, jws);
}

fn holds(organisation: &Organisation, verified: &Verified) {
    let claims = verified.envelope();
    assert_eq!(claims.aud, fixture::device(1), "addressed to another device");
    assert_eq!(claims.generation, 1, "addressed to another enrollment");
    assert!(claims.exp > NOW, "over");
    assert!(claims.exp <= claims.manifest.expires_at, "longer than its manifest");
    let verb = claims.action().verb();
    assert_eq!(claims.lane, claims.action().lane(), "in another lane");
    if verb.class() == VerbClass::Destructive {
        let persons: BTreeSet<_> = approved(organisation)
            .into_iter()
            .filter(|(manifest, _)| *manifest == claims.manifest)
            .map(|(_, person)| person)
            .collect();
        assert!(persons.len() >= 2, "{verb} on the word of {persons:?}");
    }
}

/// Whatever it is, the ledger decides without harm; and takes only what is verified.
fn offered(organisation: &Organisation, jws: CompactJws) {
    let verifying = organisation.verifying(fixture::device(1));
    let is_verified = verifying.verify(&jws).is_ok();
    let mut ledger = Ledger::default();
    let frame =
        CommandFrame { command_id: fixture::command(1), lane: Lane::Urgent, after_seq: 0, jws };
    let Offer::Take(received) = ledger.offer(&frame, &verifying) else { return };
    assert!(is_verified, "taken without being believed");
    ledger.apply(&protocol::ledger::Record::Received(*received));
    let again = ledger.offer(&frame, &verifying);
    assert!(!matches!(again, Offer::Take(_)), "taken twice");
}

/// What was signed by whom, apart from whatever an input says.
fn approved(organisation: &Organisation) -> Vec<(Manifest, &'static str)> {
    let mut signed = Vec::new();
    for (_, envelope) in orders(organisation) {
        for approval in &envelope.approvals {
            for (key, person) in [
                (&organisation.alice, "alice"),
                (&organisation.alice_spare, "alice"),
                (&organisation.bob, "bob"),
            ] {
                if *approval == organisation.approval(&envelope.manifest, key) {
                    signed.push((envelope.manifest.clone(), person));
                }
            }
        }
    }
    signed
}

/// Orders of all kinds, some of which are good.
fn orders(organisation: &Organisation) -> Vec<(&'static str, Envelope)> {
    let device = fixture::device(1);
    let (alice, spare, bob) = (&organisation.alice, &organisation.alice_spare, &organisation.bob);
    let plain = |number, action| organisation.envelope(number, action, device, 1);
    let (script, text) = fixture::run_script();
    let mut script = organisation.approved(plain(6, script), &[alice]);
    script.script = Some(text);
    let mut many = plain(7, fixture::wipe());
    let devices = DeviceTree::new((0..40).map(fixture::device)).expect("forty devices");
    many.manifest = organisation.manifest(7, fixture::wipe(), &devices);
    many.proof = devices.proof(&device).expect("the device is in the tree");
    let mut elsewhere = plain(8, fixture::lock());
    elsewhere.aud = fixture::device(2);
    let mut over = plain(9, fixture::lock());
    over.exp = NOW;
    vec![
        ("lock", plain(1, fixture::lock())),
        ("wipe", organisation.approved(plain(2, fixture::wipe()), &[alice, bob])),
        ("wipe_of_one", organisation.approved(plain(3, fixture::wipe()), &[alice, spare])),
        ("wipe_of_none", plain(4, fixture::wipe())),
        ("collect", plain(5, fixture::collect_evidence())),
        ("script", script),
        ("wipe_of_many", organisation.approved(many, &[alice, bob])),
        ("elsewhere", elsewhere),
        ("over", over),
    ]
}

pub(crate) fn claims_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let organisation = Organisation::new();
    orders(&organisation).iter().map(|(name, envelope)| (*name, json(envelope))).collect()
}
