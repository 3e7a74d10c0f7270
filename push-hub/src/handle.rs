//! One session as the rest of the hub sees it: who it is, and an inbox.
//!
//! Owns what waits for a session and the word to close it. The session's task owns everything
//! else and alone takes things out. An idle inbox has no memory besides itself.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::Gauge;
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, Hello, HubFrame};
use protocol::id::{DeviceId, SessionId};
use protocol::limits;
use protocol::state::PerLane;
use tokio::sync::Notify;

use crate::certificate::Identity;

#[cfg(test)]
mod tests;

/// Bytes that a frame counts besides its texts.
const FRAME_BASE_BYTES: usize = 200;

/// What happens when the inbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// A WebSocket: an agent that does not keep up is closed as `slow`.
    Push,
    /// A held long-poll: its answer carries what fits, and the next one asks for the rest.
    LongPoll,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) device: DeviceId,
    pub(crate) generation: u32,
    pub(crate) session: SessionId,
    /// Its place among the sessions of its device.
    pub(crate) epoch: u64,
    pub(crate) rung: Rung,
    inbox: Mutex<Inbox>,
    wake: Notify,
    /// Apart from `wake`: who waits for the end must not swallow the word that frames wait.
    closing: Notify,
    waiting_bytes: Gauge,
}

#[derive(Debug)]
struct Inbox {
    frames: VecDeque<HubFrame>,
    bytes: usize,
    close: Option<CloseCode>,
    last_seq: PerLane<u64>,
}

/// What was in an inbox.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) frames: VecDeque<HubFrame>,
    pub(crate) close: Option<CloseCode>,
}

/// The inbox is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Handle {
    pub(crate) fn new(
        identity: Identity,
        session: SessionId,
        rung: Rung,
        hello: &Hello,
        waiting_bytes: Gauge,
    ) -> Self {
        let last_seq = hello.last_seq;
        let inbox = Inbox { frames: VecDeque::new(), bytes: 0, close: None, last_seq };
        Self {
            device: identity.device,
            generation: identity.generation,
            session,
            epoch: hello.epoch,
            rung,
            inbox: Mutex::new(inbox),
            wake: Notify::new(),
            closing: Notify::new(),
            waiting_bytes,
        }
    }

    /// Hands frames to the session. When they do not all fit, a WebSocket is closed as `slow`.
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = HubFrame>) -> Result<(), Full> {
        let mut inbox = self.lock();
        let outcome = frames.into_iter().try_for_each(|frame| self.push_one(&mut inbox, frame));
        if outcome.is_err() && self.rung == Rung::Push {
            inbox.close.get_or_insert(CloseCode::Slow);
            self.closing.notify_one();
        }
        drop(inbox);
        self.wake.notify_one();
        outcome
    }

    fn push_one(&self, inbox: &mut Inbox, frame: HubFrame) -> Result<(), Full> {
        let bytes = weight(&frame);
        let is_full = inbox.frames.len() >= limits::OUTBOX_FRAMES
            || inbox.bytes + bytes > limits::OUTBOX_BYTES;
        if is_full {
            return Err(Full);
        }
        inbox.bytes += bytes;
        self.waiting_bytes.increment(cast(bytes));
        inbox.frames.push_back(frame);
        Ok(())
    }

    /// Tells the session to end. The first code stands.
    pub(crate) fn close(&self, code: CloseCode) {
        self.lock().close.get_or_insert(code);
        self.closing.notify_one();
        self.wake.notify_one();
    }

    /// Takes everything out, and with it the memory.
    pub(crate) fn take(&self) -> Taken {
        let mut inbox = self.lock();
        self.waiting_bytes.decrement(cast(inbox.bytes));
        inbox.bytes = 0;
        Taken { frames: std::mem::take(&mut inbox.frames), close: inbox.close }
    }

    /// Waits until there may be something to take. Cancel safe; for one waiter.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits for the word to close, whatever else arrives.
    pub(crate) async fn closed(&self) -> CloseCode {
        loop {
            if let Some(code) = self.lock().close {
                return code;
            }
            self.closing.notified().await;
        }
    }

    /// Remembers what the agent has on disk, for a `sync` on its behalf.
    pub(crate) fn remember(&self, frame: &AgentFrame) {
        if let AgentFrame::Sync { last_seq } = frame {
            self.lock().last_seq = *last_seq;
        }
    }

    /// The request for everything that is pending, as the agent would make it.
    pub(crate) fn sync(&self) -> AgentFrame {
        AgentFrame::Sync { last_seq: self.lock().last_seq }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing inside of the lock can panic halfway through a change.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.take();
    }
}

/// About how many bytes a frame has on the wire: the exact number would take its encoding.
pub(crate) fn weight(frame: &HubFrame) -> usize {
    let texts = |texts: &[String]| texts.iter().map(|text| text.len() + 3).sum();
    let content = match frame {
        HubFrame::Command(command) => command.jws.as_str().len(),
        HubFrame::Confirmed { receipts } => texts(receipts),
        HubFrame::Checkpoint { jws } => jws.as_str().len(),
        HubFrame::Trust { root } => root.signatures().iter().map(|jws| jws.as_str().len()).sum(),
        HubFrame::Reconnect(reconnect) => reconnect.reason.len() + texts(&reconnect.hubs),
        HubFrame::Mode { reason, .. } => reason.len(),
        HubFrame::Welcome(_) | HubFrame::Unknown => 0,
    };
    FRAME_BASE_BYTES + content
}

#[expect(clippy::cast_precision_loss, reason = "an inbox has far fewer than 2^52 bytes")]
fn cast(bytes: usize) -> f64 {
    bytes as f64
}
