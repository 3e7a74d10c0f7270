//! A Redis in which somebody else writes: what is not ours is skipped, and nothing panics.

use broker::fixture::RedisServer;
use broker::{Broker, Downstream};
use protocol::frame::AgentFrame;

use crate::support::{config, connected, device, hub, lease, presence, revoke, session};

/// What no part of the program writes.
const GARBAGE: [&str; 8] =
    ["", "x", "d", "d{}", "d[1,2]", "n", "d[{\"deliver\":{\"device\":1}}]", "\u{0}\u{1}\u{2}"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_broker_with_garbage_on_a_channel_is_skipped() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-a", 1);
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    for garbage in GARBAGE {
        for channel in ["tocsin:hub:{hub-a}", "tocsin:peer:{hub-a}", "tocsin:probe:{hub-a}"] {
            assert_eq!(server.ask(&["PUBLISH", channel, garbage]).number(), 1);
        }
    }
    broker.probe().await.unwrap();
    broker.publish(&lease.hub, vec![revoke(1)]).await.unwrap();
    assert_eq!(subscription.next().await, Some(revoke(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hub_can_say_no_more_to_another_than_that_a_session_is_over() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-a", 1);
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    let over = Downstream::Replaced { device: device(1), session: session(1) };
    let both = serde_json::to_string(&[revoke(1), over.clone()]).unwrap();
    server.ask(&["PUBLISH", "tocsin:peer:{hub-a}", &format!("d{both}")]);
    assert_eq!(subscription.next().await, Some(over));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hub_with_garbage_in_the_upstream_is_skipped_and_forgotten() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    for garbage in GARBAGE {
        server.ask(&["XADD", "tocsin:upstream", "*", "m", garbage]);
        server.ask(&["XADD", "tocsin:upstream", "*", "other", garbage]);
    }
    let message = broker::Upstream {
        device: device(1),
        generation: 1,
        hub: hub("hub-a"),
        session: session(1),
        frame: AgentFrame::Ack { command_id: protocol::fixture::command(1) },
    };
    broker.send_upstream(vec![message.clone()]).await.unwrap();
    let mut reader = broker.read_upstream().await.unwrap();
    assert_eq!(reader.next().await.unwrap(), [message]);
    reader.acknowledge().await.unwrap();
    assert_eq!(server.ask(&["XLEN", "tocsin:upstream"]).number(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hub_with_garbage_in_presence_is_nobody_and_is_overwritten() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-a", 1);
    broker.renew_lease(&lease).await.unwrap();
    broker.arrive(device(1), presence(&lease, 1)).await.unwrap();
    let keys = server.ask(&["KEYS", "tocsin:presence:*"]);
    let bucket = keys.items()[0].text();
    for garbage in ["", "x", &"\u{7f}".repeat(31), &"z".repeat(500)] {
        let script = "for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do \
                      redis.call('HSET', KEYS[1], f, ARGV[1]) end";
        server.ask(&["EVAL", script, "1", &bucket, garbage]);
        assert_eq!(broker.locate(&[device(1)]).await.unwrap(), [None]);
        let arrival = broker.arrive(device(1), presence(&lease, 1)).await.unwrap();
        assert_eq!(arrival, broker::Arrival::QUIET);
        assert_eq!(broker.locate(&[device(1)]).await.unwrap(), [Some(presence(&lease, 1))]);
    }
    server.ask(&["SET", "tocsin:lease:hub-a", "short"]);
    assert_eq!(broker.locate(&[device(1)]).await.unwrap(), [None]);
    assert_eq!(broker.hubs().await.unwrap(), []);
}
