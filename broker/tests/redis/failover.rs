//! Sentinel moves the primary, and the bus goes with it.

use broker::RedisConfig;
use broker::fixture::{RedisServer, Sentinels, until};
use broker::redis::RedisMode;

use crate::support::{again, config, connected, delivers, fails, lease, subscribed, works};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_killed_primary_is_followed_by_the_one_that_sentinel_promotes() {
    let mut watched = Watched::start();
    let broker = connected(watched.config()).await;
    delivers(&broker, &lease("hub-a", 1)).await;
    watched.first.kill();
    watched.sentinels.lose_patience();
    fails(&*broker).await;
    works(&*broker).await;
    until("most sentinels know it", || watched.sentinels.primary() == watched.second.port());
    delivers(&broker, &lease("hub-a", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_planned_failover_ends_subscriptions_and_moves_them() {
    let watched = Watched::start();
    let broker = connected(watched.config()).await;
    let lease = lease("hub-a", 1);
    let mut subscription = again("it joins", async || subscribed(&broker, &lease).await).await;
    watched.sentinels.fail_over();
    // The demoted server keeps its sockets; the subscription must not rest on them.
    assert_eq!(subscription.next().await, None);
    works(&*broker).await;
    until("the sentinels agree", || watched.sentinels.primary() == watched.second.port());
    delivers(&broker, &lease).await;
}
