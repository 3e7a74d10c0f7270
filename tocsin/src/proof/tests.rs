//! Tests of judging receipts.

use protocol::fixture;
use protocol::receipt::{Evidence, Outcome, RefusalReason};
use protocol::state::{CommandState, Lane};
use protocol::time::Timestamp;

use super::*;
use crate::output::{Tone, outcome};

fn receipt(outcome: Outcome) -> Receipt {
    Receipt {
        iss: fixture::device(1),
        generation: 1,
        command_id: fixture::command(1),
        order_id: Some(fixture::order(1)),
        verb: Some(protocol::action::Verb::Lock),
        outcome,
        started_at: fixture::NOW,
        finished_at: fixture::NOW,
        boot_id: protocol::id::BootId::new(fixture::NOW, [1; 10]),
        agent_version: "0.1.0".to_owned(),
        envelope_sha256: String::new(),
    }
}

fn locked() -> Outcome {
    let evidence = Evidence::new().with("sessions_left", 0).with("gate_closed", true);
    Outcome::Succeeded { evidence }
}

/// A command whose device signed that receipt.
fn proof(receipt: &Receipt) -> Proof {
    let key = fixture::device_key();
    let random = aws_lc_rs::rand::SystemRandom::new();
    let jws = protocol::receipt::sign(receipt, &key.signer(&random)).unwrap();
    let at = |millis| Some(Timestamp::from_millis(fixture::NOW.as_millis() + millis).into());
    Proof {
        command: CommandView {
            id: fixture::command(1),
            order_id: fixture::order(1),
            device_id: fixture::device(1),
            device_name: "web-17".to_owned(),
            generation: 1,
            verb: protocol::action::Verb::Lock,
            lane: Lane::Urgent,
            seq: Some(1),
            state: receipt.outcome.state(),
            ended_by: None,
            approvals_needed: 0,
            sends: 1,
            overdue: false,
            stage: None,
            advance: None,
            created_at: fixture::NOW.into(),
            expires_at: fixture::NOW.plus(std::time::Duration::from_secs(3600)).into(),
            queued_at: at(0),
            sent_at: at(2),
            acked_at: at(5),
            running_at: at(6),
            finished_at: at(212),
            outcome: Some(receipt.outcome.clone()),
            receipt: Some(jws),
            proof: None,
            grade: None,
        },
        public_key: BASE64.encode(key.public().as_point()),
    }
}

fn sentence(proof: &Proof) -> (Tone, String) {
    let judged = proof.verify();
    outcome::sentence(&proof.command, judged.as_ref().map(|_| ()), None, fixture::NOW)
}

#[test]
fn receipt_of_the_device_proves_what_is_said() {
    let proof = proof(&receipt(locked()));
    proof.verify().unwrap();
    let (tone, text) = sentence(&proof);
    let name = outcome::receipt_name(proof.command.receipt.as_ref().unwrap());
    assert_eq!(tone, Tone::Good);
    let rest = "(gate closed yes, sessions left 0) 212 ms";
    assert_eq!(text, format!("web-17 locked: proven by receipt {name} {rest}"));
}

#[test]
fn refusal_is_told_with_its_reason() {
    let detail = "approved by 1 of 2 persons".to_owned();
    let refused = Outcome::Refused { reason: RefusalReason::MissingApproval, detail };
    let (tone, text) = sentence(&proof(&receipt(refused)));
    assert_eq!(tone, Tone::Bad);
    let begin = "web-17 refused: missing_approval: approved by 1 of 2 persons: proven by receipt ";
    assert!(text.starts_with(begin), "{text}");
}

#[test]
fn state_that_the_device_did_not_sign_is_not_proven() {
    type Forge = fn(&mut Proof);
    let forgeries: [(&str, Forge); 6] = [
        ("device", |proof| proof.command.device_id = fixture::device(2)),
        ("command", |proof| proof.command.id = fixture::command(2)),
        ("order", |proof| proof.command.order_id = fixture::order(2)),
        ("verb", |proof| proof.command.verb = protocol::action::Verb::Wipe),
        ("outcome", |proof| proof.command.state = CommandState::Failed),
        ("evidence", |proof| {
            proof.command.outcome = Some(Outcome::Succeeded { evidence: Evidence::new() });
        }),
    ];
    for (what, forge) in forgeries {
        let mut forged = proof(&receipt(locked()));
        forge(&mut forged);
        assert_eq!(forged.verify(), Err(ProofError::Other(what)));
        let (tone, text) = sentence(&forged);
        assert_eq!(tone, Tone::Bad, "{text}");
        assert!(text.contains("NOT PROVEN"), "{text}");
    }
}

#[test]
fn receipt_by_another_key_is_not_proven() {
    let mut forged = proof(&receipt(locked()));
    let signed = forged.command.receipt.take().unwrap();
    let (head, signature) = signed.as_str().rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    forged.command.receipt =
        Some(protocol::jws::CompactJws::from_text(format!("{head}.{flipped}")));
    assert!(matches!(forged.verify(), Err(ProofError::Signature(_))));
}

#[test]
fn success_without_a_receipt_is_not_called_proven() {
    let mut bare = proof(&receipt(locked()));
    bare.command.receipt = None;
    assert_eq!(bare.verify(), Err(ProofError::NoReceipt));
    assert!(sentence(&bare).1.contains("NOT PROVEN: there is no receipt"));
}

#[test]
fn offline_device_is_told_with_what_happens_next() {
    let mut waiting = proof(&receipt(locked()));
    waiting.command.receipt = None;
    waiting.command.outcome = None;
    waiting.command.state = CommandState::Queued;
    let error = waiting.verify().unwrap_err();
    let (tone, text) = outcome::sentence(&waiting.command, Err(&error), Some(false), fixture::NOW);
    assert_eq!(tone, Tone::Waiting);
    let expected = "web-17 offline: queued, will be delivered at its next contact, expires 01:00Z";
    assert_eq!(text, expected);
}
