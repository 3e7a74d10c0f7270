//! The byte meter under the WebSocket layer.
//!
//! Owns how fast a peer is read and how much it may send without finishing a message. The
//! library above never surfaces empty continuation frames: only here can they be noticed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use runtime::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::SocketConfig;

/// How long a peer that is over its budget is not read at a time.
const PAUSE: Duration = Duration::from_millis(100);

/// A token bucket: 24 bytes, since every connection has some.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    burst: u32,
    per_sec: u32,
    /// May be in debt: the last read may have taken more than was there.
    tokens: i32,
    filled_at: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: u32, per_sec: u32, now: Instant) -> Self {
        let burst = burst.min(i32::MAX.unsigned_abs());
        Self { burst, per_sec, tokens: burst.cast_signed(), filled_at: now }
    }

    /// Takes what is there, and says whether it was enough.
    pub(crate) fn take(&mut self, count: u32, now: Instant) -> bool {
        self.refill(now);
        if self.tokens <= 0 {
            return false;
        }
        self.spend(count);
        true
    }

    fn is_empty(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens <= 0
    }

    fn spend(&mut self, count: u32) {
        self.tokens = self.tokens.saturating_sub_unsigned(count);
    }

    /// Adds the tokens of the time since the last call, and keeps the part of a token that is
    /// left by moving the mark only as far as whole tokens reach.
    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let earned = micros.saturating_mul(u64::from(self.per_sec)) / 1_000_000;
        if earned == 0 {
            return;
        }
        let room = i64::from(self.burst) - i64::from(self.tokens);
        if i64::try_from(earned).is_ok_and(|earned| earned < room) {
            let whole = earned * 1_000_000 / u64::from(self.per_sec);
            self.filled_at += Duration::from_micros(whole);
            let earned = u32::try_from(earned).unwrap_or(self.burst);
            self.tokens = self.tokens.saturating_add_unsigned(earned);
        } else {
            self.filled_at = now;
            self.tokens = self.burst.cast_signed();
        }
    }
}

/// More bytes than any message has, and no message.
#[derive(Debug)]
pub(super) struct Flooded;

impl Flooded {
    pub(super) fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<Self>())
    }
}

impl fmt::Display for Flooded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("bytes without a message")
    }
}

impl std::error::Error for Flooded {}

/// A byte stream that is read no faster than its budget, and whose peer has to make sense.
#[derive(Debug)]
pub(super) struct Metered<IO> {
    io: IO,
    clock: Clock,
    budget: Bucket,
    /// Bytes read since the last whole message.
    unfinished: usize,
    max_unfinished: usize,
    /// Bytes written, wrapping: only compared for being equal.
    written: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<IO> Metered<IO> {
    pub(super) fn new(io: IO, config: &SocketConfig, clock: Clock) -> Self {
        let budget = Bucket::new(config.burst_bytes, config.bytes_per_sec, clock.now());
        Self {
            io,
            clock,
            budget,
            unfinished: 0,
            // Room for a message in fragments of a few bytes each, and for the next one that
            // came with the same read.
            max_unfinished: 2 * config.max_message_bytes + config.read_buffer_bytes,
            written: 0,
            pause: None,
        }
    }

    pub(super) fn message_complete(&mut self) {
        self.unfinished = 0;
    }

    pub(super) fn control_complete(&mut self, bytes: usize) {
        self.unfinished = self.unfinished.saturating_sub(bytes);
    }

    pub(super) fn written(&self) -> usize {
        self.written
    }

    pub(super) fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Waits while the budget is spent.
    fn poll_budget(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if !self.budget.is_empty(self.clock.now()) {
                return Poll::Ready(());
            }
            self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unfinished > self.max_unfinished {
            return Poll::Ready(Err(io::Error::other(Flooded)));
        }
        ready!(self.poll_budget(context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let count = buffer.filled().len() - before;
        self.unfinished += count;
        self.budget.spend(u32::try_from(count).unwrap_or(u32::MAX));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(context, bytes))?;
        self.written = self.written.wrapping_add(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
