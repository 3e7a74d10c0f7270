//! Scripts of the two machines: what goes in, what must come out.

use std::time::{Duration, Instant};

use super::agent::{AgentHandshake, AgentSession};
use super::hub::{HubHandshake, HubSession, Pace};
use super::*;
use crate::fixture::{self, NOW, Organisation};
use crate::frame::{CommandFrame, Frame, Mode};
use crate::jws::CompactJws;
use crate::limits;
use crate::state::{Lane, PerLane};

/// Any instant: the machines only compare.
fn start() -> Instant {
    runtime_free_now()
}

#[expect(clippy::disallowed_methods, reason = "an instant can only be had from the clock")]
fn runtime_free_now() -> Instant {
    Instant::now()
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn hub(now: Instant) -> HubSession {
    let hello = AgentFrame::Hello(fixture::hello(PerLane::default())).encode().expect("encodes");
    let handshake = HubHandshake::new(now);
    let (mut session, _) = handshake
        .receive(&hello, fixture::session(1), Pace::default(), (now, NOW))
        .expect("a good hello");
    let welcome = outputs(&mut session);
    assert!(matches!(&welcome[..], [Output::Transmit(text)] if text.contains("welcome")));
    session
}

fn outputs(session: &mut HubSession) -> Vec<HubOutput> {
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn agent(now: Instant) -> AgentSession {
    let (handshake, _) =
        AgentHandshake::start(fixture::hello(PerLane::default()), now).expect("starts");
    let welcome =
        HubFrame::Welcome(hub::welcome(fixture::session(1), Pace::default(), NOW)).encode();
    handshake.receive(&welcome.expect("encodes"), now).expect("a good welcome")
}

fn urgent(number: u8) -> CommandFrame {
    let organisation = Organisation::new();
    let envelope = organisation.envelope(number, fixture::lock(), fixture::device(1), 1);
    organisation.deliver(&envelope, 0)
}

fn bulk(number: u8) -> CommandFrame {
    CommandFrame { lane: Lane::Bulk, ..urgent(number) }
}

#[test]
fn first_frame_must_be_hello() {
    let now = start();
    let sync = AgentFrame::Sync { last_seq: PerLane::default() }.encode().expect("encodes");
    for (text, code) in [
        (sync.as_str(), CloseCode::Malformed),
        ("{}", CloseCode::Malformed),
        (r#"{"kind":"later"}"#, CloseCode::Malformed),
        (&"x".repeat(limits::FRAME_BYTES + 1), CloseCode::TooBig),
    ] {
        let outcome =
            HubHandshake::new(now).receive(text, fixture::session(1), Pace::default(), (now, NOW));
        assert_eq!(outcome.map(|_| ()), Err(code));
    }
}

#[test]
fn hello_has_its_time() {
    let now = start();
    let handshake = HubHandshake::new(now);
    assert_eq!(handshake.poll_timeout(), (now + limits::HELLO_TIMEOUT, Wake::Handshake));
    assert_eq!(handshake.handle_timeout(), CloseCode::HelloTimeout);
}

#[test]
fn second_hello_closes_the_session() {
    let now = start();
    let mut session = hub(now);
    let hello = AgentFrame::Hello(fixture::hello(PerLane::default())).encode().expect("encodes");
    session.handle_text(&hello, now);
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Malformed)]);
}

#[test]
fn nothing_follows_a_close() {
    let now = start();
    let mut session = hub(now);
    session.deliver(&HubFrame::Command(urgent(1)), now);
    session.close(CloseCode::Replaced);
    session.close(CloseCode::Drain);
    session.deliver(&HubFrame::Command(urgent(2)), now);
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Replaced)]);
}

#[test]
fn urgent_overtakes_bulk_and_keeps_its_own_order() {
    let now = start();
    let mut session = hub(now);
    let frames = [bulk(1), bulk(2), urgent(3), bulk(4), urgent(5)].map(HubFrame::Command);
    for frame in &frames {
        session.deliver(frame, now);
    }
    let sent: Vec<_> = outputs(&mut session)
        .into_iter()
        .map(|output| {
            let Output::Transmit(text) = output else { panic!("not a message: {output:?}") };
            HubFrame::decode(&text).expect("a frame")
        })
        .collect();
    let expected = [2, 4, 0, 1, 3].map(|at: usize| frames[at].clone());
    assert_eq!(sent, expected);
}

#[test]
fn trust_goes_before_the_commands_that_need_it() {
    let now = start();
    let mut session = hub(now);
    let trust = HubFrame::Trust { root: Organisation::new().signed_trust() };
    session.deliver(&HubFrame::Command(bulk(1)), now);
    session.deliver(&trust, now);
    session.deliver(&HubFrame::Command(urgent(2)), now);
    let first = session.poll_output();
    assert_eq!(first, Some(Output::Transmit(trust.encode().expect("encodes"))));
}

#[test]
fn agent_that_does_not_read_is_slow() {
    let now = start();
    let mut by_count = hub(now);
    let confirmed = HubFrame::Confirmed { receipts: Vec::new() };
    for _ in 0..=limits::OUTBOX_FRAMES {
        by_count.deliver(&confirmed, now);
    }
    assert_eq!(outputs(&mut by_count), [Output::Close(CloseCode::Slow)]);

    let mut by_bytes = hub(now);
    let reason = "x".repeat(limits::FRAME_BYTES / 2);
    for _ in 0..9 {
        by_bytes.deliver(&HubFrame::Mode { mode: Mode::Poll, reason: reason.clone() }, now);
    }
    assert_eq!(outputs(&mut by_bytes), [Output::Close(CloseCode::Slow)]);
}

#[test]
fn heartbeat_pings_and_silence_kills() {
    let now = start();
    let mut session = hub(now);
    assert_eq!(session.poll_timeout(), (now + limits::HEARTBEAT, Wake::Heartbeat));
    session.handle_timeout(now + limits::HEARTBEAT);
    assert_eq!(outputs(&mut session), [Output::Ping]);
    session.handle_alive(now + secs(26));
    session.handle_timeout(now + limits::DEAD_AFTER);
    assert_eq!(outputs(&mut session), []);
    assert_eq!(session.poll_timeout(), (now + limits::HEARTBEAT * 2, Wake::Heartbeat));
    session.handle_timeout(now + limits::HEARTBEAT * 2);
    assert_eq!(outputs(&mut session), [Output::Ping]);
    let silent = now + secs(26) + limits::DEAD_AFTER;
    assert_eq!(session.poll_timeout(), (silent, Wake::Silence));
    session.handle_timeout(silent);
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Dead)]);
}

/// A hub wakes for many sessions together, a little after each is due. The interval that agents are told must not
/// grow by that, each time anew.
#[test]
fn heartbeat_that_is_late_puts_the_next_one_off_by_nothing() {
    let (now, late) = (start(), Duration::from_millis(900));
    let mut session = hub(now);
    for beat in 1..=3 {
        session.handle_alive(now + limits::HEARTBEAT * beat);
        session.handle_timeout(now + limits::HEARTBEAT * beat + late);
        assert_eq!(outputs(&mut session), [Output::Ping]);
        let next = now + limits::HEARTBEAT * (beat + 1);
        assert_eq!(session.poll_timeout(), (next, Wake::Heartbeat));
    }
    // One that is late by more than an interval is not followed by those that were missed.
    let held_up = now + limits::HEARTBEAT * 5 + late;
    session.handle_alive(held_up);
    session.handle_timeout(held_up);
    assert_eq!(outputs(&mut session), [Output::Ping]);
    assert_eq!(session.poll_timeout(), (held_up + limits::HEARTBEAT, Wake::Heartbeat));
}

#[test]
fn probe_has_the_time_that_what_was_sent_before_it_takes_on_a_slow_link() {
    let now = start();
    let mut session = hub(now);
    let big = CommandFrame { jws: CompactJws::from_text("e".repeat(40_960)), ..bulk(1) };
    session.deliver(&HubFrame::Command(big), now);
    session.deliver(&HubFrame::Command(urgent(2)), now);
    assert_eq!(outputs(&mut session).len(), 2);
    session.handle_timeout(now + secs(2));
    assert_eq!(outputs(&mut session), [Output::Ping]);
    session.handle_timeout(now + secs(11));
    assert_eq!(outputs(&mut session), [], "ten seconds for the big one");
    // Its ack says that it is through; what follows it is small.
    let ack = AgentFrame::Ack { command_id: bulk(1).command_id }.encode().expect("encodes");
    session.handle_text(&ack, now + secs(11));
    session.handle_timeout(now + secs(11));
    session.deliver(&HubFrame::Command(urgent(3)), now + secs(13));
    session.handle_timeout(now + secs(15));
    assert!(outputs(&mut session).contains(&Output::Ping));
    session.handle_timeout(now + secs(16));
    assert!(!outputs(&mut session).contains(&Output::Close(CloseCode::Dead)));
    session.handle_timeout(now + secs(18));
    assert_eq!(outputs(&mut session).last(), Some(&Output::Close(CloseCode::Dead)));
}

#[test]
fn urgent_command_without_ack_finds_a_dead_peer_within_five_seconds() {
    let now = start();
    let mut session = hub(now);
    session.deliver(&HubFrame::Command(urgent(1)), now);
    let _ = outputs(&mut session);
    assert_eq!(session.poll_timeout(), (now + limits::URGENT_ACK, Wake::UrgentProbe));
    session.handle_timeout(now + limits::URGENT_ACK);
    assert_eq!(outputs(&mut session), [Output::Ping]);
    assert_eq!(session.poll_timeout(), (now + limits::URGENT_DEAD_AFTER, Wake::Silence));
    session.handle_timeout(now + limits::URGENT_DEAD_AFTER);
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Dead)]);
}

#[test]
fn what_is_sent_behind_a_probe_gives_a_dead_peer_no_more_time() {
    let now = start();
    let mut session = hub(now);
    session.deliver(&HubFrame::Command(urgent(1)), now);
    session.handle_timeout(now + limits::URGENT_ACK);
    let two_seconds = usize::try_from(2 * limits::SLOWEST_LINK).expect("a few KiB");
    let long = HubFrame::Mode { mode: Mode::Poll, reason: "x".repeat(two_seconds) };
    session.deliver(&long, now + secs(2));
    let _ = outputs(&mut session);
    session.handle_timeout(now + limits::URGENT_DEAD_AFTER);
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Dead)]);
}

#[test]
fn probe_that_leaves_late_has_its_time_all_the_same() {
    let now = start();
    let mut session = hub(now);
    session.deliver(&HubFrame::Command(urgent(1)), now);
    let _ = outputs(&mut session);
    session.handle_timeout(now + secs(20));
    assert_eq!(outputs(&mut session), [Output::Ping]);
    session.handle_timeout(now + secs(20));
    assert_eq!(outputs(&mut session), []);
    assert_eq!(session.poll_timeout(), (now + secs(22), Wake::Silence));
    session.handle_timeout(now + secs(22));
    assert_eq!(outputs(&mut session), [Output::Close(CloseCode::Dead)]);
}

#[test]
fn ack_or_an_answered_probe_ends_the_urgency() {
    let now = start();
    let command_id = urgent(1).command_id;
    let mut acked = hub(now);
    acked.deliver(&HubFrame::Command(urgent(1)), now);
    acked.handle_text(&AgentFrame::Ack { command_id }.encode().expect("encodes"), now);
    let _ = outputs(&mut acked);
    assert_eq!(acked.poll_timeout().1, Wake::Heartbeat);

    let mut answered = hub(now);
    answered.deliver(&HubFrame::Command(urgent(1)), now);
    answered.handle_timeout(now + limits::URGENT_ACK);
    answered.handle_alive(now + secs(3));
    answered.handle_timeout(now + limits::URGENT_DEAD_AFTER);
    assert!(!outputs(&mut answered).contains(&Output::Close(CloseCode::Dead)));
}

#[test]
fn what_agents_say_is_passed_on_and_unknown_is_counted() {
    let now = start();
    let mut session = hub(now);
    let ack = AgentFrame::Ack { command_id: fixture::command(1) };
    session.handle_text(&ack.encode().expect("encodes"), now);
    session.handle_text(r#"{"kind":"later"}"#, now);
    session.handle_text("nonsense", now);
    let expected = [Output::Received(ack), Output::Ignored, Output::Close(CloseCode::Malformed)];
    assert_eq!(outputs(&mut session), expected);
}

#[test]
fn agent_takes_only_welcome_first() {
    let now = start();
    let hello = fixture::hello(PerLane::default());
    let (handshake, text) = AgentHandshake::start(hello.clone(), now).expect("starts");
    assert_eq!(AgentFrame::decode(&text), Ok(AgentFrame::Hello(hello)));
    let command = HubFrame::Command(urgent(1)).encode().expect("encodes");
    assert_eq!(handshake.receive(&command, now).map(|_| ()), Err(CloseCode::Malformed));
}

#[test]
fn agent_gives_up_a_silent_hub() {
    let now = start();
    let mut session = agent(now);
    session.handle_alive(now + secs(10));
    assert_eq!(session.poll_timeout(), (now + secs(55), Wake::Silence));
    session.handle_timeout(now + secs(54));
    assert_eq!(session.poll_output(), None);
    session.handle_timeout(now + secs(55));
    assert_eq!(session.poll_output(), Some(Output::Close(CloseCode::Dead)));
    assert_eq!(session.poll_output(), None);
}

#[test]
fn agent_passes_frames_on_and_sends_in_order() {
    let now = start();
    let mut session = agent(now);
    let command = HubFrame::Command(urgent(1));
    session.handle_text(&command.encode().expect("encodes"), now);
    let ack = AgentFrame::Ack { command_id: urgent(1).command_id };
    let sync = AgentFrame::Sync { last_seq: PerLane::default() };
    session.send(&ack).expect("fits");
    session.send(&sync).expect("fits");
    let out: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
    let text = |frame: &AgentFrame| Output::Transmit(frame.encode().expect("encodes"));
    assert_eq!(out, [Output::Received(command), text(&ack), text(&sync)]);
}

#[test]
fn idle_session_is_small() {
    // Thousands are idle: what grows here grows the hub.
    assert!(std::mem::size_of::<HubSession>() <= 256, "{}", std::mem::size_of::<HubSession>());
}
