//! Replicas of a cluster take the place of their primaries while messages flow, and the bus goes
//! with them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::fixture::{GUARD, RedisCluster, RedisServer, until};
use broker::redis::RedisMode;
use broker::{Broker, RedisBroker, RedisConfig, Upstream};
use protocol::frame::AgentFrame;
use protocol::state::PerLane;
use runtime::Clock;
use tokio::task::JoinSet;

use crate::support::{PAUSE, config, connected, delivers, device, hub, lease, session};

/// Longer than a replica tries to take over.
const GIVES_UP: Duration = Duration::from_secs(6);

fn message(number: u64) -> Upstream {
    Upstream {
        device: device(1),
        generation: 1,
        hub: hub("hub-a"),
        session: session(1),
        frame: AgentFrame::Sync { last_seq: PerLane { urgent: number, bulk: 0 } },
    }
}

fn number(message: &Upstream) -> u64 {
    let AgentFrame::Sync { last_seq } = &message.frame else { panic!("{message:?}") };
    last_seq.urgent
}

/// What hubs tell, and an api that reads it, until `stop`.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<BTreeSet<u64>>,
}

impl Load {
    fn begin(broker: &Arc<RedisBroker>) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let (sender, stopped) = (broker.clone(), stop.clone());
        tasks.spawn(async move {
            let mut told = BTreeSet::new();
            for number in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                match sender.send_upstream(vec![message(number)]).await {
                    Ok(()) => drop(told.insert(number)),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
            told
        });
        Self { stop, tasks }
    }

    /// The messages that the bus has taken.
    async fn end(mut self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

/// Reads until all of those have come.
async fn all_come(broker: &Arc<RedisBroker>, mut wanted: BTreeSet<u64>) {
    let reading = async {
        while !wanted.is_empty() {
            let Ok(mut reader) = broker.read_upstream().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            while let Ok(batch) = reader.next().await {
                for message in &batch {
                    wanted.remove(&number(message));
                }
                if wanted.is_empty() || reader.acknowledge().await.is_err() {
                    break;
                }
            }
        }
    };
    tokio::time::timeout(GUARD, reading).await.expect("everything comes");
}

fn is_primary(server: &RedisServer) -> bool {
    server.ask(&["ROLE"]).items()[0].text() == "master"
}

/// Asks a replica to take over, again when it has given up: on a busy machine it may not get into
/// step within its 5 s.
fn promote(replica: &RedisServer) {
    let clock = Clock::system();
    let mut asked = None;
    until("the replica is the primary", || {
        let now = clock.now();
        if asked.is_none_or(|asked| now - asked > GIVES_UP) {
            replica.try_ask(&["CLUSTER", "FAILOVER"]);
            asked = Some(now);
        }
        is_primary(replica)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_planned_promotions_in_a_cluster_lose_no_message_that_was_taken() {
    let cluster = RedisCluster::with_replicas();
    let settings = RedisConfig { mode: RedisMode::Cluster, ..config(cluster.urls()) };
    let broker = connected(settings).await;
    let load = Load::begin(&broker);
    let lease = lease("hub-b", 1);
    for (at, replica) in cluster.replicas.iter().enumerate() {
        delivers(&broker, &lease).await;
        promote(replica);
        until("the primary is a replica", || !is_primary(&cluster.nodes[at]));
        delivers(&broker, &lease).await;
    }
    let taken = load.end().await;
    assert!(!taken.is_empty());
    all_come(&broker, taken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f08_killed_primary_of_a_cluster_is_followed_by_its_replica() {
    let mut cluster = RedisCluster::with_replicas();
    let settings = RedisConfig { mode: RedisMode::Cluster, ..config(cluster.urls()) };
    let broker = connected(settings).await;
    let load = Load::begin(&broker);
    let lease = lease("hub-b", 1);
    delivers(&broker, &lease).await;
    cluster.nodes[0].kill();
    cluster.lose_patience();
    until("the replica is the primary", || is_primary(&cluster.replicas[0]));
    delivers(&broker, &lease).await;
    load.end().await;
    let after = BTreeSet::from([u64::MAX >> 1]);
    // While somebody reads: what was told before may have filled the upstream.
    let telling = async {
        while broker.send_upstream(vec![message(u64::MAX >> 1)]).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::join!(telling, all_come(&broker, after));
    cluster.nodes[0].restart();
    until("it follows its replica", || !is_primary(&cluster.nodes[0]));
    delivers(&broker, &lease).await;
}
