//! A proof as it stands on the wire, pinned, and whose word it is.

use super::*;
use crate::fixture::{self, NOW};
use crate::grade::{GRADE, Grade};

fn proof() -> Proof {
    Proof {
        iss: fixture::device(1),
        generation: 1,
        command_id: fixture::command(1),
        order_id: fixture::order(1),
        verb: Verb::Wipe,
        evidence: Evidence::new().with(GRADE, Grade::Proven.as_str()),
        proved_at: NOW,
        boot_id: BootId::new(NOW, [7; 10]),
        agent_version: "0.1.0".to_owned(),
        envelope_sha256: CompactJws::from_text("envelope".to_owned()).sha256(),
    }
}

#[test]
fn proofs_are_pinned() {
    let text = serde_json::to_string_pretty(&proof()).expect("serialises");
    assert_eq!(serde_json::from_str::<Proof>(&text).expect("deserialises"), proof());
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../golden" }, {
        insta::assert_snapshot!("proof", text);
    });
}

#[test]
fn only_the_device_can_sign_a_proof_and_it_is_no_receipt() {
    let (key, other) = (fixture::device_key(), fixture::device_key());
    let random = aws_lc_rs::rand::SystemRandom::new();
    let jws = sign(&proof(), &key.signer(&random)).expect("signs");
    assert_eq!(verify(&jws, &key.public()), Ok(proof()));
    assert_eq!(verify(&jws, &other.public()), Err(JwsError::BadSignature));
    let as_receipt = crate::receipt::verify(&jws, &key.public());
    assert!(matches!(as_receipt, Err(JwsError::WrongType { .. })));
}
