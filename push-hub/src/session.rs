//! One session over a WebSocket, from the upgrade to the close.
//!
//! One task owns the socket, the machine and the inbox. Owns performing what the machine says,
//! in bounded batches with one flush each. Must not judge frames: the machine does.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use protocol::close::CloseCode;
use protocol::frame::AgentFrame;
use protocol::session::hub::{HubHandshake, HubSession};
use protocol::session::{Output, Wake};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep_until, timeout_at};
use tracing::Instrument as _;

use crate::certificate::Identity;
use crate::core::Core;
use crate::handle::{Handle, Rung};
use crate::metrics::Aged;
use crate::presence::News;
use crate::socket::{Bucket, Incoming, Socket, SocketError};

/// What the machine says is performed in batches of so many outputs, then flushed.
const BATCH: usize = 64;
/// A heartbeat is put off by such a part of it at most.
const BEATS: u32 = 25;
/// Frames of unknown kinds cost more than known ones: an agent may be newer, but not that new.
const UNKNOWN_COST: u32 = 10;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We close, with that code.
    Ours(CloseCode),
    /// The agent closed.
    Theirs,
    /// The connection is gone.
    Lost,
}

impl From<SocketError> for End {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Closed(_) => Self::Theirs,
            SocketError::Violation(code) => Self::Ours(code),
            SocketError::Stalled => Self::Ours(CloseCode::Slow),
            SocketError::Lost => Self::Lost,
        }
    }
}

/// Runs a connection whose upgrade was granted. `slot` is given back at `hello`.
///
/// The socket is boxed and everything but the waiting is a future of its own in a box: this task
/// is what an idle agent costs, and a future is as large as the largest of its steps.
pub(crate) async fn run<IO>(
    core: Arc<Core>,
    mut socket: Box<Socket<IO>>,
    identity: Identity,
    slot: OwnedSemaphorePermit,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = Box::pin(open(&core, &mut socket, identity)).await;
    drop(slot);
    let end = match opened {
        Ok((machine, handle)) => {
            // Kept for every session while it is enabled: not at the level that operators run with.
            let span = tracing::debug_span!(
                "session",
                device.id = %handle.device,
                session.id = %handle.session
            );
            live(&core, &mut socket, (machine, handle), identity).instrument(span).await
        }
        Err(end) => end,
    };
    Box::pin(part(&core, &mut socket, end)).await;
}

async fn part<IO>(core: &Core, socket: &mut Socket<IO>, end: End)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match end {
        End::Ours(code) => {
            core.metrics.close(code);
            socket.close(code).await;
        }
        End::Theirs => {
            core.metrics.close(CloseCode::Normal);
            socket.finish().await;
        }
        End::Lost => {}
    }
}

/// Waits for `hello` and registers the session.
async fn open<IO>(
    core: &Arc<Core>,
    socket: &mut Socket<IO>,
    identity: Identity,
) -> Result<(HubSession, Arc<Handle>), End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = HubHandshake::new(core.clock.now());
    let patience = core.clock.now() + core.config().admission.hello_timeout;
    let deadline = handshake.poll_timeout().0.min(patience);
    let text = tokio::select! {
        biased;
        () = core.drain.hard().cancelled() => return Err(End::Ours(CloseCode::Drain)),
        first = timeout_at(deadline.into(), first_text(socket)) => match first {
            Ok(text) => text?,
            Err(_) => return Err(End::Ours(handshake.handle_timeout())),
        },
    };
    let now = core.clock.now();
    let session_id = core.session_id();
    let (machine, hello) = handshake
        .receive(&text, session_id, core.config().pace(), (now, core.timestamp()))
        .map_err(End::Ours)?;
    let waiting_bytes = core.metrics.outbox_bytes.clone();
    let handle = Arc::new(Handle::new(identity, session_id, Rung::Push, &hello, waiting_bytes));
    begin(core, &handle, AgentFrame::Hello(hello));
    Ok((machine, handle))
}

/// Registers first, then asks for what is pending: what is published meanwhile finds the session.
pub(crate) fn begin(core: &Arc<Core>, handle: &Arc<Handle>, hello: AgentFrame) {
    core.metrics.frame_in(&hello);
    core.registry.register(handle);
    core.owed.forget(handle.device);
    // The revocation may have come between the handshake and the registration.
    if core.revocations.covers(handle.device, handle.generation) {
        handle.close(CloseCode::Revoked);
    }
    core.link.greet(handle);
    // The drain may have begun since the request was admitted.
    if core.drain.is_draining() {
        core.send_away(handle, core.spread(1));
    }
    core.lanes.tell(core, News::Arrived(handle.clone(), hello));
}

/// Takes a session out again, unless a newer one has its place.
pub(crate) fn end(core: &Core, handle: &Arc<Handle>) {
    if core.registry.unregister(handle) {
        core.lanes.tell(core, News::Departed(handle.clone()));
    }
}

async fn first_text<IO>(socket: &mut Socket<IO>) -> Result<String, End>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match socket.next().await? {
            Incoming::Text(text) => return Ok(text.as_str().to_owned()),
            Incoming::Binary(_) => return Err(End::Ours(CloseCode::Unsupported)),
            Incoming::Control => {}
        }
    }
}

async fn live<IO>(
    core: &Arc<Core>,
    socket: &mut Socket<IO>,
    (machine, handle): (HubSession, Arc<Handle>),
    identity: Identity,
) -> End
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    core.metrics.sockets.increment(1);
    tracing::debug!("session begins");
    let frames = allowance(core);
    let expires_at = expiry(core, identity);
    let mut session = Live { core, socket, machine, handle, frames, expires_at };
    let ended = session.run().await;
    tracing::debug!(end = ?ended, "session ends");
    let is_current = core.registry.is_current(&session.handle);
    if is_current && session.machine.awaits_urgent_ack() {
        core.owed.note(session.handle.device, core.clock.now());
    }
    end(core, &session.handle);
    core.metrics.sockets.decrement(1);
    ended
}

/// Of frames: a session keeps what it began with, as it keeps the pace that it was told.
fn allowance(core: &Core) -> Bucket {
    let admission = &core.config().admission;
    Bucket::new(admission.frame_burst, admission.frames_per_sec, core.clock.now())
}

/// When the certificate ends, on the monotonic clock.
fn expiry(core: &Core, identity: Identity) -> Instant {
    /// Longer than any device certificate, and short enough for any monotonic clock.
    const YEAR_SECS: u64 = 366 * 86_400;
    let left =
        identity.validity.not_after_secs.saturating_sub(core.clock.unix_secs()).min(YEAR_SECS);
    core.clock.now() + std::time::Duration::from_secs(left + 1)
}

struct Live<'a, IO> {
    core: &'a Arc<Core>,
    socket: &'a mut Socket<IO>,
    machine: HubSession,
    handle: Arc<Handle>,
    frames: Bucket,
    expires_at: Instant,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Live<'_, IO> {
    async fn run(&mut self) -> End {
        let handle = self.handle.clone();
        let mut timer = std::pin::pin!(sleep_until(self.wake_at().into()));
        loop {
            let commands = self.take_inbox();
            let more = match Box::pin(self.perform(commands)).await {
                Ok(more) => more,
                Err(end) => return end,
            };
            self.arm(timer.as_mut());
            let outcome = tokio::select! {
                biased;
                () = handle.woken() => self.glance(),
                () = timer.as_mut() => self.wake(),
                incoming = self.socket.next() => self.take(incoming),
                () = std::future::ready(()), if more => Ok(()),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// A heartbeat may be later by a part of it, so that many sessions have theirs together.
    fn wake_at(&self) -> Instant {
        let at = match self.machine.poll_timeout() {
            (due, Wake::Heartbeat) => self.core.beat(due, self.machine.pace().heartbeat / BEATS),
            (due, Wake::Silence | Wake::UrgentProbe | Wake::Handshake) => due,
        };
        at.min(self.expires_at)
    }

    /// The timer is moved only to an earlier time; when it fires too early it is moved on. So
    /// traffic, which moves the deadlines all the time, does not touch it.
    fn arm(&self, timer: std::pin::Pin<&mut Sleep>) {
        let wake_at = self.wake_at().into();
        if timer.is_elapsed() || wake_at < timer.deadline() {
            timer.reset(wake_at);
        }
    }

    fn wake(&mut self) -> Result<(), End> {
        let now = self.core.clock.now();
        if now >= self.expires_at {
            return Err(End::Ours(CloseCode::CertificateExpired));
        }
        // What has arrived counts, however late this task comes to read it.
        self.glance()?;
        self.machine.handle_timeout(now);
        Ok(())
    }

    /// An inbox that is never empty must not keep the agent from being heard.
    fn glance(&mut self) -> Result<(), End> {
        match self.socket.next().now_or_never() {
            Some(incoming) => self.take(incoming),
            None => Ok(()),
        }
    }

    /// Takes what waits, and answers the commands among it. None of them has any memory.
    fn take_inbox(&mut self) -> Vec<Aged> {
        let now = self.core.clock.now();
        let taken = self.handle.take();
        let commands: Vec<_> = taken.frames.iter().filter_map(Aged::of).collect();
        if !commands.is_empty() {
            let wall = self.core.timestamp();
            commands.iter().for_each(|command| self.core.metrics.routed(*command, wall));
        }
        for frame in &taken.frames {
            self.machine.deliver(frame, now);
        }
        if let Some(code) = taken.close {
            self.machine.close(code);
        }
        commands
    }

    fn take(&mut self, incoming: Result<Incoming, SocketError>) -> Result<(), End> {
        let now = self.core.clock.now();
        match incoming? {
            Incoming::Text(text) => {
                if !self.frames.take(1, now) {
                    return Err(End::Ours(CloseCode::Flood));
                }
                self.machine.handle_text(&text, now);
            }
            Incoming::Binary(_) => return Err(End::Ours(CloseCode::Unsupported)),
            Incoming::Control => self.machine.handle_alive(now),
        }
        Ok(())
    }

    /// Performs a batch of outputs and flushes once. Says whether there is more: of more commands than a batch
    /// at a time, the last are counted as written with the first.
    async fn perform(&mut self, commands: Vec<Aged>) -> Result<bool, End> {
        let mut fed = false;
        for _ in 0..BATCH {
            let Some(output) = self.machine.poll_output() else {
                self.flush(fed).await?;
                self.written(&commands);
                return Ok(false);
            };
            match output {
                Output::Transmit(text) => {
                    let handle = self.handle.clone();
                    tokio::select! {
                        biased;
                        outcome = self.socket.feed_text(text) => outcome?,
                        code = handle.closed() => return Err(End::Ours(code)),
                    }
                    fed = true;
                }
                Output::Ping => {
                    self.socket.feed_ping().await?;
                    fed = true;
                }
                Output::Received(frame) => self.forward(frame),
                Output::Ignored => self.ignore()?,
                Output::Close(code) => return Err(End::Ours(code)),
            }
        }
        self.flush(fed).await?;
        self.written(&commands);
        Ok(true)
    }

    fn written(&self, commands: &[Aged]) {
        if !commands.is_empty() {
            let wall = self.core.timestamp();
            commands.iter().for_each(|command| self.core.metrics.written(*command, wall));
        }
    }

    async fn flush(&mut self, fed: bool) -> Result<(), End> {
        #[cfg(feature = "planted-bugs")]
        let fed = fed && !protocol::planted::has(protocol::planted::Bug::NoFlush);
        if !fed {
            return Ok(());
        }
        tokio::select! {
            biased;
            outcome = self.socket.flush() => Ok(outcome?),
            code = self.handle.closed() => Err(End::Ours(code)),
        }
    }

    /// Never waits for the control plane: what does not fit, the agent repeats.
    fn forward(&mut self, frame: AgentFrame) {
        self.core.metrics.frame_in(&frame);
        self.handle.remember(&frame);
        let upstream = self.core.address(&self.handle, frame);
        if self.core.upstream.try_send(upstream).is_err() {
            self.core.metrics.upstream_dropped.increment(1);
        }
    }

    fn ignore(&mut self) -> Result<(), End> {
        self.core.metrics.frame_in(&AgentFrame::Unknown);
        if self.frames.take(UNKNOWN_COST - 1, self.core.clock.now()) {
            Ok(())
        } else {
            Err(End::Ours(CloseCode::Flood))
        }
    }
}
