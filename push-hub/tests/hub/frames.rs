//! What agents must not send, each with its close code, while others go on.

use bytes::Bytes;
use futures_util::SinkExt as _;
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, Frame as _};
use protocol::limits;
use protocol::state::{Lane, PerLane};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::{Agent, World, command, command_id, hello, upstream};

fn raw(payload: impl Into<Bytes>, kind: Data, is_final: bool) -> Message {
    Message::Frame(Frame::message(payload.into(), OpCode::Data(kind), is_final))
}

fn text(text: &str) -> Message {
    Message::text(text)
}

/// The first message of a connection, and what it is closed with.
fn bad_first_messages() -> Vec<(Message, CloseCode)> {
    let sync = AgentFrame::Sync { last_seq: PerLane::default() }.encode().unwrap();
    vec![
        (text(&sync), CloseCode::Malformed),
        (text("{}"), CloseCode::Malformed),
        (text("{\"kind\":\"later\"}"), CloseCode::Malformed),
        (Message::Binary(Bytes::from_static(b"x")), CloseCode::Unsupported),
    ]
}

/// A message in a session, and what it is closed with.
fn bad_messages() -> Vec<(Message, CloseCode)> {
    let again = hello().encode().unwrap();
    vec![
        (text(&again), CloseCode::Malformed),
        (text("not json"), CloseCode::Malformed),
        (text("{\"kind\":\"ack\"}"), CloseCode::Malformed),
        (text(&"[".repeat(60_000)), CloseCode::Malformed),
        (Message::Binary(Bytes::from_static(b"x")), CloseCode::Unsupported),
        (raw(&b"\xff\xfe"[..], Data::Text, true), CloseCode::NotUtf8),
        (text(&"x".repeat(limits::FRAME_BYTES + 1)), CloseCode::TooBig),
        (raw(&b"x"[..], Data::Continue, true), CloseCode::Protocol),
        (raw(&b"x"[..], Data::Reserved(3), true), CloseCode::Protocol),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_violation_has_its_code_and_harms_nobody_else() {
    let world = World::new().await;
    let bystander = world.device(1);
    let mut agent = bystander.connect().await;
    let mut number = 1;
    let first = bad_first_messages().into_iter().map(|(message, code)| (false, message, code));
    let later = bad_messages().into_iter().map(|(message, code)| (true, message, code));
    for (in_session, message, code) in first.chain(later) {
        number += 1;
        let device = world.device(number);
        let mut bad =
            if in_session { device.connect().await } else { device.open(None).await.unwrap() };
        let shown = format!("{message:.60?}");
        bad.send(message).await;
        assert_eq!(bad.closed().await, Some(code.number()), "{shown}");
        world.deliver(bystander.id, vec![command(number, Lane::Bulk, 10)]).await;
        assert_eq!(agent.commands(1).await, [command_id(number)]);
    }
    world.sessions(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frame_in_fragments_is_one_frame() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let mut agent = world.device(1).connect().await;
    let ack = AgentFrame::Ack { command_id: command_id(5) };
    let whole = ack.encode().unwrap();
    let mut parts = whole.as_bytes().chunks(7).peekable();
    let mut kind = Data::Text;
    while let Some(part) = parts.next() {
        agent.send(raw(part.to_vec(), kind, parts.peek().is_none())).await;
        agent.send(Message::Ping(Bytes::new())).await;
        kind = Data::Continue;
    }
    assert_eq!(upstream(&mut reader, |message| message.frame == ack).await.frame, ack);
}

/// Sends until the hub has had enough. The hub stops reading, so writing alone would block.
async fn flood(agent: &mut Agent, message: &Message) -> Option<u16> {
    for _ in 0..200_000 {
        if agent.socket.feed(message.clone()).await.is_err() {
            break;
        }
    }
    agent.closed().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_continuation_frames_are_a_flood() {
    let world = World::new().await;
    let mut agent = world.device(1).connect().await;
    agent.send(raw(Bytes::new(), Data::Text, false)).await;
    // Just above what may come without a message; more would only be thrown away.
    let empty = raw(Bytes::new(), Data::Continue, false);
    for _ in 0..limits::FRAME_BYTES * 2 / 6 + 1000 {
        agent.socket.feed(empty.clone()).await.unwrap();
    }
    agent.socket.flush().await.unwrap();
    assert_eq!(agent.closed().await, Some(CloseCode::Flood.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_without_end_are_a_flood() {
    let world = World::new().await;
    let mut agent = world.device(1).connect().await;
    // Many times what may come at once: what is earned by the second while they come does not matter.
    for _ in 0..400 {
        agent.socket.feed(Message::Ping(Bytes::new())).await.unwrap();
    }
    agent.socket.flush().await.unwrap();
    assert_eq!(agent.closed().await, Some(CloseCode::Flood.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_frames_are_tolerated_but_not_without_end() {
    let world = World::new().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    let unknown = text("{\"kind\":\"later\",\"more\":[1,2]}");
    for _ in 0..10 {
        agent.send(unknown.clone()).await;
    }
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
    for _ in 0..1000 {
        agent.socket.feed(unknown.clone()).await.unwrap();
    }
    agent.socket.flush().await.unwrap();
    assert_eq!(agent.closed().await, Some(CloseCode::Flood.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_without_end_are_a_flood() {
    let world = World::new().await;
    let mut agent = world.device(1).connect().await;
    let ack = AgentFrame::Ack { command_id: command_id(1) };
    let code = tokio::time::timeout(
        crate::support::GUARD,
        flood(&mut agent, &text(&ack.encode().unwrap())),
    )
    .await
    .expect("it ends");
    // A reset may overtake the close frame when the peer never stops.
    assert!(code.is_none_or(|code| code == CloseCode::Flood.number()), "{code:?}");
    world.sessions(0).await;
}
