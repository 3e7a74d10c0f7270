//! What is measured of the protocol: the codec of frames, signing and verifying, a hub's session.
//!
//! Keys and ids are the fixture's, so every run does the same.

use std::hint::black_box;
use std::time::{Duration, Instant};

use protocol::envelope;
use protocol::fixture::{self, NOW, Organisation, command, device};
use protocol::frame::{AgentFrame, Frame as _, HubFrame};
use protocol::session::Output;
use protocol::session::hub::{HubHandshake, Pace};
use protocol::state::PerLane;

/// A name, and something that is done again and again.
pub(crate) type Case = (&'static str, Box<dyn FnMut()>);

/// Every case, with what it needs made already.
pub(crate) fn cases() -> Vec<Case> {
    let organisation = Organisation::new();
    let order = organisation.envelope(1, fixture::lock(), device(1), 1);
    let lock = HubFrame::Command(organisation.deliver(&order, 0));
    let text = lock.encode().expect("a frame of ours fits");
    let ack = AgentFrame::Ack { command_id: command(1) };
    let ack_text = ack.encode().expect("a frame of ours fits");
    let wipe = organisation.envelope(2, fixture::wipe(), device(1), 2);
    let wipe = organisation.approved(wipe, &[&organisation.alice, &organisation.bob]);
    let signed = envelope::sign(&wipe, &organisation.command_key).expect("the fixture signs");
    let (encoded, sent, signer) = (lock.clone(), lock, Organisation::new());
    vec![
        ("frame_encode_command", Box::new(move || drop(black_box(encoded.encode())))),
        ("frame_decode_command", Box::new(move || drop(black_box(HubFrame::decode(&text))))),
        ("frame_encode_ack", Box::new(move || drop(black_box(ack.encode())))),
        ("frame_decode_ack", Box::new(move || drop(black_box(AgentFrame::decode(&ack_text))))),
        (
            "envelope_sign",
            Box::new(move || drop(black_box(envelope::sign(&order, &signer.command_key)))),
        ),
        (
            "envelope_verify_two_approvals",
            Box::new(move || {
                let verified = organisation.verifying(device(1)).verify(&signed);
                assert!(black_box(verified).is_ok());
            }),
        ),
        ("session_command_and_ack", exchange(sent)),
    ]
}

/// What one urgent command costs a hub's session machine: from its delivery to the ack passed on.
fn exchange(sent: HubFrame) -> Box<dyn FnMut()> {
    let hello = AgentFrame::Hello(fixture::hello(PerLane { urgent: 0, bulk: 0 }));
    let hello = hello.encode().expect("a frame of ours fits");
    let ack = AgentFrame::Ack { command_id: command(1) }.encode().expect("a frame of ours fits");
    let mut now = begin();
    let opened =
        HubHandshake::new(now).receive(&hello, fixture::session(1), Pace::default(), (now, NOW));
    let (mut session, _) = opened.expect("the greeting is one");
    while session.poll_output().is_some() {}
    Box::new(move || {
        now += Duration::from_millis(1);
        session.deliver(&sent, now);
        assert!(matches!(session.poll_output(), Some(Output::Transmit(_))));
        session.handle_text(&ack, now);
        assert!(matches!(session.poll_output(), Some(Output::Received(_))));
        assert!(session.poll_output().is_none());
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the machine takes any time; nothing is measured by it"
)]
fn begin() -> Instant {
    Instant::now()
}
