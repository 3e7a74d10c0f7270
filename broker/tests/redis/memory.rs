//! What a connected device costs in Redis.

use broker::fixture::RedisServer;
use broker::{BATCH, Broker, Presence};
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
    let used = || {
        let info = server.ask(&["INFO", "memory"]).text();
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|bytes| bytes.parse::<i64>().ok()).unwrap()
    };
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
