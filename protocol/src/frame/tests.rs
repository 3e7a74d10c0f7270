//! Every frame as it stands on the wire, pinned; and what is no frame.

use super::*;
use crate::advance::{Output, Tail};
use crate::fixture::{self, NOW, Organisation};
use crate::receipt::Evidence;

fn golden<F: Frame + PartialEq + std::fmt::Debug>(name: &str, frame: &F) {
    let text = frame.encode().expect("encodes");
    assert_eq!(&F::decode(&text).expect("decodes"), frame, "{name} does not survive the wire");
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../golden" }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn every_agent_frame_is_pinned() {
    let last_seq = PerLane { urgent: 3, bulk: 9 };
    let command_id = fixture::command(1);
    golden("agent_hello", &AgentFrame::Hello(fixture::hello(last_seq)));
    golden(
        "agent_hello_degraded",
        &AgentFrame::Hello(Hello { degraded_since: Some(NOW), ..fixture::hello(last_seq) }),
    );
    let run = Some(Run { started_us: 61_000_000, previous_us: 61_000_000, at_us: 61_250_000 });
    golden("agent_hello_run", &AgentFrame::Hello(Hello { run, ..fixture::hello(last_seq) }));
    golden("agent_sync", &AgentFrame::Sync { last_seq });
    golden("agent_ack", &AgentFrame::Ack { command_id });
    golden("agent_progress", &AgentFrame::stage(command_id, "apply".to_owned()));
    let advance = Some(Advance::at("/dev/sda2").step(1, 2).bytes(4_194_304, 16_777_216));
    let stage = "finish".to_owned();
    golden("agent_progress_advance", &AgentFrame::Progress { command_id, stage, advance });
    let stdout = Some(Tail { from: 4096, bytes: b"said\n".to_vec() });
    let output = Some(Output { stdout, stderr: None });
    let advance = Some(Advance::at("script").secs(7, 60).output(output));
    let stage = "apply".to_owned();
    golden("agent_progress_output", &AgentFrame::Progress { command_id, stage, advance });
    let jws = CompactJws::from_text("header.claims.signature".to_owned());
    golden("agent_proof", &AgentFrame::Proof { command_id, jws: jws.clone() });
    golden("agent_escrow", &AgentFrame::Escrow { command_id, jws: jws.clone() });
    golden("agent_receipt", &AgentFrame::Receipt { command_id, jws: jws.clone() });
    golden("agent_notice", &AgentFrame::Notice { command_id, jws });
}

#[test]
fn every_hub_frame_is_pinned() {
    let organisation = Organisation::new();
    golden(
        "hub_welcome",
        &HubFrame::Welcome(Welcome {
            session_id: fixture::session(1),
            heartbeat_secs: 25,
            checkin_secs: 900,
            server_time: NOW,
        }),
    );
    let envelope = organisation.envelope(1, fixture::lock(), fixture::device(1), 4);
    golden("hub_command", &HubFrame::Command(organisation.deliver(&envelope, 3)));
    let wipe = organisation.envelope(2, fixture::wipe(), fixture::device(1), 5);
    let wipe = organisation.approved(wipe, &[&organisation.alice, &organisation.bob]);
    golden("hub_command_approved", &HubFrame::Command(organisation.deliver(&wipe, 0)));
    let receipts = vec![CompactJws::from_text("header.claims.signature".to_owned()).sha256()];
    golden("hub_confirmed", &HubFrame::Confirmed { receipts });
    golden(
        "hub_checkpoint",
        &HubFrame::Checkpoint { jws: CompactJws::from_text("header.claims.signature".to_owned()) },
    );
    golden("hub_trust", &HubFrame::Trust { root: organisation.signed_trust() });
    let reason = "broker away".to_owned();
    golden("hub_mode_push", &HubFrame::Mode { mode: Mode::Push, reason: reason.clone() });
    golden("hub_mode_poll", &HubFrame::Mode { mode: Mode::Poll, reason: reason.clone() });
    let hubs = vec!["hub-2.example:7443".to_owned()];
    golden("hub_reconnect", &HubFrame::Reconnect(Reconnect { after_ms: 250, hubs, reason }));
}

#[test]
fn unknown_kinds_are_tolerated_whatever_they_carry() {
    for text in [r#"{"kind":"later"}"#, r#"{"kind":"later","deep":{"list":[1,2,3]},"n":null}"#] {
        assert_eq!(AgentFrame::decode(text), Ok(AgentFrame::Unknown));
        assert_eq!(HubFrame::decode(text), Ok(HubFrame::Unknown));
    }
}

#[test]
fn unknown_fields_of_known_kinds_are_tolerated() {
    let text = format!(r#"{{"kind":"ack","command_id":"{}","later":1}}"#, fixture::command(1));
    let expected = AgentFrame::Ack { command_id: fixture::command(1) };
    assert_eq!(AgentFrame::decode(&text), Ok(expected));
}

#[test]
fn what_is_no_frame_is_malformed() {
    let texts = [
        "",
        "null",
        "[]",
        "{}",
        r#"{"kind":1}"#,
        r#"{"kind":"ack"}"#,
        r#"{"kind":"ack","command_id":"7"}"#,
        r#"{"kind":"ack","command_id":null}"#,
        "{\"kind\":\"ack\"",
    ];
    for text in texts {
        let error = AgentFrame::decode(text).expect_err(text);
        assert_eq!(error.close_code(), CloseCode::Malformed, "{text}");
    }
    let deep = format!(r#"{{"kind":"ack","x":{}"#, "[".repeat(20_000));
    assert_eq!(AgentFrame::decode(&deep).expect_err("too deep").close_code(), CloseCode::Malformed);
}

#[test]
fn frames_and_fields_beyond_their_bounds_are_refused() {
    let long = format!(r#"{{"kind":"later","x":"{}"}}"#, "x".repeat(limits::FRAME_BYTES));
    assert_eq!(AgentFrame::decode(&long), Err(FrameError::TooBig));
    let mut hello = fixture::hello(PerLane::default());
    hello.capabilities = vec!["x".to_owned(); limits::LIST_ENTRIES + 1];
    let text = AgentFrame::Hello(hello).encode().expect("encodes");
    assert_eq!(AgentFrame::decode(&text), Err(FrameError::OutOfBounds("capabilities")));
    let advance = Advance { at: Some("a\u{7}".to_owned()), ..Advance::default() };
    let (command_id, stage) = (fixture::command(1), "apply".to_owned());
    let odd = AgentFrame::Progress { command_id, stage, advance: Some(advance) };
    let text = odd.encode().expect("encodes");
    assert_eq!(AgentFrame::decode(&text), Err(FrameError::OutOfBounds("advance")));
}

#[test]
fn progress_without_an_advance_and_with_more_than_is_known_is_understood() {
    let command_id = fixture::command(1);
    let former = AgentFrame::stage(command_id, "apply".to_owned());
    let text = former.encode().expect("encodes");
    assert!(!text.contains("advance"), "{text}");
    let later = text.replace('}', r#","advance":{"at":"x","rows":7}}"#);
    let advance = Some(Advance { at: Some("x".to_owned()), ..Advance::default() });
    let stage = "apply".to_owned();
    assert_eq!(AgentFrame::decode(&later), Ok(AgentFrame::Progress { command_id, stage, advance }));
}

#[test]
fn hello_without_an_epoch_has_the_lowest_and_none_is_beyond_its_bound() {
    let hello = fixture::hello(PerLane::default());
    let text = AgentFrame::Hello(hello.clone()).encode().expect("encodes");
    let without = text.replace(&format!(r#""epoch":{},"#, hello.epoch), "");
    let expected = Hello { epoch: 0, ..hello.clone() };
    assert_eq!(AgentFrame::decode(&without), Ok(AgentFrame::Hello(expected)));
    let beyond = AgentFrame::Hello(Hello { epoch: limits::EPOCH_MAX + 1, ..hello });
    let text = beyond.encode().expect("encodes");
    assert_eq!(AgentFrame::decode(&text), Err(FrameError::OutOfBounds("epoch")));
}

#[test]
fn receipts_are_pinned() {
    use crate::action::Verb;
    use crate::receipt::{Failure, FailureKind, Outcome, Receipt, RefusalReason};
    let receipt = |outcome| Receipt {
        iss: fixture::device(1),
        generation: 1,
        command_id: fixture::command(1),
        order_id: Some(fixture::order(1)),
        verb: Some(Verb::Quarantine),
        outcome,
        started_at: NOW,
        finished_at: NOW,
        boot_id: crate::id::BootId::new(NOW, [7; 10]),
        agent_version: "0.1.0".to_owned(),
        envelope_sha256: CompactJws::from_text("envelope".to_owned()).sha256(),
    };
    let evidence = Evidence::new().with("sinks_reachable", 0).with("table_digest", "abc");
    let failure = Failure {
        kind: FailureKind::NotProven,
        stage: "prove".to_owned(),
        detail: "the hub was not reachable; rolled back".to_owned(),
    };
    let outcomes = [
        ("receipt_succeeded", Outcome::Succeeded { evidence: evidence.clone() }),
        ("receipt_failed", Outcome::Failed { failure, evidence }),
        (
            "receipt_refused",
            Outcome::Refused { reason: RefusalReason::MissingApproval, detail: "1 of 2".into() },
        ),
        ("receipt_in_doubt", Outcome::InDoubt { stage: "apply".to_owned() }),
    ];
    for (name, outcome) in outcomes {
        let receipt = receipt(outcome);
        let text = serde_json::to_string_pretty(&receipt).expect("serialises");
        let back: Receipt = serde_json::from_str(&text).expect("deserialises");
        assert_eq!(back, receipt);
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../golden" }, {
            insta::assert_snapshot!(name, text);
        });
    }
}
