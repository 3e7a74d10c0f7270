//! A request body that is limited in bytes and in time.
//!
//! A body that arrives one byte per minute is never idle, so it needs a deadline of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Limited;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Fails with `LengthLimitError` beyond its size, and with `TimedOut` after its deadline.
pub(super) struct TimedBody {
    inner: Limited<Incoming>,
    deadline: Pin<Box<Sleep>>,
}

impl TimedBody {
    pub(super) fn new(body: Incoming, max_bytes: usize, timeout: Duration) -> Self {
        let inner = Limited::new(body, max_bytes);
        Self { inner, deadline: Box::pin(tokio::time::sleep(timeout)) }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "request body took too long");
        self.deadline.as_mut().poll(context).map(|()| Some(Err(timed_out().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
