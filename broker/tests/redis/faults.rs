//! Servers that die, stop, lie or are cut off: noticed, and left behind when they are back.

use std::sync::Arc;
use std::time::Duration;

use broker::fixture::{RedisCluster, RedisServer, until};
use broker::redis::RedisMode;
use broker::{Broker, BrokerError, RedisBroker, RedisConfig, Subscription};
use runtime::fixture::{Link, Relay};

use crate::support::{
    again, config, connect, connected, delivers, device, fails, hasty, lease, presence, subscribed,
    works,
};

/// Long enough for the bus to have looked for its server several times.
const SEVERAL_ATTEMPTS: Duration = Duration::from_secs(4);

/// A hub's part: lease, subscription, and a session.
async fn joined(broker: &RedisBroker) -> Box<dyn Subscription> {
    let lease = lease("hub-a", 1);
    let joining = async || {
        let subscription = subscribed(broker, &lease).await?;
        broker.arrive(device(1), presence(&lease, 1)).await?;
        Ok(subscription)
    };
    again("it joins", joining).await
}

/// Everything works as if nothing had been.
async fn works_again(broker: &Arc<RedisBroker>) {
    let lease = lease("hub-a", 1);
    delivers(broker, &lease).await;
    let here = presence(&lease, 1);
    let restoring = async || {
        broker.renew_lease(&lease).await?;
        broker.restore(&[(device(1), here.clone())]).await?;
        match &broker.locate(&[device(1)]).await?[..] {
            [Some(found)] if *found == here => Ok(()),
            _ => Err(BrokerError::Unavailable),
        }
    };
    again("presence is there again", restoring).await;
    works(&**broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_bus_is_made_without_a_server_and_finds_it_later() {
    let mut server = RedisServer::start();
    server.kill();
    let broker = connect(config(vec![server.url()]));
    let refused = broker.renew_lease(&lease("hub-a", 1)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable)), "{refused:?}");
    server.restart();
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_killed_server_that_comes_back_empty_serves_again() {
    let mut server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let mut subscription = joined(&broker).await;
    server.kill();
    assert_eq!(subscription.next().await, None);
    fails(&*broker).await;
    server.restart();
    works(&*broker).await;
    assert_eq!(broker.locate(&[device(1)]).await.unwrap(), [None], "it has forgotten everything");
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_reader_ends_with_its_server_and_the_next_one_reads() {
    let mut server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let mut reader = broker.read_upstream().await.unwrap();
    server.kill();
    assert!(matches!(reader.next().await, Err(BrokerError::Unavailable)));
    server.restart();
    works(&*broker).await;
    let mut reader = broker.read_upstream().await.unwrap();
    let message = broker::Upstream {
        device: device(1),
        generation: 1,
        hub: "hub-a".parse().unwrap(),
        session: crate::support::session(1),
        frame: protocol::frame::AgentFrame::Sync { last_seq: Default::default() },
    };
    broker.send_upstream(vec![message.clone()]).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), [message]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_cluster_that_lost_a_node_is_away_until_the_node_is_back() {
    let mut cluster = RedisCluster::start();
    let settings = RedisConfig { mode: RedisMode::Cluster, ..config(cluster.urls()) };
    let broker = connected(settings).await;
    let mut subscription = joined(&broker).await;
    cluster.nodes[0].kill();
    assert_eq!(subscription.next().await, None);
    fails(&*broker).await;
    cluster.nodes[0].restart();
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_flushed_server_is_served_without_a_new_connection() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let _subscription = joined(&broker).await;
    let mut reader = broker.read_upstream().await.unwrap();
    server.ask(&["FLUSHALL"]);
    // The scripts are gone too, which is noticed by itself.
    server.ask(&["SCRIPT", "FLUSH"]);
    works_again(&broker).await;
    drop(reader.next());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_cable_that_is_cut_without_a_word_is_noticed() {
    let server = RedisServer::start();
    let cable = Relay::to(server.port()).await;
    let broker = hasty(config(vec![format!("redis://{}", cable.addr)])).await;
    let mut subscription = joined(&broker).await;
    cable.set(Link::Frozen);
    assert_eq!(subscription.next().await, None);
    fails(&*broker).await;
    cable.set(Link::Open);
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_demoted_server_that_keeps_its_sockets_is_noticed() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let broker = connected(config(vec![server.url()])).await;
    let mut subscription = joined(&broker).await;
    let pid = server.pid();
    server.follow(&other);
    assert_eq!(subscription.next().await, None);
    fails(&*broker).await;
    // It answers again, as a replica does: that is not enough.
    until("the replica is in step", || {
        server.ask(&["ROLE"]).items().get(3).is_some_and(|state| state.text() == "connected")
    });
    let taken = tokio::time::timeout(SEVERAL_ATTEMPTS, works(&*broker)).await;
    assert!(taken.is_err(), "a replica is taken for a primary");
    assert_eq!(server.pid(), pid);
    server.promote();
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_primary_among_several_addresses_is_found() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    first.follow(&second);
    let broker = connected(config(vec![first.url(), second.url()])).await;
    let mut subscription = joined(&broker).await;
    first.promote();
    second.follow(&first);
    assert_eq!(subscription.next().await, None);
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_server_that_stops_in_its_tracks_is_noticed_and_taken_back() {
    let server = RedisServer::start();
    let broker = hasty(config(vec![server.url()])).await;
    let mut subscription = joined(&broker).await;
    server.pause();
    assert_eq!(subscription.next().await, None);
    fails(&*broker).await;
    server.resume();
    works_again(&broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_subscriptions_that_end_again_and_again_have_a_budget() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-a", 1);
    let mut granted = 0;
    let refused = loop {
        broker.renew_lease(&lease).await.unwrap();
        match broker.subscribe(&lease).await {
            Ok(mut subscription) => {
                granted += 1;
                server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                assert_eq!(subscription.next().await, None);
            }
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, BrokerError::Unavailable), "{refused:?}");
    assert!(granted > 1, "one is no budget");
    broker.probe().await.unwrap();
    // Liveness: there is room again by itself.
    again("a further one is granted", async || subscribed(&broker, &lease).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_subscriber_that_was_kicked_knows_and_comes_back() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let mut subscription = joined(&broker).await;
    assert!(server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).number() > 0);
    assert_eq!(subscription.next().await, None);
    works_again(&broker).await;
}
