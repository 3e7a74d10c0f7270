//! Tests of the rule of one session per device.

use std::sync::Arc;

use metrics::Gauge;
use protocol::close::CloseCode;
use protocol::id::{DeviceId, SessionId};
use protocol::state::PerLane;
use uuid::Uuid;

use super::Registry;
use crate::certificate::Identity;
use crate::handle::{Handle, Rung};

fn handle(device: u128, session: u128) -> Arc<Handle> {
    let device = DeviceId::from_uuid(Uuid::from_u128(device));
    let identity = Identity { device, generation: 1, not_after_secs: u64::MAX };
    let session = SessionId::from_uuid(Uuid::from_u128(session));
    Arc::new(Handle::new(identity, session, Rung::Push, PerLane::default(), Gauge::noop()))
}

#[test]
fn newer_session_replaces_older() {
    let registry = Registry::default();
    let (older, newer) = (handle(1, 1), handle(1, 2));
    registry.register(&older);
    registry.register(&newer);
    assert_eq!(older.take().close, Some(CloseCode::Replaced));
    assert_eq!(newer.take().close, None);
    assert_eq!((registry.len(), registry.is_current(&newer)), (1, true));
}

#[test]
fn late_cleanup_of_the_older_leaves_the_newer() {
    let registry = Registry::default();
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
    let registry = Registry::default();
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
    let registry = Registry::default();
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
