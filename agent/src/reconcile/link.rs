//! The way to the hub or the control plane, whichever rung it is.
//!
//! The newest rung that announced itself gets the frames. A frame that cannot be sent is dropped:
//! acks and receipts are on disk and go out again.

use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::CommandId;
use protocol::time::Timestamp;
use tokio::sync::mpsc;

/// What the ladder tells the core.
#[derive(Debug)]
pub(crate) enum Event {
    /// A rung stands: frames go there from now on.
    Linked(Linked),
    /// A frame came, on whatever rung.
    Frame(HubFrame),
    /// The control plane itself holds these.
    Stored(Vec<String>),
    /// What a command collected cannot be read any more, and not all of it is at the control plane.
    CollectionLost(CommandId),
    /// A server told its time.
    ServerTime(Timestamp),
}

/// A rung that stands.
#[derive(Debug)]
pub(crate) struct Linked {
    /// Where frames go. The rung is left when this is dropped.
    pub(crate) frames: mpsc::Sender<AgentFrame>,
}

/// The rung in use.
#[derive(Debug, Default)]
pub(super) struct Link(Option<mpsc::Sender<AgentFrame>>);

impl Link {
    pub(super) fn replace(&mut self, linked: Linked) {
        self.0 = Some(linked.frames);
    }

    pub(super) fn is_up(&self) -> bool {
        self.0.as_ref().is_some_and(|frames| !frames.is_closed())
    }

    /// Whether the rung stands, and nothing waits to be sent on it.
    pub(super) fn is_clear(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|frames| !frames.is_closed() && frames.capacity() == frames.max_capacity())
    }

    /// Whether the frame found room.
    pub(super) fn send(&self, frame: AgentFrame) -> bool {
        self.0.as_ref().is_some_and(|frames| frames.try_send(frame).is_ok())
    }
}
