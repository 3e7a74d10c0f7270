//! The WebSocket layer: every limit that the library under it does not have.
//!
//! Owns the configuration of tokio-tungstenite, the metering of bytes and control frames, the
//! mapping of violations to close codes, and an orderly close. Must not know frames of
//! `tocsin.v1` or sessions: text comes out, text goes in.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::limits;
use runtime::Clock;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

pub(crate) use self::meter::Bucket;
use self::meter::{Flooded, Metered};

mod meter;
#[cfg(test)]
mod tests;

/// How long an orderly close may take: for our close frame to leave and the peer's to come.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read and thrown away after a close, so that the kernel does not answer unread bytes
/// with a reset that overtakes the close frame.
const CLOSE_BYTES: usize = 1024 * 1024;
/// Bytes of a masked frame around its payload, at least (RFC 6455, section 5.2).
const FRAME_OVERHEAD: usize = 6;

/// The limits of one WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketConfig {
    /// Bytes of one message, and of one WebSocket frame.
    pub max_message_bytes: usize,
    /// Bytes asked for in one read. Allocated for every connection, so small.
    pub read_buffer_bytes: usize,
    /// Small messages are collected up to so many bytes until the flush, so that they leave in
    /// one TLS record. Nothing is allocated ahead.
    pub write_buffer_bytes: usize,
    /// Bytes that a peer may send at once.
    pub burst_bytes: u32,
    /// Bytes per second that a peer may send after that; it is read no faster.
    pub bytes_per_sec: u32,
    /// Pings, pongs and other control frames that a peer may send at once.
    pub burst_controls: u32,
    /// Control frames per second that a peer may send after that; more is a flood.
    pub controls_per_sec: u32,
    /// A write that makes no progress for this long ends the connection.
    #[serde(with = "runtime::config::duration")]
    pub write_stall: Duration,
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: limits::FRAME_BYTES,
            read_buffer_bytes: 1024,
            write_buffer_bytes: 4 * 1024,
            burst_bytes: 256 * 1024,
            bytes_per_sec: 64 * 1024,
            burst_controls: 30,
            controls_per_sec: 2,
            write_stall: limits::WRITE_STALL,
        }
    }
}

impl SocketConfig {
    fn library(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(self.read_buffer_bytes)
            .write_buffer_size(self.write_buffer_bytes)
            .max_write_buffer_size(self.write_buffer_bytes + 4 * self.max_message_bytes)
            .max_message_size(Some(self.max_message_bytes))
            .max_frame_size(Some(self.max_message_bytes))
    }
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping (already answered) or a pong.
    Control,
}

/// Why nothing more arrives or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// The peer closed, with that number if it gave one. The answer is the library's.
    #[error("closed by the peer")]
    Closed(Option<u16>),
    /// The peer broke a rule: close with that code.
    #[error("the peer violated the protocol")]
    Violation(CloseCode),
    /// A write made no progress for too long.
    #[error("the peer does not read")]
    Stalled,
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
}

/// A server's WebSocket over any byte stream.
#[derive(Debug)]
pub struct Socket<IO> {
    stream: WebSocketStream<Metered<IO>>,
    controls: Bucket,
    clock: Clock,
    write_stall: Duration,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Socket<IO> {
    /// Takes over `io` after the upgrade; `early` is what was read behind the request.
    pub async fn new(io: IO, early: Vec<u8>, config: &SocketConfig, clock: Clock) -> Self {
        let now = clock.now();
        let io = Metered::new(io, config, clock.clone());
        let library = Some(config.library());
        let stream = if early.is_empty() {
            WebSocketStream::from_raw_socket(io, Role::Server, library).await
        } else {
            WebSocketStream::from_partially_read(io, early, Role::Server, library).await
        };
        let controls = Bucket::new(config.burst_controls, config.controls_per_sec, now);
        Self { stream, controls, clock, write_stall: config.write_stall }
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// See [`SocketError`]; nothing follows one.
    pub async fn next(&mut self) -> Result<Incoming, SocketError> {
        let Some(message) = self.stream.next().await else {
            return Err(SocketError::Closed(None));
        };
        match message.map_err(|error| judge(&error))? {
            Message::Text(text) => {
                self.stream.get_mut().message_complete();
                Ok(Incoming::Text(text))
            }
            Message::Binary(bytes) => {
                self.stream.get_mut().message_complete();
                Ok(Incoming::Binary(bytes))
            }
            Message::Ping(payload) | Message::Pong(payload) => self.control(payload.len()),
            Message::Close(frame) => {
                Err(SocketError::Closed(frame.map(|frame| u16::from(frame.code))))
            }
            Message::Frame(_) => Err(SocketError::Violation(CloseCode::Internal)),
        }
    }

    fn control(&mut self, payload: usize) -> Result<Incoming, SocketError> {
        self.stream.get_mut().control_complete(payload + FRAME_OVERHEAD);
        if self.controls.take(1, self.clock.now()) {
            Ok(Incoming::Control)
        } else {
            Err(SocketError::Violation(CloseCode::Flood))
        }
    }

    /// Queues a text message; [`flush`](Self::flush) sends what is queued.
    ///
    /// # Errors
    /// As [`flush`](Self::flush), since a full buffer has to make room first.
    pub async fn feed_text(&mut self, text: String) -> Result<(), SocketError> {
        self.feed(Message::text(text)).await
    }

    /// Queues a binary message.
    ///
    /// # Errors
    /// As [`feed_text`](Self::feed_text).
    pub async fn feed_binary(&mut self, bytes: Bytes) -> Result<(), SocketError> {
        self.feed(Message::Binary(bytes)).await
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// As [`feed_text`](Self::feed_text).
    pub async fn feed_ping(&mut self) -> Result<(), SocketError> {
        self.feed(Message::Ping(Bytes::new())).await
    }

    async fn feed(&mut self, message: Message) -> Result<(), SocketError> {
        self.progress(Step::Ready).await?;
        self.stream.start_send_unpin(message).map_err(|error| judge(&error))
    }

    /// Sends what is queued, as long as the peer takes a byte now and then.
    ///
    /// # Errors
    /// [`SocketError::Stalled`] or [`SocketError::Lost`].
    pub async fn flush(&mut self) -> Result<(), SocketError> {
        self.progress(Step::Flush).await
    }

    /// Waits for a step of the sink, and gives up when no byte leaves within `write_stall`.
    async fn progress(&mut self, step: Step) -> Result<(), SocketError> {
        // What the layers below take over at once is no word of the peer.
        if let Some(outcome) = self.attempt(step).now_or_never() {
            return outcome;
        }
        let mut written = self.stream.get_ref().written();
        let stall = self.write_stall;
        #[cfg(feature = "planted-bugs")]
        let stall = protocol::planted::limit(protocol::planted::Bug::EndlessWrite, stall);
        loop {
            match timeout(stall, self.attempt(step)).await {
                Ok(outcome) => return outcome,
                Err(_) if self.stream.get_ref().written() != written => {
                    written = self.stream.get_ref().written();
                }
                Err(_) => return Err(SocketError::Stalled),
            }
        }
    }

    async fn attempt(&mut self, step: Step) -> Result<(), SocketError> {
        let stream = &mut self.stream;
        let attempt = poll_fn(|context| match step {
            Step::Ready => stream.poll_ready_unpin(context),
            Step::Flush => stream.poll_flush_unpin(context),
        });
        attempt.await.map_err(|error| judge(&error))
    }

    /// Closes with a code and lets the peer read it, within a bounded time. Nothing may be
    /// asked of the socket afterwards.
    pub async fn close(&mut self, code: CloseCode) {
        let frame =
            CloseFrame { code: WireCode::from(code.number()), reason: code.as_str().into() };
        let orderly = async {
            // A peer that is gone does not need the frame.
            drop(self.stream.close(Some(frame)).await);
            self.part().await;
        };
        drop(timeout(close_limit(), orderly).await);
    }

    /// Sends the library's answer to the peer's close, within a bounded time. Nothing may be
    /// asked of the socket afterwards.
    pub async fn finish(&mut self) {
        let orderly = async {
            drop(self.stream.flush().await);
            self.part().await;
        };
        drop(timeout(close_limit(), orderly).await);
    }

    /// Says goodbye below the WebSocket, and reads what is still under way.
    async fn part(&mut self) {
        let io = self.stream.get_mut().get_mut();
        if io.shutdown().await.is_err() {
            return;
        }
        let mut scrap = vec![0; 4096];
        let mut left = CLOSE_BYTES;
        while left > 0 {
            match io.read(&mut scrap).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }
}

fn close_limit() -> Duration {
    #[cfg(feature = "planted-bugs")]
    return protocol::planted::limit(protocol::planted::Bug::EndlessClose, CLOSE_TIMEOUT);
    #[cfg(not(feature = "planted-bugs"))]
    CLOSE_TIMEOUT
}

#[derive(Clone, Copy)]
enum Step {
    Ready,
    Flush,
}

/// What a failure of the library means to the peer.
fn judge(error: &WsError) -> SocketError {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => SocketError::Closed(None),
        WsError::Io(error) if Flooded::caused(error) => SocketError::Violation(CloseCode::Flood),
        WsError::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
            | tokio_tungstenite::tungstenite::error::ProtocolError::SendAfterClosing,
        )
        | WsError::Io(_)
        | WsError::Tls(_) => SocketError::Lost,
        WsError::Capacity(_) => SocketError::Violation(CloseCode::TooBig),
        WsError::Utf8(_) => SocketError::Violation(CloseCode::NotUtf8),
        WsError::WriteBufferFull(_) => SocketError::Violation(CloseCode::Slow),
        WsError::Protocol(_) | WsError::AttackAttempt => {
            SocketError::Violation(CloseCode::Protocol)
        }
        WsError::Url(_) | WsError::Http(_) | WsError::HttpFormat(_) => {
            SocketError::Violation(CloseCode::Internal)
        }
    }
}
