//! What devices and hubs cost in Redis.

use broker::fixture::RedisServer;
use broker::{BATCH, Broker, Downstream, Presence};
use protocol::id::DeviceId;
use runtime::Entropy;

use crate::support::{config, connected, lease, session};

/// Bytes of one device that everybody may rely on.
const BOUND: i64 = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connected_device_takes_no_more_than_its_bytes() {
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-7.berlin.example", 1);
    broker.renew_lease(&lease).await.unwrap();
    let used = || told(&server, "memory", "used_memory") as i64;
    let before = used();
    let entropy = Entropy::seeded(1);
    let now = protocol::fixture::NOW;
    let mut told = 0;
    for devices in [10_000_i64, 100_000] {
        while told < devices {
            let entry = |_| {
                let device = DeviceId::new(now, entropy.bytes());
                (device, Presence::new(&lease, session(1), now.as_millis()))
            };
            let entries: Vec<_> = (0..BATCH).map(entry).collect();
            broker.restore(&entries).await.unwrap();
            told += i64::try_from(BATCH).unwrap();
        }
        let each = (used() - before) / devices;
        println!("{devices} devices: {each} bytes each");
        assert!(each <= BOUND, "{each} bytes for each of {devices} devices");
    }
}

/// A number in a section of what the server tells of itself.
fn told(server: &RedisServer, section: &str, name: &str) -> f64 {
    let info = server.ask(&["INFO", section]).text();
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|number| number.parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_costs_what_hubs_cost_and_not_what_the_fleet_costs() {
    const ASKED: usize = 100;
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let leases = [lease("hub-a", 1), lease("hub-b", 2)];
    let mut subscriptions = Vec::new();
    for lease in &leases {
        broker.renew_lease(lease).await.unwrap();
        subscriptions.push(broker.subscribe(lease).await.unwrap());
    }
    let entropy = Entropy::seeded(1);
    let now = protocol::fixture::NOW;
    let mut devices = Vec::new();
    let mut costs = Vec::new();
    for fleet in [1_000, 20_000] {
        while devices.len() < fleet {
            let entry = |n: usize| {
                let device = DeviceId::new(now, entropy.bytes());
                (device, Presence::new(&leases[n % 2], session(1), now.as_millis()))
            };
            let entries: Vec<_> = (0..BATCH).map(entry).collect();
            broker.restore(&entries).await.unwrap();
            devices.extend(entries.into_iter().map(|(device, _)| device));
        }
        let channels = server.ask(&["PUBSUB", "CHANNELS"]);
        assert_eq!(channels.items().len(), 3 * leases.len(), "{channels:?}");
        let calls = |name: &str| {
            let line = server.ask(&["INFO", "commandstats"]).text();
            let line = line.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            line.map_or(0, |line| {
                let count =
                    line.trim_start_matches(":calls=").split(',').next().unwrap().to_owned();
                count.parse::<usize>().unwrap()
            })
        };
        let names = ["cmdstat_hget", "cmdstat_publish"];
        let before = names.map(calls);
        let places = broker.locate(&devices[..ASKED]).await.unwrap();
        for lease in &leases {
            let is_there =
                |at: &Option<Presence>| at.as_ref().is_some_and(|at| at.hub == lease.hub);
            let here = places.iter().zip(&devices).filter(|(at, _)| is_there(at));
            let batch: Vec<_> = here
                .map(|(_, device)| Downstream::Revoke { device: *device, through_generation: 1 })
                .collect();
            assert_eq!(broker.publish(&lease.hub, batch).await.unwrap(), 1);
        }
        let after = names.map(calls);
        costs.push([after[0] - before[0], after[1] - before[1]]);
    }
    // Each subscription says something to itself each second, whatever the fleet.
    let slack = 20;
    for [looked_up, published] in &costs {
        assert_eq!(*looked_up, ASKED, "{costs:?}");
        assert!(*published <= leases.len() + slack, "{costs:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_reach_a_hub_and_their_answers_the_control_plane() {
    const BATCHES: usize = 20;
    let server = RedisServer::start();
    let broker = connected(config(vec![server.url()])).await;
    let lease = lease("hub-a", 1);
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    let mut reader = broker.read_upstream().await.unwrap();
    let used = || told(&server, "cpu", "used_cpu_user") + told(&server, "cpu", "used_cpu_sys");
    let before = used();
    for _ in 0..BATCHES {
        let batch: Vec<_> = (0..BATCH).map(|_| crate::support::revoke(1)).collect();
        assert_eq!(broker.publish(&lease.hub, batch).await.unwrap(), 1);
        let answer = broker::Upstream {
            device: crate::support::device(1),
            generation: 1,
            hub: lease.hub.clone(),
            session: session(1),
            frame: protocol::frame::AgentFrame::Ack { command_id: protocol::fixture::command(1) },
        };
        for _ in 0..BATCH {
            assert!(subscription.next().await.is_some());
        }
        broker.send_upstream(vec![answer; BATCH]).await.unwrap();
        let mut read = 0;
        while read < BATCH {
            read += reader.next().await.unwrap().len();
        }
        reader.acknowledge().await.unwrap();
    }
    let each = (used() - before) / (BATCHES * BATCH) as f64 * 1e6;
    println!("{each:.1} us of Redis for a message down and one up, in full batches");
    assert_eq!(server.ask(&["XLEN", "tocsin:upstream"]).number(), 0);
}
