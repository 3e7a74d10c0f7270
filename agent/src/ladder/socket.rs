//! One session over a WebSocket: opening it, and driving the protocol's machine over it.
//!
//! Owns the socket. Decides neither when to open one nor what to do after it ended.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::frame::{FrameError, HubFrame, Mode, Reconnect, SOCKET_PATH, SUBPROTOCOL, Welcome};
use protocol::limits;
use protocol::session::Output;
use protocol::session::agent::{AgentHandshake, AgentSession};
use runtime::Clock;
use runtime::lifecycle::CancellationToken;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{Frames, Obstacle, Shared};
use crate::http::{Connection, HttpError, bare};
use crate::reconcile::Event;

/// Bytes of the socket's own buffers.
const BUFFER_BYTES: usize = 8 * 1024;
/// Frames of our own that go out with one flush.
const BATCH: usize = 32;
/// Where a hub that refuses the upgrade says by which close code.
const CLOSE_HEADER: &str = "tocsin-close";
/// Where a hub without room lists others.
const HUBS_HEADER: &str = "tocsin-hubs";
/// How long a close frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type WebSocket = WebSocketStream<Connection>;

/// Why no session came to stand.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// There is no address to try.
    #[error("no hub address is known")]
    NoAddress,
    /// The hub could not be reached.
    #[error("the hub cannot be reached")]
    Dial(#[from] HttpError),
    /// The hub answered the upgrade with something else.
    #[error("the hub answered the upgrade with status {status}")]
    Status {
        /// What it answered.
        status: u16,
        /// The close code that says what to do about it, if it gave one.
        close: Option<CloseCode>,
        /// How long to stay away, if it said so.
        retry_after: Option<Duration>,
        /// Other hubs that it named. Nothing is known of them yet.
        hubs: Vec<String>,
    },
    /// The WebSocket handshake failed.
    #[error("the websocket handshake failed")]
    WebSocket(#[from] Box<tungstenite::Error>),
    /// The upgrade or `welcome` took too long.
    #[error("the hub did not answer in time")]
    TimedOut,
    /// The hub closed before `welcome`.
    #[error("the hub closed with {0:?} before welcome")]
    Closed(Option<CloseCode>),
    /// Our own `hello` is not sound.
    #[error("hello cannot be sent")]
    Hello(#[from] FrameError),
}

impl AttemptError {
    pub(super) fn obstacle(&self) -> Obstacle {
        match self {
            // A hub over its budget would only be asked more often by other means.
            Self::NoAddress | Self::Dial(_) | Self::Status { status: 429 | 503, .. } => {
                Obstacle::Unreachable
            }
            Self::Status { .. }
            | Self::WebSocket(_)
            | Self::TimedOut
            | Self::Closed(_)
            | Self::Hello(_) => Obstacle::Refused,
        }
    }

    /// The code by which the hub turned us away.
    pub(super) const fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Status { close, .. } => *close,
            Self::Closed(code) => *code,
            Self::NoAddress
            | Self::Dial(_)
            | Self::WebSocket(_)
            | Self::TimedOut
            | Self::Hello(_) => None,
        }
    }

    /// The other hubs that the hub named.
    pub(super) fn take_hubs(&mut self) -> Vec<String> {
        match self {
            Self::Status { hubs, .. } => std::mem::take(hubs),
            Self::NoAddress
            | Self::Dial(_)
            | Self::WebSocket(_)
            | Self::TimedOut
            | Self::Closed(_)
            | Self::Hello(_) => Vec::new(),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Dial(error) => super::retry_after(error),
            Self::NoAddress
            | Self::WebSocket(_)
            | Self::TimedOut
            | Self::Closed(_)
            | Self::Hello(_) => None,
        }
    }
}

/// What a session tells the loop that owns it.
#[derive(Debug)]
pub(super) enum Control {
    /// Behave so.
    Mode(Mode),
    /// Open a session elsewhere.
    Reconnect(Reconnect),
    /// It is over, by this code of whichever side; `None`: the connection was lost.
    Ended(Option<CloseCode>),
}

/// A session that stands.
#[derive(Debug)]
pub(super) struct Session {
    socket: WebSocket,
    machine: AgentSession,
    clock: Clock,
}

/// Opens a session with the hub at that address.
pub(super) async fn open(shared: &Shared, address: &str) -> Result<Session, AttemptError> {
    let tls = shared.identity.borrow().tls.clone();
    let stream = shared.dialer.connect(address, tls, shared.config.connect_timeout).await?;
    let mut socket = upgrade(stream, address).await?;
    let (handshake, hello) = AgentHandshake::start(shared.hello(), shared.clock.now())?;
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
    let text = tokio::time::timeout(limits::HELLO_TIMEOUT, greeting)
        .await
        .map_err(|_| AttemptError::TimedOut)??;
    let clock = shared.clock.clone();
    match handshake.receive(text.as_str(), clock.now()) {
        Ok(machine) => Ok(Session { socket, machine, clock }),
        Err(code) => {
            close(&mut socket, code).await;
            Err(AttemptError::Closed(Some(code)))
        }
    }
}

async fn upgrade(stream: Connection, address: &str) -> Result<WebSocket, AttemptError> {
    let unusable = || AttemptError::Dial(HttpError::Address(address.to_owned()));
    let uri = format!("wss://{}{SOCKET_PATH}", bare(address)).parse().map_err(|_| unusable())?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(limits::OUTBOX_BYTES + limits::FRAME_BYTES)
        .max_message_size(Some(limits::FRAME_BYTES))
        .max_frame_size(Some(limits::FRAME_BYTES));
    let upgrading = client_async_with_config(request, stream, Some(config));
    // The connection stood in time, so the hub's own limit for the upgrade is the one that counts.
    match tokio::time::timeout(limits::UPGRADE_TIMEOUT, upgrading).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => {
            let number = |name: &str| {
                let value = response.headers().get(name)?;
                value.to_str().ok()?.trim().parse::<u64>().ok()
            };
            let close = number(CLOSE_HEADER).and_then(|code| u16::try_from(code).ok());
            Err(AttemptError::Status {
                status: response.status().as_u16(),
                close: close.and_then(CloseCode::from_number),
                retry_after: number("retry-after").map(Duration::from_secs),
                hubs: response.headers().get(HUBS_HEADER).map_or_else(Vec::new, listed),
            })
        }
        Ok(Err(error)) => Err(Box::new(error).into()),
        Err(_) => Err(AttemptError::TimedOut),
    }
}

/// The addresses of a header that lists them, as many as a `reconnect` may name.
fn listed(value: &HeaderValue) -> Vec<String> {
    let text = value.to_str().unwrap_or_default();
    let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
    addresses.take(limits::LIST_ENTRIES).map(str::to_owned).collect()
}

impl Session {
    /// What the hub answered to `hello`.
    pub(super) const fn welcome(&self) -> &Welcome {
        self.machine.welcome()
    }

    /// Drives the session to its end. It ends as well when the core has let go of `frames`.
    pub(super) async fn run(
        mut self,
        mut frames: Frames,
        events: mpsc::Sender<Event>,
        (number, control): (u64, mpsc::Sender<(u64, Control)>),
        stop: CancellationToken,
    ) {
        let ended = loop {
            match self.perform(&events, number, &control).await {
                Ok(None) => {}
                Ok(Some(code)) => break Some(code),
                Err(()) => break None,
            }
            let (deadline, _) = self.machine.poll_timeout();
            tokio::select! {
                biased;
                () = stop.cancelled() => self.machine.close(CloseCode::GoingAway),
                () = until(&self.clock, deadline) => {
                    self.machine.handle_timeout(self.clock.now());
                }
                frame = frames.recv() => match frame {
                    Some(frame) => self.send(frame, &mut frames),
                    None => self.machine.close(CloseCode::Normal),
                },
                message = self.socket.next() => match self.take(message) {
                    Ok(()) => {}
                    Err(ended) => break ended,
                },
            }
        };
        let _ = control.send((number, Control::Ended(ended))).await;
    }

    fn send(&mut self, first: protocol::frame::AgentFrame, frames: &mut Frames) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(frame) = next else { return };
            if let Err(error) = self.machine.send(&frame) {
                tracing::error!(%error, "frame can never be sent");
            }
            next = frames.try_recv().ok();
        }
        if let Some(frame) = next
            && let Err(error) = self.machine.send(&frame)
        {
            tracing::error!(%error, "frame can never be sent");
        }
    }

    /// Takes what came; `Err` when the connection is over.
    fn take(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), Option<CloseCode>> {
        let now = self.clock.now();
        match message {
            Some(Ok(Message::Text(text))) => self.machine.handle_text(text.as_str(), now),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.machine.handle_alive(now);
            }
            Some(Ok(Message::Binary(_))) => self.machine.close(CloseCode::Unsupported),
            Some(Ok(Message::Close(frame))) => return Err(code(frame)),
            Some(Err(error)) => {
                tracing::debug!(error = super::chain(&error), "socket failed");
                return Err(None);
            }
            None => return Err(None),
        }
        Ok(())
    }

    /// Performs what the machine wants; its close code when it is the end.
    async fn perform(
        &mut self,
        events: &mpsc::Sender<Event>,
        number: u64,
        control: &mpsc::Sender<(u64, Control)>,
    ) -> Result<Option<CloseCode>, ()> {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Transmit(text) => {
                    let sent = self.socket.feed(Message::text(text));
                    within(limits::WRITE_STALL, sent).await?;
                }
                // The hub pings; an agent's machine never does.
                Output::Ping | Output::Ignored => {}
                Output::Received(HubFrame::Mode { mode, reason }) => {
                    tracing::info!(?mode, reason, "mode asked for");
                    control.send((number, Control::Mode(mode))).await.map_err(drop)?;
                }
                Output::Received(HubFrame::Reconnect(reconnect)) => {
                    control.send((number, Control::Reconnect(reconnect))).await.map_err(drop)?;
                }
                Output::Received(frame) => {
                    events.send(Event::Frame(frame)).await.map_err(drop)?;
                }
                Output::Close(code) => {
                    close(&mut self.socket, code).await;
                    return Ok(Some(code));
                }
            }
        }
        // Also sends the pong that the last ping asked for.
        within(limits::WRITE_STALL, self.socket.flush()).await.map(|()| None)
    }
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

async fn until(clock: &Clock, at: Instant) {
    tokio::time::sleep(at.saturating_duration_since(clock.now())).await;
}
