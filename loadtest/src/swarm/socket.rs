//! One session of a simulated device: opening it, and driving the protocol's machine over it.
//!
//! Owns the socket and takes the moments that are measured. Decides nothing about commands: the
//! device does.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, FrameError, Hello, HubFrame, SOCKET_PATH, SUBPROTOCOL};
use protocol::id::CommandId;
use protocol::limits;
use protocol::session::Output;
use protocol::session::agent::{AgentHandshake, AgentSession};
use protocol::time::Timestamp;
use runtime::Clock;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Shared;
use super::device::{Delivered, Device};
use crate::book::Stage;
use crate::http::{HttpError, Peer};

/// Bytes of the socket's own buffers: thousands of sessions share this process.
const BUFFER_BYTES: usize = 2 * 1024;
/// How long a receipt waits for its confirmation before it is sent again.
const RESEND: Duration = Duration::from_secs(5);
/// The shortest time between two `sync` frames.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// The longest that a hub may put a reconnect off.
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// The pause before the next try, when the hub to move to did not open.
const MOVE_AGAIN: Duration = Duration::from_secs(1);
/// How long a close frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

/// Why no session came to stand.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// The hub could not be reached.
    #[error("connect")]
    Connect(#[from] HttpError),
    /// The hub answered the upgrade with something else.
    #[error("upgrade status {status}")]
    Status {
        /// What it answered.
        status: u16,
        /// How long to stay away, if it said so.
        retry_after: Option<Duration>,
    },
    /// The WebSocket broke.
    #[error("websocket")]
    WebSocket(#[from] Box<tungstenite::Error>),
    /// The upgrade or `welcome` took too long.
    #[error("welcome timeout")]
    TimedOut,
    /// The hub closed before `welcome`.
    #[error("closed before welcome, {}", reason(*.0))]
    Closed(Option<CloseCode>),
    /// Our own `hello` is not sound.
    #[error("hello")]
    Hello(#[from] FrameError),
}

impl AttemptError {
    /// How long the hub asked to be left alone.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Connect(_)
            | Self::WebSocket(_)
            | Self::TimedOut
            | Self::Closed(_)
            | Self::Hello(_) => None,
        }
    }
}

fn reason(code: Option<CloseCode>) -> &'static str {
    code.map_or("no code", CloseCode::as_str)
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The swarm stops.
    Stopped,
    /// The swarm cut its sockets, to see the storm.
    Cut,
    /// By that code of whichever side; `None`: the connection was lost.
    Closed(Option<CloseCode>),
}

/// A connection whose greeting is done.
pub(super) struct Line {
    socket: WebSocket,
    machine: AgentSession,
}

/// The connection that is to replace the one in use.
type Opening<'a> = Pin<Box<dyn Future<Output = Result<Line, AttemptError>> + Send + 'a>>;

/// A session that stands.
pub(super) struct Session<'a> {
    line: Line,
    device: &'a mut Device,
    shared: &'a Shared,
    /// Acks that were fed and not yet flushed.
    acking: Vec<CommandId>,
    resend_at: Option<Instant>,
    sync_due: bool,
    sync_not_before: Option<Instant>,
    move_at: Option<Instant>,
}

/// Opens a connection with the hub at that address, and greets it.
pub(super) async fn open(peer: &Peer, hello: Hello, shared: &Shared) -> Result<Line, AttemptError> {
    let stream = peer.connect().await?;
    let mut socket = upgrade(stream, peer.address()).await?;
    let (handshake, hello) = AgentHandshake::start(hello, shared.clock.now())?;
    let greeting = async {
        socket.send(Message::text(hello)).await.map_err(Box::new)?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(frame))) => return Err(AttemptError::Closed(code(frame))),
                Some(Ok(Message::Binary(_) | Message::Frame(_))) | None => {
                    return Err(AttemptError::Closed(None));
                }
                Some(Err(error)) => return Err(Box::new(error).into()),
            }
        }
    };
    let text = tokio::time::timeout(limits::HELLO_TIMEOUT, greeting).await;
    let text = text.map_err(|_| AttemptError::TimedOut)??;
    let machine = handshake.receive(text.as_str(), shared.clock.now());
    let machine = machine.map_err(|code| AttemptError::Closed(Some(code)))?;
    Ok(Line { socket, machine })
}

async fn upgrade(stream: TlsStream<TcpStream>, address: &str) -> Result<WebSocket, AttemptError> {
    let unusable = || AttemptError::Connect(HttpError::Address(address.to_owned()));
    let uri = format!("wss://{address}{SOCKET_PATH}").parse().map_err(|_| unusable())?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(limits::OUTBOX_BYTES + limits::FRAME_BYTES)
        .max_message_size(Some(limits::FRAME_BYTES))
        .max_frame_size(Some(limits::FRAME_BYTES));
    let upgrading = client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(limits::UPGRADE_TIMEOUT, upgrading).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => {
            let header = response.headers().get("retry-after");
            let secs = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Err(AttemptError::Status {
                status: response.status().as_u16(),
                retry_after: secs.map(Duration::from_secs),
            })
        }
        Ok(Err(error)) => Err(Box::new(error).into()),
        Err(_) => Err(AttemptError::TimedOut),
    }
}

impl<'a> Session<'a> {
    pub(super) const fn new(line: Line, device: &'a mut Device, shared: &'a Shared) -> Self {
        Self {
            line,
            device,
            shared,
            acking: Vec::new(),
            resend_at: None,
            sync_due: false,
            sync_not_before: None,
            move_at: None,
        }
    }

    /// Drives the session to its end, over one connection after the other when hubs ask for that.
    /// `next` names the hub of the next one.
    pub(super) async fn run(
        mut self,
        cut: &mut watch::Receiver<u64>,
        mut next: impl FnMut() -> &'a Peer,
    ) -> Ended {
        self.send_all(self.device.receipts());
        let mut opening: Option<Opening<'a>> = None;
        loop {
            match self.perform().await {
                Ok(None) => {}
                Ok(Some(code)) => return Ended::Closed(Some(code)),
                Err(()) => return Ended::Closed(None),
            }
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => {
                    close(&mut self.line.socket, CloseCode::GoingAway).await;
                    return Ended::Stopped;
                }
                // No close frame, as when an agent is killed.
                Ok(()) = cut.changed() => return Ended::Cut,
                () = until(&self.shared.clock, wake) => {
                    if self.timers() && opening.is_none() {
                        opening = Some(self.leave_for(next()));
                    }
                }
                opened = opened(&mut opening) => {
                    opening = None;
                    self.arrive(opened).await;
                }
                message = self.line.socket.next() => match self.take(message) {
                    Ok(()) => {}
                    Err(code) => return Ended::Closed(code),
                },
            }
        }
    }

    /// Begins to open the next connection, while the present one serves.
    fn leave_for(&mut self, peer: &'a Peer) -> Opening<'a> {
        self.move_at = None;
        let (hello, shared) = (self.device.hello(self.wall()), self.shared);
        Box::pin(async move {
            let slot = shared.connecting.acquire().await;
            let opened = open(peer, hello, shared).await;
            drop(slot);
            opened
        })
    }

    /// Goes over to the next connection. What the former one had not delivered comes again.
    async fn arrive(&mut self, opened: Result<Line, AttemptError>) {
        match opened {
            Ok(line) => {
                let mut former = std::mem::replace(&mut self.line, line);
                close(&mut former.socket, CloseCode::Normal).await;
                self.send_all(self.device.receipts());
            }
            Err(error) => {
                self.shared.book.error(&error);
                let wait = error.retry_after().unwrap_or(MOVE_AGAIN).min(RECONNECT_MAX);
                self.move_at = Some(self.shared.clock.now() + wait);
            }
        }
    }

    /// When something is due by itself.
    fn wake_at(&self) -> Instant {
        let sync = self.sync_not_before.filter(|_| self.sync_due);
        let due = [self.resend_at, sync, self.move_at].into_iter().flatten().min();
        due.map_or(self.line.machine.poll_timeout().0, |due| {
            due.min(self.line.machine.poll_timeout().0)
        })
    }

    /// Does what is due; whether it is time to move.
    fn timers(&mut self) -> bool {
        let now = self.shared.clock.now();
        self.line.machine.handle_timeout(now);
        if self.resend_at.is_some_and(|at| at <= now) {
            self.resend_at = None;
            self.send_all(self.device.receipts());
        }
        self.sync(now);
        self.move_at.is_some_and(|at| at <= now)
    }

    fn sync(&mut self, now: Instant) {
        if self.sync_due && self.sync_not_before.is_none_or(|at| at <= now) {
            (self.sync_due, self.sync_not_before) = (false, Some(now + SYNC_PAUSE));
            let sync = self.device.sync();
            self.send(&sync);
        }
    }

    fn send_all(&mut self, frames: Vec<AgentFrame>) {
        frames.iter().for_each(|frame| self.send(frame));
        if self.device.is_waiting() && self.resend_at.is_none() {
            self.resend_at = Some(self.shared.clock.now() + RESEND);
        }
    }

    fn send(&mut self, frame: &AgentFrame) {
        if self.line.machine.send(frame).is_err() {
            self.shared.book.error("frame too large to send");
        }
    }

    /// Takes what came; `Err` when the connection is over.
    fn take(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), Option<CloseCode>> {
        let now = self.shared.clock.now();
        match message {
            Some(Ok(Message::Text(text))) => self.line.machine.handle_text(text.as_str(), now),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.line.machine.handle_alive(now);
            }
            Some(Ok(Message::Binary(_))) => self.line.machine.close(CloseCode::Unsupported),
            Some(Ok(Message::Close(frame))) => return Err(code(frame)),
            Some(Err(_)) | None => return Err(None),
        }
        Ok(())
    }

    /// Performs what the machine wants, acks before receipts; its close code when it is the end.
    async fn perform(&mut self) -> Result<Option<CloseCode>, ()> {
        loop {
            let read_at = self.shared.clock.now();
            while let Some(output) = self.line.machine.poll_output() {
                match output {
                    Output::Transmit(text) => {
                        let sent = self.line.socket.feed(Message::text(text));
                        within(limits::WRITE_STALL, sent).await?;
                    }
                    Output::Ping | Output::Ignored => {}
                    Output::Received(frame) => self.handle(frame, read_at),
                    Output::Close(code) => {
                        close(&mut self.line.socket, code).await;
                        return Ok(Some(code));
                    }
                }
            }
            // Also sends the pong that the last ping asked for.
            within(limits::WRITE_STALL, self.line.socket.flush()).await?;
            let acked_at = self.shared.clock.now();
            for command_id in self.acking.drain(..) {
                self.shared.book.reached(command_id, Stage::Acked, acked_at);
            }
            let ended = self.device.work(self.wall());
            if ended.is_empty() {
                return Ok(None);
            }
            for (command_id, _) in &ended {
                self.shared.book.took_effect(*command_id);
            }
            self.send_all(ended.into_iter().map(|(_, frame)| frame).collect());
        }
    }

    fn handle(&mut self, frame: HubFrame, read_at: Instant) {
        match frame {
            HubFrame::Command(command) => {
                let command_id = command.command_id;
                self.shared.book.reached(command_id, Stage::Received, read_at);
                match self.device.deliver(&command, self.wall()) {
                    Delivered::Taken => {
                        self.acking.push(command_id);
                        self.send(&AgentFrame::Ack { command_id });
                    }
                    Delivered::Known(answer) => {
                        self.shared.book.redelivered();
                        self.send(&answer);
                    }
                    Delivered::Dropped => self.shared.book.error("command dropped, ledger full"),
                    Delivered::Gap => {
                        self.sync_due = true;
                        self.sync(read_at);
                    }
                    Delivered::Refused(reason, receipt) => {
                        let reason = reason.as_str();
                        self.shared.book.error(format_args!("command refused, {reason}"));
                        self.send_all(receipt.into_iter().collect());
                    }
                }
            }
            HubFrame::Confirmed { receipts } => self.confirmed(receipts, read_at),
            HubFrame::Trust { root } => {
                if self.device.trust(&root).is_err() {
                    self.shared.book.error("trust root not taken");
                }
            }
            HubFrame::Reconnect(reconnect) => {
                let after = Duration::from_millis(reconnect.after_ms).min(RECONNECT_MAX);
                self.move_at.get_or_insert(read_at + after);
            }
            HubFrame::Mode { .. } => self.shared.book.error("hub changed the mode"),
            // The machine keeps both to itself.
            HubFrame::Welcome(_) | HubFrame::Checkpoint { .. } | HubFrame::Unknown => {}
        }
    }

    fn confirmed(&mut self, receipts: Vec<String>, at: Instant) {
        let now = self.wall();
        for receipt in receipts {
            if let Some(command_id) = self.device.confirm(receipt, now) {
                self.shared.book.reached(command_id, Stage::Confirmed, at);
            }
        }
        if !self.device.is_waiting() {
            self.resend_at = None;
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.clock.unix_millis())
    }
}

/// The connection that is being opened; never, while none is.
async fn opened(opening: &mut Option<Opening<'_>>) -> Result<Line, AttemptError> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

async fn until(clock: &Clock, at: Instant) {
    tokio::time::sleep(at.saturating_duration_since(clock.now())).await;
}

async fn within(
    limit: Duration,
    writing: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), ()> {
    match tokio::time::timeout(limit, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: WireCode::from(code.number()), reason: code.as_str().into() };
    // The other end may be gone; it learns of the end either way.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
}

fn code(frame: Option<CloseFrame>) -> Option<CloseCode> {
    CloseCode::from_number(frame?.code.into())
}
