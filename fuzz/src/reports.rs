//! Receipts, proofs and notices: texts that nobody signed, and claims that a hostile device did.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use protocol::action::Verb;
use protocol::fixture::{self, NOW};
use protocol::grade::{Grade, Known};
use protocol::id::BootId;
use protocol::jws::{self, CompactJws};
use protocol::key::DeviceKey;
use protocol::receipt::{self, Evidence, Outcome, Receipt, RefusalReason};
use protocol::state::{CommandState, VerbClass};
use protocol::{notice, proof};

use crate::json;

static DEVICE: LazyLock<DeviceKey> = LazyLock::new(fixture::device_key);

/// The text of a report; and, where it is JSON, its claims, which the device signs here.
pub(crate) fn run(input: &[u8]) {
    let key = DEVICE.public();
    if let Ok(text) = std::str::from_utf8(input) {
        let jws = CompactJws::from_text(text.to_owned());
        let is_believed = receipt::verify(&jws, &key).is_ok()
            || proof::verify(&jws, &key).is_ok()
            || notice::verify(&jws, &key).is_ok();
        assert!(!is_believed, "a report that no device signed is believed");
    }
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(input) else { return };
    let random = SystemRandom::new();
    let signer = DEVICE.signer(&random);
    let sign = |typ| jws::sign(typ, &claims, &signer).expect("any JSON can be signed");
    let receipt = receipt::verify(&sign(receipt::TYP), &key).ok();
    let proof = proof::verify(&sign(proof::TYP), &key).ok();
    let _ = notice::verify(&sign(notice::TYP), &key);
    graded(receipt.as_ref(), proof.as_ref().map(|proof| &proof.evidence));
}

/// Nothing that was refused or that failed is called a proven wipe.
fn graded(receipt: Option<&Receipt>, proved: Option<&Evidence>) {
    let Some(receipt) = receipt else { return };
    let again: Receipt = serde_json::from_slice(&json(receipt)).expect("a receipt of ours reads");
    assert_eq!(again, *receipt, "a receipt does not survive the wire");
    let state = receipt.outcome.state();
    let known = |proved| Known {
        class: VerbClass::Destructive,
        state,
        outcome: Some(&receipt.outcome),
        proved,
        is_silent: false,
    };
    let is_proven = |grade: Option<Grade>| grade.is_some_and(Grade::is_proven);
    if state != CommandState::Succeeded && proved.and_then(Grade::claimed).is_none() {
        assert!(!is_proven(known(None).grade()), "{state:?} is called proven");
    }
    let _ = known(proved).grade();
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let evidence = Evidence::new().with("grade", "proven").with("volumes", 2);
    let of = |outcome| Receipt {
        iss: fixture::device(1),
        generation: 1,
        command_id: fixture::command(1),
        order_id: Some(fixture::order(1)),
        verb: Some(Verb::Wipe),
        outcome,
        started_at: NOW,
        finished_at: NOW,
        boot_id: BootId::new(NOW, [7; 10]),
        agent_version: "0.1.0".to_owned(),
        envelope_sha256: CompactJws::from_text("a.b.c".to_owned()).sha256(),
    };
    let refused = Outcome::Refused {
        reason: RefusalReason::MissingApproval,
        detail: "approved by 1 of 2 persons".to_owned(),
    };
    vec![
        ("succeeded", json(&of(Outcome::Succeeded { evidence }))),
        ("refused", json(&of(refused))),
        ("text", b"header.claims.signature".to_vec()),
    ]
}
