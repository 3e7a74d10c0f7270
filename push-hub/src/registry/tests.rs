//! Tests of the rule of one session per device.

use std::sync::Arc;

use metrics::Gauge;
use protocol::close::CloseCode;
use protocol::fixture::hello;
use protocol::frame::Hello;
use protocol::id::{DeviceId, SessionId};
use protocol::state::PerLane;
use uuid::Uuid;

use super::Registry;
use crate::certificate::Identity;
use crate::certificate::tests::FOR_EVER;
use crate::handle::{Handle, Rung};

mod model;

fn handle(device: u128, session: u128) -> Arc<Handle> {
    with_epoch(device, session, 0)
}

fn with_epoch(device: u128, session: u128, epoch: u64) -> Arc<Handle> {
    let device = DeviceId::from_uuid(Uuid::from_u128(device));
    let identity = Identity { device, generation: 1, validity: FOR_EVER };
    let session = SessionId::from_uuid(Uuid::from_u128(session));
    let hello = Hello { epoch, ..hello(PerLane::default()) };
    Arc::new(Handle::new(identity, session, Rung::Push, &hello, Gauge::noop()))
}

#[test]
fn session_that_comes_late_does_not_replace_one_of_a_later_epoch() {
    let registry = <Registry>::default();
    let (newer, late) = (with_epoch(1, 2, 20), with_epoch(1, 1, 10));
    registry.register(&newer);
    registry.register(&late);
    assert_eq!(late.take().close, Some(CloseCode::Replaced));
    assert!(registry.is_current(&newer) && !registry.unregister(&late));
    assert_eq!(newer.take().close, None);
}

#[test]
fn word_that_a_session_is_replaced_closes_no_other() {
    let registry = <Registry>::default();
    let newer = handle(1, 2);
    registry.register(&newer);
    registry.replaced(newer.device, handle(1, 1).session);
    assert_eq!(newer.take().close, None);
    registry.replaced(newer.device, newer.session);
    assert_eq!(newer.take().close, Some(CloseCode::Replaced));
}

#[test]
fn newer_session_replaces_older() {
    let registry = <Registry>::default();
    let (older, newer) = (handle(1, 1), handle(1, 2));
    registry.register(&older);
    registry.register(&newer);
    assert_eq!(older.take().close, Some(CloseCode::Replaced));
    assert_eq!(newer.take().close, None);
    assert_eq!((registry.len(), registry.is_current(&newer)), (1, true));
}

#[test]
fn late_cleanup_of_the_older_leaves_the_newer() {
    let registry = <Registry>::default();
    let (older, newer) = (handle(1, 1), handle(1, 2));
    registry.register(&older);
    registry.register(&newer);
    assert!(!registry.unregister(&older));
    assert!(registry.is_current(&newer));
    assert!(registry.unregister(&newer));
    assert!(!registry.unregister(&newer));
}

#[test]
fn shut_registry_closes_those_that_still_come() {
    let registry = <Registry>::default();
    let (before, after, later) = (handle(1, 1), handle(2, 2), handle(3, 3));
    registry.register(&before);
    registry.shut();
    registry.register(&after);
    registry.reopen();
    registry.register(&later);
    let closes = [before, after, later].map(|handle| handle.take().close);
    assert_eq!(closes, [Some(CloseCode::Drain), Some(CloseCode::Drain), None]);
}

#[test]
fn racing_sessions_of_one_device_leave_exactly_one() {
    let registry = <Registry>::default();
    let handles = (0..200).map(|session| handle(1, session)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        for some in handles.chunks(50) {
            let registry = &registry;
            scope.spawn(move || {
                for handle in some {
                    registry.register(handle);
                    if handle.take().close.is_some() {
                        registry.unregister(handle);
                    }
                }
            });
        }
    });
    let open = handles.iter().filter(|handle| handle.take().close.is_none()).collect::<Vec<_>>();
    let [winner] = open.as_slice() else { panic!("{} sessions are open", open.len()) };
    assert!(registry.is_current(winner));
}
