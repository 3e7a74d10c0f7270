//! Frames of both sides, and the session machines that take them.

use std::time::{Duration, Instant};

use protocol::advance::{self, Advance, Tail};
use protocol::fixture::{self, NOW, Organisation};
use protocol::frame::{AgentFrame, Frame, HubFrame, Mode, Reconnect};
use protocol::jws::CompactJws;
use protocol::session::Output;
use protocol::session::agent::AgentHandshake;
use protocol::session::hub::{HubHandshake, Pace};
use protocol::state::PerLane;
use runtime::Clock;

/// More than one text can make a session say or keep.
const MANY: usize = 64;

/// Each line is a text message to a hub's session and to an agent's.
pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for line in text.lines() {
        survives::<AgentFrame>(line);
        survives::<HubFrame>(line);
    }
    let now = Clock::system().now();
    hub(text, now);
    agent(text, now);
}

/// What was understood is said again in the same words, and is understood in the same way.
fn survives<F: Frame + PartialEq + std::fmt::Debug>(text: &str) {
    let Ok(frame) = F::decode(text) else { return };
    // An answer of ours can be longer than what came: numbers and times have one spelling here.
    let Ok(said) = frame.encode() else { return };
    if let Ok(again) = F::decode(&said) {
        assert_eq!(again, frame, "a frame does not survive the wire");
    }
}

/// Whether a session goes on after it has done what it wants done, of which there must be an end.
fn goes_on<F>(mut next: impl FnMut() -> Option<Output<F>>) -> bool {
    for _ in 0..MANY {
        match next() {
            None => return true,
            Some(Output::Close(_)) => return false,
            Some(_) => {}
        }
    }
    panic!("one message, and no end of what to do")
}

fn hub(text: &str, now: Instant) {
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return };
    let opened =
        HubHandshake::new(now).receive(first, fixture::session(1), Pace::default(), (now, NOW));
    let Ok((mut session, _)) = opened else { return };
    for (at, line) in lines.enumerate() {
        let now = now + Duration::from_secs(at as u64);
        session.handle_text(line, now);
        session.handle_timeout(now);
        if !goes_on(|| session.poll_output()) {
            return;
        }
    }
}

fn agent(text: &str, now: Instant) {
    let hello = fixture::hello(PerLane { urgent: 0, bulk: 0 });
    let (handshake, _) = AgentHandshake::start(hello, now).expect("a hello of ours has a form");
    let mut lines = text.lines();
    let Some(first) = lines.next() else { return };
    let Ok(mut session) = handshake.receive(first, now) else { return };
    for (at, line) in lines.enumerate() {
        let now = now + Duration::from_secs(at as u64);
        session.handle_text(line, now);
        session.handle_timeout(now);
        if !goes_on(|| session.poll_output()) {
            return;
        }
    }
}

pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let text = |frames: &[String]| frames.join("\n").into_bytes();
    let said = |frame: &AgentFrame| frame.encode().expect("a frame of ours has a form");
    let told = |frame: &HubFrame| frame.encode().expect("a frame of ours has a form");
    let last_seq = PerLane { urgent: 3, bulk: 9 };
    let command_id = fixture::command(1);
    let jws = || CompactJws::from_text("header.claims.signature".to_owned());
    let organisation = Organisation::new();
    let envelope = organisation.envelope(1, fixture::lock(), fixture::device(1), 1);
    let from_agent = [
        said(&AgentFrame::Hello(fixture::hello(last_seq))),
        said(&AgentFrame::Sync { last_seq }),
        said(&AgentFrame::Ack { command_id }),
        said(&AgentFrame::stage(command_id, "apply".to_owned())),
        said(&AgentFrame::Progress {
            command_id,
            stage: "finish".to_owned(),
            advance: Some(Advance::at("/dev/sda2").step(1, 2).bytes(1, 2).secs(3, 4)),
        }),
        said(&AgentFrame::Progress {
            command_id,
            stage: "apply".to_owned(),
            advance: Some(Advance::at("script").output(Some(advance::Output {
                stdout: Some(Tail { from: 4096, bytes: b"said\n".to_vec() }),
                stderr: None,
            }))),
        }),
        said(&AgentFrame::Proof { command_id, jws: jws() }),
        said(&AgentFrame::Receipt { command_id, jws: jws() }),
        said(&AgentFrame::Notice { command_id, jws: jws() }),
    ];
    let welcome = protocol::session::hub::welcome(fixture::session(1), Pace::default(), NOW);
    let from_hub = [
        told(&HubFrame::Welcome(welcome)),
        told(&HubFrame::Command(organisation.deliver(&envelope, 0))),
        told(&HubFrame::Confirmed { receipts: vec![jws().sha256()] }),
        told(&HubFrame::Trust { root: organisation.signed_trust() }),
        told(&HubFrame::Checkpoint { jws: jws() }),
        told(&HubFrame::Mode { mode: Mode::Poll, reason: "broker away".to_owned() }),
        told(&HubFrame::Reconnect(Reconnect {
            after_ms: 250,
            hubs: vec!["hub-2.example:7443".to_owned()],
            reason: "drain".to_owned(),
        })),
    ];
    let strange = r#"{"kind":"later","deep":{"list":[1,2,3]},"n":null}"#.to_owned();
    vec![
        ("agent", text(&from_agent)),
        ("hub", text(&from_hub)),
        ("unknown", text(&[from_agent[0].clone(), strange])),
    ]
}
