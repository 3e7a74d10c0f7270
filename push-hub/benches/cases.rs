//! What is measured of the hub: its registry, and handing frames to one session of many.
//!
//! Ids are numbers, so every run does the same.

use std::hint::black_box;
use std::sync::Arc;

use protocol::fixture::{self, NOW, Organisation};
use protocol::frame::HubFrame;
use protocol::id::{DeviceId, SessionId};
use protocol::state::PerLane;
use push_hub::simulation::{Session, Sessions};

/// A name, and something that is done again and again.
pub(crate) type Case = (&'static str, Box<dyn FnMut()>);

/// Sessions of the hub.
const SESSIONS: u32 = 10_000;

fn bytes(number: u32) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[6..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn device(number: u32) -> DeviceId {
    DeviceId::new(NOW, bytes(number))
}

fn register(sessions: &Sessions, number: u32) -> Session {
    let hello = fixture::hello(PerLane { urgent: 0, bulk: 0 });
    sessions.register((device(number), 1), SessionId::new(NOW, bytes(number)), &hello)
}

/// Every case, with what it needs made already.
pub(crate) fn cases() -> Vec<Case> {
    let sessions = Arc::new(Sessions::default());
    for number in 0..SESSIONS {
        drop(register(&sessions, number));
    }
    let organisation = Organisation::new();
    let order = organisation.envelope(1, fixture::lock(), fixture::device(1), 1);
    let frame = HubFrame::Command(organisation.deliver(&order, 0));
    let (found, arrived, delivered) = (sessions.clone(), sessions.clone(), sessions);
    let mut turn = 0;
    let mut next = move || {
        turn = (turn + 7919) % SESSIONS;
        turn
    };
    let mut other = next;
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
    ]
}
