//! Opening a session: TCP, TLS, upgrade, `hello` and `welcome`.
//!
//! Owns the first words and their time limits. What the session carries is not its part.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::frame::{FrameError, Hello, SOCKET_PATH, SUBPROTOCOL};
use protocol::limits;
use protocol::session::agent::{AgentHandshake, AgentSession};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Shared;
use crate::http::{HttpError, Peer};

/// Bytes of the socket's own buffers: thousands of sessions share this process.
const BUFFER_BYTES: usize = 2 * 1024;

pub(super) type WebSocket = WebSocketStream<TlsStream<TcpStream>>;

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

/// A connection whose greeting is done.
pub(super) struct Line {
    pub(super) socket: WebSocket,
    pub(super) machine: AgentSession,
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

/// The code of a close frame, if it is one of ours.
pub(super) fn code(frame: Option<CloseFrame>) -> Option<CloseCode> {
    CloseCode::from_number(frame?.code.into())
}
