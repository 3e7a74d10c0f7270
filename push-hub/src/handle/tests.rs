//! Tests of the inbox.

use metrics::Gauge;
use protocol::close::CloseCode;
use protocol::fixture::hello;
use protocol::frame::{AgentFrame, HubFrame, Mode};
use protocol::id::{DeviceId, SessionId};
use protocol::limits;
use protocol::state::PerLane;
use uuid::Uuid;

use super::{Full, Handle, Rung};
use crate::certificate::Identity;
use crate::certificate::tests::FOR_EVER;

fn handle(rung: Rung) -> Handle {
    let device = DeviceId::from_uuid(Uuid::nil());
    let identity = Identity { device, generation: 1, validity: FOR_EVER };
    let hello = hello(PerLane { urgent: 3, bulk: 4 });
    Handle::new(identity, SessionId::from_uuid(Uuid::nil()), rung, &hello, Gauge::noop())
}

fn frame(bytes: usize) -> HubFrame {
    HubFrame::Mode { mode: Mode::Push, reason: "x".repeat(bytes) }
}

#[test]
fn full_inbox_closes_a_socket_as_slow() {
    let handle = handle(Rung::Push);
    let frames = || (0..=limits::OUTBOX_FRAMES).map(|_| frame(0));
    assert_eq!(handle.push(frames()), Err(Full));
    let taken = handle.take();
    assert_eq!(taken.frames.len(), limits::OUTBOX_FRAMES);
    assert_eq!(taken.close, Some(CloseCode::Slow));
}

#[test]
fn full_inbox_of_a_long_poll_keeps_what_fits() {
    let handle = handle(Rung::LongPoll);
    assert_eq!(handle.push((0..5).map(|_| frame(limits::OUTBOX_BYTES / 4))), Err(Full));
    let taken = handle.take();
    assert_eq!((taken.frames.len(), taken.close), (3, None));
}

#[test]
fn inbox_counts_bytes_anew_after_it_was_emptied() {
    let handle = handle(Rung::Push);
    for _ in 0..3 {
        assert_eq!(handle.push([frame(limits::OUTBOX_BYTES - 200)]), Ok(()));
        assert_eq!(handle.take().frames.len(), 1);
    }
}

#[test]
fn first_reason_to_close_stands() {
    let handle = handle(Rung::Push);
    handle.close(CloseCode::Revoked);
    handle.close(CloseCode::Drain);
    assert_eq!(handle.take().close, Some(CloseCode::Revoked));
}

#[test]
fn sync_on_behalf_of_an_agent_carries_what_it_said_last() {
    let handle = handle(Rung::Push);
    assert_eq!(handle.sync(), AgentFrame::Sync { last_seq: PerLane { urgent: 3, bulk: 4 } });
    let newer = AgentFrame::Sync { last_seq: PerLane { urgent: 9, bulk: 4 } };
    handle.remember(&newer);
    assert_eq!(handle.sync(), newer);
}

#[tokio::test]
async fn who_waits_for_the_end_does_not_swallow_the_word_that_frames_wait() {
    let handle = handle(Rung::Push);
    {
        let mut closed = std::pin::pin!(handle.closed());
        assert!(futures_util::poll!(closed.as_mut()).is_pending());
        handle.push([frame(0)]).expect("there is room");
        assert!(futures_util::poll!(closed.as_mut()).is_pending());
    }
    let mut woken = std::pin::pin!(handle.woken());
    assert!(futures_util::poll!(woken.as_mut()).is_ready());
}
