//! What is measured of the protocol: the codec of frames, signing and verifying, a hub's session.
//!
//! Ids and the organisation's keys are the fixture's, so every run does the same.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use protocol::action::Verb;
use protocol::envelope;
use protocol::fixture::{self, NOW, Organisation, command, device};
use protocol::frame::{AgentFrame, Frame as _, HubFrame};
use protocol::id::BootId;
use protocol::jws::CompactJws;
use protocol::key::DeviceKey;
use protocol::receipt::{self, Evidence, Outcome, Receipt};
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, HubSession, Pace};
use protocol::state::PerLane;

/// A name, and something that is done again and again.
pub(crate) type Case = (&'static str, Box<dyn FnMut()>);

/// Every case, with what it needs made already.
pub(crate) fn cases() -> Vec<Case> {
    let organisation = Organisation::new();
    let order = organisation.envelope(1, fixture::lock(), device(1), 1);
    let lock = HubFrame::Command(organisation.deliver(&order, 0));
    let mut cases = frames(&lock);
    cases.extend(envelopes());
    cases.extend(receipts());
    cases.push(("session_command_and_ack", exchange(lock)));
    cases.push(("session_ping_and_pong", heartbeat()));
    cases
}

/// The codec: what a hub and an agent write and read of each command.
fn frames(lock: &HubFrame) -> Vec<Case> {
    let ack = AgentFrame::Ack { command_id: command(1) };
    let (said, key) = (said(), fixture::device_key());
    let receipt = AgentFrame::Receipt { command_id: command(1), jws: signed(&said, &key) };
    let text = |frame: &AgentFrame| frame.encode().expect("a frame of ours fits");
    let (ack_text, receipt_text) = (text(&ack), text(&receipt));
    let (lock, lock_text) = (lock.clone(), lock.encode().expect("a frame of ours fits"));
    vec![
        ("frame_encode_command", Box::new(move || drop(black_box(lock.encode())))),
        ("frame_decode_command", Box::new(move || drop(black_box(HubFrame::decode(&lock_text))))),
        ("frame_encode_ack", Box::new(move || drop(black_box(ack.encode())))),
        ("frame_decode_ack", Box::new(move || drop(black_box(AgentFrame::decode(&ack_text))))),
        ("frame_encode_receipt", Box::new(move || drop(black_box(receipt.encode())))),
        (
            "frame_decode_receipt",
            Box::new(move || drop(black_box(AgentFrame::decode(&receipt_text)))),
        ),
    ]
}

/// Ed25519: the control plane's signature, and all that a device verifies.
fn envelopes() -> Vec<Case> {
    let organisation = Organisation::new();
    let order = organisation.envelope(1, fixture::lock(), device(1), 1);
    let lock = envelope::sign(&order, &organisation.command_key).expect("the fixture signs");
    let wipe = organisation.envelope(2, fixture::wipe(), device(1), 2);
    let wipe = organisation.approved(wipe, &[&organisation.alice, &organisation.bob]);
    let wipe = envelope::sign(&wipe, &organisation.command_key).expect("the fixture signs");
    let verify = |jws: CompactJws| -> Box<dyn FnMut()> {
        let organisation = Organisation::new();
        Box::new(move || {
            let verified = organisation.verifying(device(1)).verify(&jws);
            assert!(black_box(verified).is_ok());
        })
    };
    vec![
        (
            "envelope_sign",
            Box::new(move || drop(black_box(envelope::sign(&order, &organisation.command_key)))),
        ),
        ("envelope_verify", verify(lock)),
        ("envelope_verify_two_approvals", verify(wipe)),
    ]
}

/// P-256: the device's signature, and the control plane's look at it.
fn receipts() -> Vec<Case> {
    let (said, key) = (said(), fixture::device_key());
    let (jws, public) = (signed(&said, &key), key.public());
    vec![
        ("receipt_sign", Box::new(move || drop(black_box(signed(&said, &key))))),
        (
            "receipt_verify",
            Box::new(move || assert!(black_box(receipt::verify(&jws, &public)).is_ok())),
        ),
    ]
}

/// What a device says of an order that it carried out.
fn said() -> Receipt {
    let evidence = Evidence::new().with("sessions_locked", 2).with("observed", "logind");
    Receipt {
        iss: device(1),
        generation: 1,
        command_id: command(1),
        order_id: Some(fixture::order(1)),
        verb: Some(Verb::Lock),
        outcome: Outcome::Succeeded { evidence },
        started_at: NOW,
        finished_at: NOW.plus(Duration::from_millis(40)),
        boot_id: BootId::new(NOW, [7; 10]),
        agent_version: "0.1.0".to_owned(),
        envelope_sha256: "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg".to_owned(),
    }
}

fn signed(said: &Receipt, key: &DeviceKey) -> CompactJws {
    receipt::sign(said, &key.signer(&SystemRandom::new())).expect("a device's key signs")
}

/// What one urgent command costs a hub's session machine: from its delivery to the ack passed on.
fn exchange(sent: HubFrame) -> Box<dyn FnMut()> {
    let ack = AgentFrame::Ack { command_id: command(1) }.encode().expect("a frame of ours fits");
    let (mut session, mut now) = opened();
    Box::new(move || {
        now += Duration::from_millis(1);
        session.deliver(&sent, now);
        assert!(matches!(session.poll_output(), Some(Output::Transmit(_))));
        session.handle_text(&ack, now);
        assert!(matches!(session.poll_output(), Some(Output::Received(_))));
        assert!(session.poll_output().is_none());
    })
}

/// What a heartbeat costs the same machine: the time at which it is due, and the answer to it.
fn heartbeat() -> Box<dyn FnMut()> {
    let (mut session, _) = opened();
    Box::new(move || {
        let now = session.poll_timeout().0;
        session.handle_timeout(now);
        assert!(matches!(session.poll_output(), Some(Output::Ping)));
        session.handle_alive(now);
        assert!(session.poll_output().is_none());
    })
}

/// A session that has said all that there is to say at its beginning.
fn opened() -> (HubSession, Instant) {
    let hello = AgentFrame::Hello(fixture::hello(PerLane { urgent: 0, bulk: 0 }));
    let hello = hello.encode().expect("a frame of ours fits");
    let now = begin();
    let opened =
        HubHandshake::new(now).receive(&hello, fixture::session(1), Pace::default(), (now, NOW));
    let (mut session, _) = opened.expect("the greeting is one");
    while session.poll_output().is_some() {}
    (session, now)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the machine takes any time; nothing is measured by it"
)]
fn begin() -> Instant {
    Instant::now()
}
