//! What is measured of the hub: its registry, handing a broker's message to one session of many, and
//! the WebSocket under a heartbeat.
//!
//! Ids are numbers, so every run does the same.

use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use broker::Downstream;
use protocol::fixture::{self, NOW, Organisation};
use protocol::frame::HubFrame;
use protocol::id::{DeviceId, SessionId};
use protocol::state::PerLane;
use push_hub::simulation::{Session, Sessions};
use push_hub::socket::{Incoming, Socket, SocketConfig};
use runtime::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A name, and something that is done again and again.
pub(crate) type Case = (&'static str, Box<dyn FnMut()>);

/// Sessions of the hub.
pub(crate) const SESSIONS: u32 = 10_000;

fn bytes(number: u32) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[6..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn device(number: u32) -> DeviceId {
    DeviceId::new(NOW, bytes(number))
}

/// A new session of the device of that number.
pub(crate) fn register(sessions: &Sessions, number: u32) -> Session {
    let hello = fixture::hello(PerLane { urgent: 0, bulk: 0 });
    sessions.register((device(number), 1), SessionId::new(NOW, bytes(number)), &hello)
}

/// A hub with so many sessions as are measured.
pub(crate) fn full() -> Sessions {
    let sessions = Sessions::default();
    for number in 0..SESSIONS {
        drop(register(&sessions, number));
    }
    sessions
}

/// Every case, with what it needs made already.
pub(crate) fn cases() -> Vec<Case> {
    let sessions = Arc::new(full());
    let organisation = Organisation::new();
    let order = organisation.envelope(1, fixture::lock(), fixture::device(1), 1);
    let frame = HubFrame::Command(organisation.deliver(&order, 0));
    let to = |number| Downstream::Deliver { device: device(number), frames: vec![frame.clone()] };
    let messages: Vec<_> = (0..64).map(|at| to(at * SESSIONS / 64)).collect();
    let json = |message| serde_json::to_vec(message).expect("a message is JSON");
    let messages: Vec<_> = messages.iter().map(json).collect();
    let (found, arrived, routed, delivered) =
        (sessions.clone(), sessions.clone(), sessions.clone(), sessions);
    let mut turn = 0;
    let mut next = move || {
        turn = (turn + 7919) % SESSIONS;
        turn
    };
    let mut other = next;
    let mut messages = messages.into_iter().cycle();
    vec![
        ("registry_get", Box::new(move || drop(black_box(found.get(device(next())))))),
        (
            "registry_come_and_go",
            Box::new(move || {
                let session = register(&arrived, SESSIONS);
                assert!(arrived.unregister(&session));
            }),
        ),
        (
            "dispatch_to_one_of_10000",
            Box::new(move || {
                let session = delivered.get(device(other())).expect("it is registered");
                session.push([frame.clone()]);
                assert_eq!(black_box(session.take()).0.len(), 1);
            }),
        ),
        (
            "dispatch_of_a_broker_message",
            Box::new(move || {
                let json = messages.next().expect("they come again and again");
                let message: Downstream = serde_json::from_slice(&json).expect("it is one");
                let device = message.device();
                assert!(routed.deliver(message));
                let session = routed.get(device).expect("it is registered");
                assert_eq!(black_box(session.take()).0.len(), 1);
            }),
        ),
        ("socket_ping_and_pong", heartbeat()),
    ]
}

/// A ping written to a WebSocket, and its pong read: without TLS and without the kernel.
fn heartbeat() -> Box<dyn FnMut()> {
    let waits = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let waits = waits.expect("a runtime without threads");
    let config = SocketConfig {
        burst_bytes: u32::MAX,
        burst_controls: u32::MAX,
        controls_per_sec: u32::MAX,
        ..SocketConfig::default()
    };
    let peer = Peer { pong: None };
    let mut socket = waits.block_on(Socket::new(peer, Vec::new(), &config, Clock::system()));
    Box::new(move || {
        waits.block_on(async {
            socket.feed_ping().await.expect("it is taken");
            socket.flush().await.expect("it leaves");
            let incoming = socket.next().await.expect("it is answered");
            assert_eq!(black_box(incoming), Incoming::Control);
        });
    })
}

/// Answers whatever is written to it with one empty pong.
struct Peer {
    pong: Option<[u8; 6]>,
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(pong) = self.pong.take() else { return Poll::Pending };
        buffer.put_slice(&pong);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Final, a pong, masked with nothing (RFC 6455, section 5.2).
        self.pong = Some([0x8a, 0x80, 0, 0, 0, 0]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
