//! The hub's registry, inboxes and revocations as values, for a simulation without sockets.
//!
//! Compiled only with the feature `simulation`. Owns no rule of its own: every call goes to the
//! code that a hub runs.

use std::collections::VecDeque;
use std::sync::Arc;

use broker::Downstream;
use metrics::Gauge;
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, Hello, HubFrame};
use protocol::id::{DeviceId, SessionId};
use runtime::tls::{IdleStream, Validity};
use tokio::net::TcpStream;

use crate::certificate::{Identity, Revocations};
use crate::dispatch;
use crate::greeting::Replay;
use crate::handle::{Handle, Rung};
use crate::registry::Registry;
use crate::session;
use crate::socket::Socket;

/// A certificate that does not end: only revocations count here.
const FOR_EVER: Validity = Validity { not_before_secs: 0, not_after_secs: u64::MAX };

/// What an idle session over a socket of the kernel's takes, by part, in bytes: its task, what that
/// task points to, and what the rest of the hub sees of it. Without what these allocate themselves.
#[must_use]
pub fn idle_session_bytes() -> [(&'static str, usize); 3] {
    type Io = IdleStream<Replay<TcpStream>>;
    fn future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }
    [
        ("task", future(session::run::<Io>)),
        ("socket", size_of::<Socket<Io>>()),
        ("handle", size_of::<Handle>()),
    ]
}

/// The sessions of one hub, and what it knows of revocations.
#[derive(Debug, Default)]
pub struct Sessions {
    registry: Registry,
    revocations: Revocations,
}

/// One session as the rest of the hub sees it.
#[derive(Debug, Clone)]
pub struct Session(Arc<Handle>);

impl Sessions {
    /// Registers a session of a device's WebSocket; an older one is told that it was replaced.
    pub fn register(
        &self,
        (device, generation): (DeviceId, u32),
        session: SessionId,
        hello: &Hello,
    ) -> Session {
        let identity = Identity { device, generation, validity: FOR_EVER };
        let handle = Handle::new(identity, session, Rung::Push, hello, Gauge::noop());
        let handle = Arc::new(handle);
        self.registry.register(&handle);
        Session(handle)
    }

    /// Takes a session out if it is still its device's. Says whether it was.
    pub fn unregister(&self, session: &Session) -> bool {
        self.registry.unregister(&session.0)
    }

    /// The session of a device.
    pub fn get(&self, device: DeviceId) -> Option<Session> {
        self.registry.get(device).map(Session)
    }

    /// Puts the frames of a broker's message into the inbox of its device's session. Says whether
    /// there is one; what is no delivery has none.
    pub fn deliver(&self, message: Downstream) -> bool {
        let Downstream::Deliver { device, frames } = message else { return false };
        let Some(handle) = self.registry.get(device) else { return false };
        // A full inbox has already closed its session.
        drop(handle.push(frames.into_iter().filter(dispatch::is_for_agents)));
        true
    }

    /// Whether that session is its device's.
    pub fn is_current(&self, session: &Session) -> bool {
        self.registry.is_current(&session.0)
    }

    /// Every session, by device.
    pub fn all(&self) -> Vec<Session> {
        self.registry.all().into_iter().map(Session).collect()
    }

    /// Closes exactly that session, because a later one is elsewhere.
    pub fn replaced(&self, device: DeviceId, session: SessionId) {
        self.registry.replaced(device, session);
    }

    /// Closes every session, and those that still come.
    pub fn shut(&self) {
        self.registry.shut();
    }

    /// Lets sessions in again.
    pub fn reopen(&self) {
        self.registry.reopen();
    }

    /// Refuses generations of a device up to and including this one.
    pub fn revoke(&self, device: DeviceId, through_generation: u32) {
        self.revocations.add(device, through_generation);
    }

    /// Whether a certificate of that generation is refused here.
    pub fn refuses(&self, device: DeviceId, generation: u32) -> bool {
        let identity = Identity { device, generation, validity: FOR_EVER };
        identity.check(0, &self.revocations).is_err()
    }
}

impl Session {
    /// The device.
    pub fn device(&self) -> DeviceId {
        self.0.device
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.0.session
    }

    /// Its place among the sessions of its device.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The enrollment generation of the device.
    pub fn generation(&self) -> u32 {
        self.0.generation
    }

    /// Puts frames into the inbox; one that they do not fit into closes its session as `slow`.
    pub fn push(&self, frames: impl IntoIterator<Item = HubFrame>) {
        // A full inbox has already closed its session.
        drop(self.0.push(frames));
    }

    /// Tells the session to end.
    pub fn close(&self, code: CloseCode) {
        self.0.close(code);
    }

    /// Takes everything out of the inbox.
    pub fn take(&self) -> (VecDeque<HubFrame>, Option<CloseCode>) {
        let taken = self.0.take();
        (taken.frames, taken.close)
    }

    /// Remembers what the agent said of its numbers.
    pub fn remember(&self, frame: &AgentFrame) {
        self.0.remember(frame);
    }

    /// The request for everything pending, on the agent's behalf.
    pub fn sync(&self) -> AgentFrame {
        self.0.sync()
    }
}
