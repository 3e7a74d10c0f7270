//! Clauses about the way from the hubs to the control plane.
#![expect(missing_docs, reason = "the names of the clauses are sentences")]

use std::future::Future;
use std::ops::Range;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Harness, soon, up};
use crate::{BATCH, Broker, BrokerError, Upstream, UpstreamReader};

/// Longer than any implementation waits before it takes messages from a silent reader.
const READER_LAPSE: Duration = Duration::from_secs(3600);
/// More than any implementation may hold unread.
const MORE_BATCHES_THAN_FIT: u64 = 1000;

async fn send(broker: &dyn Broker, messages: Range<u64>) {
    broker.send_upstream(messages.map(up).collect()).await.expect("there is room");
}

async fn reader(broker: &dyn Broker) -> Box<dyn UpstreamReader> {
    broker.read_upstream().await.expect("the broker takes readers")
}

async fn batch(reader: &mut Box<dyn UpstreamReader>) -> Vec<Upstream> {
    let batch = soon(reader.next()).await.expect("the broker answers");
    assert!((1..=BATCH).contains(&batch.len()), "{} messages in a batch", batch.len());
    batch
}

/// Reads until that many messages came.
async fn read(reader: &mut Box<dyn UpstreamReader>, count: usize) -> Vec<Upstream> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.extend(batch(reader).await);
    }
    messages
}

fn ups(messages: Range<u64>) -> Vec<Upstream> {
    messages.map(up).collect()
}

/// Without order or doubles, as a control plane that looks into its store would have them.
fn distinct(mut messages: Vec<Upstream>) -> Vec<Upstream> {
    messages.sort_by_key(|message| message.device);
    messages.dedup();
    messages
}

pub async fn messages_reach_a_reader_in_order(harness: &impl Harness) {
    let (broker, other) = (harness.broker().await, harness.broker().await);
    let mut reader = reader(&*other).await;
    for n in 0..10 {
        send(&*broker, n * 10..n * 10 + 10).await;
    }
    assert_eq!(read(&mut reader, 100).await, ups(0..100));
}

pub async fn messages_sent_before_a_reader_joined_are_read(harness: &impl Harness) {
    let broker = harness.broker().await;
    send(&*broker, 0..3).await;
    let mut reader = reader(&*broker).await;
    assert_eq!(read(&mut reader, 3).await, ups(0..3));
}

pub async fn each_message_goes_to_one_reader(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (mut first, mut second) = (reader(&*broker).await, reader(&*broker).await);
    send(&*broker, 0..3).await;
    let mut all = read(&mut first, 3).await;
    send(&*broker, 3..6).await;
    all.extend(read(&mut second, 3).await);
    assert_eq!(all, ups(0..6));
}

pub async fn many_readers_share_what_many_send(harness: &impl Harness) {
    const READERS: u64 = 4;
    const SENDERS: u64 = 8;
    const EACH: u64 = 100;
    let (told, mut tellings) = mpsc::channel(64);
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let mut reader = reader(&*harness.broker().await).await;
        let told = told.clone();
        readers.spawn(async move {
            loop {
                let batch = batch(&mut reader).await;
                reader.acknowledge().await.expect("the broker answers");
                told.send(batch).await.expect("the clause listens to its end");
            }
        });
    }
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let broker = harness.broker().await;
        senders.spawn(async move {
            for n in sender * EACH..(sender + 1) * EACH {
                send(&*broker, n..n + 1).await;
            }
        });
    }
    let sent = ups(0..SENDERS * EACH);
    let mut all = Vec::new();
    while all.len() < sent.len() {
        all.extend(soon(tellings.recv()).await.expect("the readers run"));
    }
    senders.join_all().await;
    all.sort_by_key(|message| message.device);
    assert_eq!(all, sent);
}

pub async fn waiting_reader_is_woken(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (mut first, mut second) = (reader(&*broker).await, reader(&*broker).await);
    let sending = async {
        send(&*broker, 0..1).await;
        send(&*broker, 1..2).await;
    };
    let reading = async {
        // Either may be served first, or one of them with both.
        tokio::select! {
            got = batch(&mut first) => got,
            got = batch(&mut second) => got,
        }
    };
    let (mut got, ()) = tokio::join!(reading, sending);
    while got.len() < 2 {
        got.extend(tokio::select! {
            more = batch(&mut first) => more,
            more = batch(&mut second) => more,
        });
    }
    assert_eq!(distinct(got), ups(0..2));
}

pub async fn unacknowledged_messages_of_a_dropped_reader_are_read_again(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (mut lost, mut other) = (reader(&*broker).await, reader(&*broker).await);
    send(&*broker, 0..5).await;
    assert_eq!(read(&mut lost, 5).await, ups(0..5));
    drop(lost);
    send(&*broker, 5..8).await;
    harness.advance(READER_LAPSE).await;
    assert_eq!(distinct(read(&mut other, 8).await), ups(0..8));
}

pub async fn waiting_readers_take_over_from_a_dropped_one(harness: &impl Harness) {
    let broker = harness.broker().await;
    let whole = BATCH as u64;
    send(&*broker, 0..whole).await;
    send(&*broker, whole..2 * whole).await;
    let mut lost = reader(&*broker).await;
    read(&mut lost, 2 * BATCH).await;
    let (mut first, mut second) = (reader(&*broker).await, reader(&*broker).await);
    let lapse = async {
        drop(lost);
        harness.advance(READER_LAPSE).await;
    };
    let (mut all, more, ()) = tokio::join!(batch(&mut first), batch(&mut second), lapse);
    all.extend(more);
    while distinct(all.clone()).len() < 2 * BATCH {
        all.extend(batch(&mut first).await);
    }
    assert_eq!(distinct(all), ups(0..2 * whole));
}

pub async fn acknowledged_messages_are_not_read_again(harness: &impl Harness) {
    let broker = harness.broker().await;
    let mut first = reader(&*broker).await;
    send(&*broker, 0..5).await;
    read(&mut first, 5).await;
    first.acknowledge().await.expect("the broker answers");
    drop(first);
    harness.advance(READER_LAPSE).await;
    send(&*broker, 5..6).await;
    let mut second = reader(&*broker).await;
    assert_eq!(batch(&mut second).await, ups(5..6));
}

pub async fn batches_are_bounded(harness: &impl Harness) {
    let broker = harness.broker().await;
    let whole = BATCH as u64;
    for n in 0..3 {
        send(&*broker, n * whole..(n + 1) * whole).await;
    }
    let mut reader = reader(&*broker).await;
    // `batch` checks the bound of each.
    assert_eq!(read(&mut reader, 3 * BATCH).await, ups(0..3 * whole));
}

pub async fn full_upstream_refuses_and_recovers(harness: &impl Harness) {
    let broker = harness.broker().await;
    let mut reader = reader(&*broker).await;
    let mut sent = 0..MORE_BATCHES_THAN_FIT;
    let fitting = loop {
        let n = sent.next().expect("an upstream that nobody reads becomes full");
        let first = n * BATCH as u64;
        match broker.send_upstream(ups(first..first + BATCH as u64)).await {
            Ok(()) => {}
            Err(BrokerError::Full) => break n,
            Err(other) => panic!("{other}"),
        }
    };
    let count = usize::try_from(fitting).expect("a small number") * BATCH;
    assert_eq!(read(&mut reader, count).await.len(), count);
    let refused = broker.send_upstream(ups(0..BATCH as u64)).await;
    assert!(matches!(refused, Err(BrokerError::Full)), "read is not acknowledged: {refused:?}");
    reader.acknowledge().await.expect("the broker answers");
    send(&*broker, 0..1).await;
    assert_eq!(batch(&mut reader).await, ups(0..1));
}

pub async fn cancelled_read_loses_nothing(harness: &impl Harness) {
    let broker = harness.broker().await;
    let mut reader = reader(&*broker).await;
    {
        let mut waiting = Box::pin(reader.next());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending), "{polled:?}");
        send(&*broker, 0..2).await;
    }
    assert_eq!(read(&mut reader, 2).await, ups(0..2));
}

pub async fn sending_too_many_at_once_is_refused(harness: &impl Harness) {
    let broker = harness.broker().await;
    let refused = broker.send_upstream(ups(0..BATCH as u64 + 1)).await;
    assert!(matches!(refused, Err(BrokerError::BatchTooBig)), "{refused:?}");
    send(&*broker, 0..1).await;
    let mut reader = reader(&*broker).await;
    assert_eq!(batch(&mut reader).await, ups(0..1));
}

/// What was taken and not acknowledged may come again, so it still waits.
pub async fn what_waits_is_counted_until_it_is_acknowledged(harness: &impl Harness) {
    let broker = harness.broker().await;
    let waiting = async || soon(broker.upstream_waiting()).await.expect("the broker answers");
    assert_eq!(waiting().await, 0);
    send(&*broker, 0..3).await;
    let one = waiting().await;
    assert!((1..=3).contains(&one), "{one}");
    send(&*broker, 3..6).await;
    assert_eq!(waiting().await, 2 * one);
    let mut reader = reader(&*broker).await;
    read(&mut reader, 6).await;
    assert_eq!(waiting().await, 2 * one);
    reader.acknowledge().await.expect("the broker answers");
    assert_eq!(waiting().await, 0);
}
