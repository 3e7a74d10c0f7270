//! Tests of the meter's arithmetic, and of time that a test makes. What peers see is tested over real sockets in `tests/`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use runtime::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Bucket, Socket, SocketConfig, SocketError};

#[test]
fn bucket_gives_its_burst_and_then_its_rate() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(3, 2, clock.now());
    let mut take = || bucket.take(1, clock.now());
    assert_eq!([take(), take(), take(), take()], [true, true, true, false]);
    hand.advance(Duration::from_millis(500));
    assert_eq!([take(), take()], [true, false]);
    hand.advance(Duration::from_secs(3600));
    assert_eq!([take(), take(), take(), take()], [true, true, true, false]);
}

#[test]
fn debt_is_paid_back_before_more_is_given() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(10, 10, clock.now());
    assert!(bucket.take(30, clock.now()));
    hand.advance(Duration::from_secs(2));
    assert!(!bucket.take(1, clock.now()));
    hand.advance(Duration::from_millis(100));
    assert!(bucket.take(1, clock.now()));
}

#[test]
fn frequent_looks_do_not_lose_parts_of_a_token() {
    let (clock, hand) = Clock::manual();
    let mut bucket = Bucket::new(1000, 3, clock.now());
    assert!(bucket.take(1000, clock.now()));
    let mut given = 0;
    for _ in 0..10_000 {
        hand.advance(Duration::from_millis(1));
        given += u32::from(bucket.take(1, clock.now()));
    }
    assert_eq!(given, 30);
}

/// Takes over what is written, as TLS does, and never gets rid of it.
struct Hoard;

impl AsyncRead for Hoard {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Hoard {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_tls_takes_over_does_not_put_the_end_of_a_stalled_write_off() {
    let (clock, config) = (Clock::of_runtime(0), SocketConfig::default());
    let mut socket = Socket::new(Hoard, Vec::new(), &config, clock.clone()).await;
    let began = clock.now();
    socket.feed_text("a command".to_owned()).await.expect("there is room");
    assert_eq!(socket.flush().await, Err(SocketError::Stalled));
    let took = clock.now() - began;
    let moment = Duration::from_secs(1);
    assert!(took >= config.write_stall && took < config.write_stall + moment, "{took:?}");
}
