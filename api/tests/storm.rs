//! A storm of hellos costs the store one statement per batch, not one per device.
//!
//! A test binary of its own: it counts statements through the process's log.
#![expect(clippy::unwrap_used, reason = "helpers of tests stop the test as its own lines do")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{Api, Config, Deps};
use broker::{Broker, Downstream, HubLease, MemoryBroker, Upstream};
use protocol::frame::{AgentFrame, Hello};
use protocol::id::{BootId, DeviceId, SessionId};
use protocol::state::PerLane;
use protocol::time::Timestamp;
use runtime::{Clock, Drain, Entropy};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use uuid::Uuid;

const DEVICES: usize = 1000;

/// Counts statements that read the devices and what waits for them.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

struct Summary(String);

impl Visit for Summary {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "statement" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Counter {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() == "api::db::conn" {
            let mut summary = Summary(String::new());
            event.record(&mut summary);
            if summary.0.contains("SELECT d.id, d.generation") {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

fn hello(trust_version: u32) -> AgentFrame {
    AgentFrame::Hello(Hello {
        agent: "0.1.0".to_owned(),
        boot_id: BootId::from_uuid(Uuid::nil()),
        generation: 1,
        epoch: 0,
        run: None,
        last_seq: PerLane::default(),
        trust_version,
        capabilities: Vec::new(),
        degraded_since: None,
    })
}

async fn insert_devices(api: &Api, ids: &[DeviceId]) {
    let now = api.app().now();
    let mut tx = api.app().db.write(api::audit::Actor::System, now).await.unwrap();
    api::fixture::insert_devices(&mut tx, ids, None).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thousand_hellos_are_one_query() {
    let counter = Counter::default();
    let subscriber = tracing_subscriber::registry().with(counter.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = Arc::new(MemoryBroker::new(Clock::system()));
    let config = Config {
        data_dir: folder.path().join("data"),
        operator_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        agent_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        ..Config::default()
    };
    let entropy = Entropy::system();
    let deps = Deps {
        broker: broker.clone(),
        clock: Clock::system(),
        entropy: entropy.clone(),
        drain: Drain::new(),
    };
    let api = Api::start(config, deps).await.unwrap();
    let now = Timestamp::from_millis(1);
    let ids: Vec<_> = (0..DEVICES).map(|_| DeviceId::new(now, entropy.bytes())).collect();
    insert_devices(&api, &ids).await;
    let incarnation = SessionId::new(now, entropy.bytes());
    let lease = HubLease { hub: "hub-1".parse().unwrap(), incarnation };
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();

    // An older trust root makes an answer for each device, which is how the end is seen.
    let batch = ids.iter().map(|device| Upstream {
        device: *device,
        generation: 1,
        hub: lease.hub.clone(),
        session: incarnation,
        frame: hello(0),
    });
    broker.send_upstream(batch.collect()).await.unwrap();
    let answers = async {
        let mut answered = BTreeSet::new();
        while answered.len() < DEVICES {
            if let Some(Downstream::Deliver { device, .. }) = subscription.next().await {
                answered.insert(device);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answers).await.unwrap();
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    api.drain(Duration::ZERO).await.unwrap();
}
