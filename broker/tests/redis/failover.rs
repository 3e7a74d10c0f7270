//! Sentinel moves the primary, and the bus goes with it.

use broker::fixture::{RedisServer, Sentinels, until};
use broker::redis::RedisMode;
use broker::{Broker, LeaseGrant, RedisConfig};

use crate::support::{config, connected, fails, lease, revoke, works};

/// A primary, its replica, and who watches them.
struct Watched {
    first: RedisServer,
    second: RedisServer,
    sentinels: Sentinels,
}

impl Watched {
    fn start() -> Self {
        let (first, second) = (RedisServer::start(), RedisServer::start());
        second.follow(&first);
        until("the replica is in step", || {
            second.ask(&["ROLE"]).items().get(3).is_some_and(|state| state.text() == "connected")
        });
        let sentinels = Sentinels::watch(&first, 1);
        Self { first, second, sentinels }
    }

    fn config(&self) -> RedisConfig {
        RedisConfig { mode: RedisMode::Sentinel, ..config(self.sentinels.urls()) }
    }
}

/// Takes the lease anew, subscribes, and sees that a message comes.
async fn delivers(broker: &dyn Broker, incarnation: u8) {
    let lease = lease("hub-a", incarnation);
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    assert_eq!(broker.publish(&lease.hub, vec![revoke(1)]).await.unwrap(), 1);
    assert_eq!(subscription.next().await, Some(revoke(1)));
    broker.release_lease(&lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_killed_primary_is_followed_by_the_one_that_sentinel_promotes() {
    let mut watched = Watched::start();
    let broker = connected(watched.config()).await;
    delivers(&*broker, 1).await;
    watched.first.kill();
    fails(&*broker).await;
    works(&*broker).await;
    assert_eq!(watched.sentinels.primary(), watched.second.port());
    delivers(&*broker, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_planned_failover_ends_subscriptions_and_moves_them() {
    let watched = Watched::start();
    let broker = connected(watched.config()).await;
    let lease = lease("hub-a", 1);
    assert_eq!(broker.renew_lease(&lease).await.unwrap(), LeaseGrant::Taken);
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    watched.sentinels.fail_over();
    // The demoted server keeps its sockets; the subscription must not rest on them.
    assert_eq!(subscription.next().await, None);
    works(&*broker).await;
    until("the sentinels agree", || watched.sentinels.primary() == watched.second.port());
    delivers(&*broker, 1).await;
}
