//! A request body that is limited in bytes and in time.
//!
//! A body that arrives one byte per minute is never idle, so it needs a deadline of its own. Where a
//! link may be slow, what has arrived moves it: by as long as that takes on the slowest one.

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Limited;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Fails with `LengthLimitError` beyond its size, and with `TimedOut` after its deadline.
pub(super) struct TimedBody<B> {
    inner: Limited<B>,
    deadline: Pin<Box<Sleep>>,
    /// Until when it takes on the slowest link what has arrived.
    until: Instant,
    slowest: Option<NonZeroU32>,
}

impl<B> TimedBody<B> {
    /// With so much time, and more for each byte where a link may carry so few in a second.
    pub(super) fn new(
        body: B,
        max_bytes: usize,
        timeout: Duration,
        slowest: Option<NonZeroU32>,
    ) -> Self {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let until = deadline.deadline();
        Self { inner: Limited::new(body, max_bytes), deadline, until, slowest }
    }

    fn arrived(&mut self, bytes: usize) {
        let Some(slowest) = self.slowest else { return };
        let micros = (bytes as u64).saturating_mul(1_000_000) / u64::from(slowest.get());
        self.until += Duration::from_micros(micros);
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref))
            {
                self.arrived(data.map_or(0, Bytes::len));
            }
            return Poll::Ready(frame);
        }
        loop {
            std::task::ready!(self.deadline.as_mut().poll(context));
            if self.until <= self.deadline.deadline() {
                let why = "request body took too long";
                let timed_out = io::Error::new(io::ErrorKind::TimedOut, why);
                return Poll::Ready(Some(Err(timed_out.into())));
            }
            let until = self.until;
            self.deadline.as_mut().reset(until);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt as _;
    use tokio::time::sleep;

    use super::*;

    /// Pieces of 1000 bytes, each after its pause.
    struct Slow(VecDeque<Duration>, Option<Pin<Box<Sleep>>>);

    impl Body for Slow {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let Some(pause) = self.0.front().copied() else { return Poll::Ready(None) };
            let waiting = self.1.get_or_insert_with(|| Box::pin(sleep(pause)));
            std::task::ready!(waiting.as_mut().poll(context));
            (self.1, _) = (None, self.0.pop_front());
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 1000])))))
        }
    }

    async fn arrives(secs: &[u64], slowest: u32) -> bool {
        let pauses = secs.iter().copied().map(Duration::from_secs).collect();
        let (slow, timeout) = (Slow(pauses, None), Duration::from_secs(30));
        let body = TimedBody::new(slow, 1_000_000, timeout, NonZeroU32::new(slowest));
        body.collect().await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn body_on_a_slow_link_has_the_time_that_its_bytes_take_there() {
        assert!(arrives(&[9; 3], 0).await);
        assert!(!arrives(&[9; 4], 0).await, "30 s are over");
        // 1000 bytes in 9 s, where a link carries 100 in one: each moves the end by 10 s.
        assert!(arrives(&[9; 100], 100).await);
        assert!(!arrives(&[9, 9, 9, 61], 100).await, "silence moves nothing");
        assert!(!arrives(&[12; 100], 100).await, "slower than the slowest");
    }
}
