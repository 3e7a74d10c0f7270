//! Clauses about the channels from the control plane to the hubs.
#![expect(missing_docs, reason = "the names of the clauses are sentences")]

use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::{Harness, down, held, hub, lease, soon};
use crate::{BATCH, Broker, BrokerError, HubLease, LEASE, Subscription};

/// More than any implementation may hold for a subscriber that does not read.
const MORE_BATCHES_THAN_FIT: u64 = 1000;

async fn subscribed(broker: &dyn Broker, lease: &HubLease) -> Box<dyn Subscription> {
    broker.subscribe(lease).await.expect("the lease is ours")
}

async fn publish(broker: &dyn Broker, name: &str, messages: impl Iterator<Item = u64>) -> usize {
    let batch = messages.map(down).collect();
    broker.publish(&hub(name), batch).await.expect("the broker takes the batch")
}

pub async fn published_messages_reach_the_subscription(harness: &impl Harness) {
    let (broker, other) = (harness.broker().await, harness.broker().await);
    let lease = held(&*broker, "hub-a", 1).await;
    let mut subscription = subscribed(&*broker, &lease).await;
    assert_eq!(publish(&*other, "hub-a", 1..=2).await, 1);
    assert_eq!(soon(subscription.next()).await, Some(down(1)));
    assert_eq!(soon(subscription.next()).await, Some(down(2)));
}

pub async fn publishing_without_subscription_reaches_nobody(harness: &impl Harness) {
    let broker = harness.broker().await;
    assert_eq!(publish(&*broker, "hub-a", 1..=1).await, 0);
    held(&*broker, "hub-a", 1).await;
    assert_eq!(publish(&*broker, "hub-a", 1..=1).await, 0, "a lease alone takes nothing");
}

pub async fn dropped_subscription_receives_nothing(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    drop(subscribed(&*broker, &lease).await);
    // Another process may need a moment to hear of it.
    soon(async {
        while publish(&*broker, "hub-a", 1..=1).await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub async fn messages_of_a_hub_keep_their_order(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let mut subscription = subscribed(&*broker, &lease).await;
    for batch in 0..100 {
        assert_eq!(publish(&*broker, "hub-a", batch * 10..batch * 10 + 10).await, 1);
    }
    for n in 0..1000 {
        assert_eq!(soon(subscription.next()).await, Some(down(n)));
    }
}

pub async fn hubs_receive_only_their_own_messages(harness: &impl Harness) {
    let broker = harness.broker().await;
    let (first, second) = (held(&*broker, "hub-a", 1).await, held(&*broker, "hub-b", 2).await);
    let mut at_first = subscribed(&*broker, &first).await;
    let mut at_second = subscribed(&*broker, &second).await;
    publish(&*broker, "hub-a", 1..=1).await;
    publish(&*broker, "hub-b", 2..=2).await;
    publish(&*broker, "hub-a", 3..=3).await;
    assert_eq!(soon(at_second.next()).await, Some(down(2)));
    assert_eq!(soon(at_first.next()).await, Some(down(1)));
    assert_eq!(soon(at_first.next()).await, Some(down(3)));
}

pub async fn newest_subscription_replaces_older(harness: &impl Harness) {
    let (broker, other) = (harness.broker().await, harness.broker().await);
    let lease = held(&*broker, "hub-a", 1).await;
    let mut older = subscribed(&*broker, &lease).await;
    let mut newer = subscribed(&*other, &lease).await;
    assert_eq!(soon(older.next()).await, None);
    assert_eq!(publish(&*broker, "hub-a", 1..=1).await, 1);
    assert_eq!(soon(newer.next()).await, Some(down(1)));
}

pub async fn subscribing_needs_the_lease(harness: &impl Harness) {
    let broker = harness.broker().await;
    let refused = broker.subscribe(&lease("hub-a", 1)).await;
    assert!(matches!(refused, Err(BrokerError::LeaseLost)), "{refused:?}");
}

pub async fn former_incarnation_cannot_subscribe(harness: &impl Harness) {
    let broker = harness.broker().await;
    let former = held(&*broker, "hub-a", 1).await;
    harness.advance(LEASE).await;
    let current = held(&*broker, "hub-a", 2).await;
    let mut subscription = subscribed(&*broker, &current).await;
    let refused = broker.subscribe(&former).await;
    assert!(matches!(refused, Err(BrokerError::LeaseLost)), "{refused:?}");
    assert_eq!(publish(&*broker, "hub-a", 1..=1).await, 1);
    assert_eq!(soon(subscription.next()).await, Some(down(1)));
}

pub async fn next_can_be_cancelled_without_loss(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let mut subscription = subscribed(&*broker, &lease).await;
    {
        let mut waiting = Box::pin(subscription.next());
        let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending), "{polled:?}");
        publish(&*broker, "hub-a", 1..=1).await;
    }
    assert_eq!(soon(subscription.next()).await, Some(down(1)));
}

pub async fn slow_subscriber_is_ended_and_can_resync(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let mut slow = subscribed(&*broker, &lease).await;
    let mut sent = 0..MORE_BATCHES_THAN_FIT;
    let refused = loop {
        let batch = sent.next().expect("a subscriber that reads nothing is ended");
        let first = batch * BATCH as u64;
        if publish(&*broker, "hub-a", first..first + BATCH as u64).await == 0 {
            break batch;
        }
    };
    // What it still gets is a beginning without a gap, then the end.
    let mut expected = 0;
    while let Some(message) = soon(slow.next()).await {
        assert_eq!(message, down(expected));
        expected += 1;
    }
    assert!(expected <= refused * BATCH as u64, "a message was taken that was not delivered");
    // So much takes its time, and the lease may have run out meanwhile.
    broker.renew_lease(&lease).await.expect("nobody else took it");
    let mut again = subscribed(&*broker, &lease).await;
    assert_eq!(publish(&*broker, "hub-a", 1..=1).await, 1);
    assert_eq!(soon(again.next()).await, Some(down(1)));
}

pub async fn publishing_too_many_at_once_is_refused(harness: &impl Harness) {
    let broker = harness.broker().await;
    let lease = held(&*broker, "hub-a", 1).await;
    let mut subscription = subscribed(&*broker, &lease).await;
    let refused = broker.publish(&lease.hub, (0..=BATCH as u64).map(down).collect()).await;
    assert!(matches!(refused, Err(BrokerError::BatchTooBig)), "{refused:?}");
    publish(&*broker, "hub-a", 7..=7).await;
    assert_eq!(soon(subscription.next()).await, Some(down(7)));
}

pub async fn probe_succeeds(harness: &impl Harness) {
    soon(harness.broker().await.probe()).await.expect("the bus delivers");
}
