//! A bus on a server of the test's own, and power over its time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker::contract::Harness;
use broker::fixture::{GUARD, RedisServer, Reply};
use broker::redis::RedisMode;
use broker::{
    Broker, BrokerError, Downstream, HubLease, Presence, RedisBroker, RedisConfig, Subscription,
};
use protocol::fixture;
use protocol::id::{DeviceId, HubId, SessionId};
use runtime::{Clock, Entropy};
use tokio::time::timeout;

/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// A bus on those servers. It gives up late: whether a server answers soon is not what is tested.
pub(crate) fn connect(config: RedisConfig) -> Arc<RedisBroker> {
    let broker = RedisBroker::connect_patiently(config, Clock::system(), Entropy::system());
    Arc::new(broker.expect("the settings are sound"))
}

/// The same, once it has found them.
pub(crate) async fn connected(config: RedisConfig) -> Arc<RedisBroker> {
    let broker = connect(config);
    works(&*broker).await;
    broker
}

/// A bus that gives up as in production, once it has found its servers: for servers that stay silent. What
/// is asked of it may fail at any time.
pub(crate) async fn hasty(config: RedisConfig) -> Arc<RedisBroker> {
    let broker = RedisBroker::connect(config, Clock::system(), Entropy::system());
    let broker = Arc::new(broker.expect("the settings are sound"));
    works(&*broker).await;
    broker
}

/// Waits until the bus delivers.
pub(crate) async fn works(broker: &dyn Broker) {
    let working = async {
        while broker.probe().await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(GUARD, working).await.expect("the bus delivers");
}

/// Waits until the bus says that it does not deliver.
pub(crate) async fn fails(broker: &dyn Broker) {
    let failing = async {
        while broker.probe().await.is_ok() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(GUARD, failing).await.expect("the loss is noticed");
}

/// Asks again and again: what is lost may be noticed only now, and a lease runs out meanwhile.
pub(crate) async fn again<T>(what: &str, asked: impl AsyncFn() -> Result<T, BrokerError>) -> T {
    let asking = async {
        loop {
            match asked().await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    timeout(GUARD, asking).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Renews the lease and subscribes under it.
pub(crate) async fn subscribed(
    broker: &RedisBroker,
    lease: &HubLease,
) -> Result<Box<dyn Subscription>, BrokerError> {
    broker.renew_lease(lease).await?;
    broker.subscribe(lease).await
}

/// A hub takes its lease anew, and hears what it is told.
pub(crate) async fn delivers(broker: &RedisBroker, lease: &HubLease) {
    works(broker).await;
    let hears = async || {
        let mut subscription = subscribed(broker, lease).await?;
        match broker.publish(&lease.hub, vec![revoke(1)]).await? {
            1 if subscription.next().await == Some(revoke(1)) => Ok(()),
            _ => Err(BrokerError::Unavailable),
        }
    };
    again("it hears what it is told", hears).await;
}

pub(crate) fn config(urls: Vec<String>) -> RedisConfig {
    RedisConfig { urls, ..RedisConfig::default() }
}

pub(crate) fn hub(name: &str) -> HubId {
    name.parse().unwrap()
}

/// The lease of that incarnation of a hub.
pub(crate) fn lease(name: &str, incarnation: u8) -> HubLease {
    HubLease { hub: hub(name), incarnation: session(incarnation) }
}

pub(crate) fn session(number: u8) -> SessionId {
    fixture::session(number)
}

pub(crate) fn device(number: u8) -> DeviceId {
    fixture::device(number)
}

pub(crate) fn presence(lease: &HubLease, number: u8) -> Presence {
    Presence::new(lease, session(number), u64::from(number))
}

pub(crate) fn revoke(number: u8) -> Downstream {
    Downstream::Revoke { device: device(number), through_generation: 1 }
}

/// A bus on servers that die with the test.
pub(crate) struct OnRedis {
    pub(crate) servers: Vec<RedisServer>,
    pub(crate) mode: RedisMode,
}

#[async_trait]
impl Harness for OnRedis {
    async fn broker(&self) -> Arc<dyn Broker> {
        let urls = self.servers.iter().map(RedisServer::url).collect();
        // The smallest upstream there may be: filling it is a part of the contract.
        connected(RedisConfig { mode: self.mode, upstream: 1000, ..config(urls) }).await
    }

    async fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap();
        for server in &self.servers {
            age_leases(server, by);
            age_readers(server, by);
        }
    }
}

/// Lets leases run out sooner.
fn age_leases(server: &RedisServer, by: i64) {
    for key in server.ask(&["KEYS", "tocsin:lease:*"]).items() {
        let key = key.text();
        let left = server.ask(&["PTTL", &key]).number() - by;
        match left {
            1.. => server.ask(&["PEXPIRE", &key, &left.to_string()]),
            _ => server.ask(&["DEL", &key]),
        };
    }
}

/// Makes what readers hold look older.
fn age_readers(server: &RedisServer, by: i64) {
    let question = ["XPENDING", "tocsin:upstream", "api", "-", "+", "100000"];
    // On most nodes of a cluster the stream is not.
    let Reply::List(pending) = server.try_ask(&question) else { return };
    for entry in pending {
        let [id, reader, idle, _] = entry.items() else { panic!("{entry:?}") };
        let (id, reader, idle) = (id.text(), reader.text(), (idle.number() + by).to_string());
        server.ask(&[
            "XCLAIM",
            "tocsin:upstream",
            "api",
            &reader,
            "0",
            &id,
            "IDLE",
            &idle,
            "JUSTID",
        ]);
    }
}
