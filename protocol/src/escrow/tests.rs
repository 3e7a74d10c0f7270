//! An escrow as it stands on the wire, pinned; whose word it is, and who reads it.

use super::*;
use crate::fixture::{self, NOW};

fn credential() -> Credential {
    let subject = Subject::Volume {
        uuid: "2b1f3c52-7b0f-4c6b-8a3c-5c1a0e0c9d11".to_owned(),
        path: "/dev/sda3".to_owned(),
    };
    Credential { subject, secret: "cbdef-ghijk".to_owned() }
}

fn recovery() -> CaseSecret {
    CaseSecret::new([9; 32])
}

fn escrow() -> Escrow {
    let (key, command_id) = (recovery().public().expect("a key"), fixture::command(1));
    Escrow {
        iss: fixture::device(1),
        generation: 1,
        command_id,
        order_id: fixture::order(1),
        verb: Verb::RotateCredentials,
        subjects: vec![credential().subject],
        recovery_key: key,
        sealed: seal(&[credential()], (&key, command_id), [3; 32]).expect("seals"),
        made_at: NOW,
        envelope_sha256: CompactJws::from_text("envelope".to_owned()).sha256(),
    }
}

#[test]
fn escrows_are_pinned() {
    let text = serde_json::to_string_pretty(&escrow()).expect("serialises");
    assert_eq!(serde_json::from_str::<Escrow>(&text).expect("deserialises"), escrow());
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../golden" }, {
        insta::assert_snapshot!("escrow", text);
    });
}

#[test]
fn only_the_device_can_sign_an_escrow_and_it_is_no_receipt() {
    let (key, other) = (fixture::device_key(), fixture::device_key());
    let random = aws_lc_rs::rand::SystemRandom::new();
    let jws = sign(&escrow(), &key.signer(&random)).expect("signs");
    assert_eq!(verify(&jws, &key.public()), Ok(escrow()));
    assert_eq!(verify(&jws, &other.public()), Err(JwsError::BadSignature));
    let as_receipt = crate::receipt::verify(&jws, &key.public());
    assert!(matches!(as_receipt, Err(JwsError::WrongType { .. })));
}

#[test]
fn only_the_recovery_key_opens_an_escrow_and_only_about_its_command() {
    let escrow = escrow();
    assert_eq!(open(&escrow, &recovery()), Ok(vec![credential()]));
    assert_eq!(open(&escrow, &CaseSecret::new([8; 32])), Err(SealedError::Closed));
    let moved = Escrow { command_id: fixture::command(2), ..escrow.clone() };
    assert_eq!(open(&moved, &recovery()), Err(SealedError::Closed));
    // Nor does it pass for evidence of the same command.
    let about = escrow.command_id.to_string();
    assert_eq!(recovery().open(&escrow.sealed, about.as_bytes()), Err(SealedError::Closed));
}
