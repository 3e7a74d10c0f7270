//! The database is replaced by its replica: what was answered 201 is in both, and a primary that
//! was left behind takes nothing in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::db::DatabaseUrl;
use api::fixture::PostgresServer;
use futures_util::future::join_all;
use reqwest::StatusCode;
use runtime::fixture::{Far, Relay};

use super::bench::{Bench, GUARD, Place, order_body};
use super::faults::{give_orders, more};

/// A bench whose store is a server with a replica, behind one address that can lead elsewhere.
async fn start() -> (Bench, PostgresServer, Relay) {
    let primary = PostgresServer::start_primary();
    let replica = primary.synchronous_replica().await;
    let relay = Relay::start(Far::Unix(primary.socket())).await;
    let url = DatabaseUrl::new(primary.database_behind(relay.addr).await);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let place = Place { folder, server: Some(Arc::new(primary)), url };
    (Bench::start_in(place, Duration::ZERO).await, replica, relay)
}

/// The same on a node that soon gives up. Before and after the failure nothing needs one.
async fn hasty(bench: Bench) -> Bench {
    let short = Duration::from_secs(1);
    let hasty = bench.restart_with(|config| {
        config.database.connect_timeout = 4 * short;
        config.database.statement_timeout = short;
        config.database.lock_timeout = short;
    });
    hasty.await
}

/// Answers of each client: accepted, refused.
type Counts = [Arc<[AtomicUsize; 2]>; 4];

/// Waits until each client has that many more of those answers.
async fn each(counts: &Counts, which: usize, than: usize) {
    join_all(counts.iter().map(|own| more(&own[which], than))).await;
}

/// The address leads to the replica, and whoever was connected connects again.
fn lead_over(relay: &Relay, to: &PostgresServer) {
    relay.lead_to(Far::Unix(to.socket()));
    relay.sever();
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_failover_to_a_replica_under_orders_keeps_every_201() {
    let (bench, replica, relay) = start().await;
    let agent = bench.agent("a", None).await;
    let bench = Arc::new(hasty(bench).await);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Counts::default();
    let accepted = || counts.iter().map(|own| own[0].load(Ordering::SeqCst)).sum::<usize>();
    let mut clients = tokio::task::JoinSet::new();
    for own in &counts {
        let body = order_body("lock", &[agent.id]);
        clients.spawn(give_orders(bench.clone(), body, stop.clone(), own.clone()));
    }
    each(&counts, 0, 5).await;
    bench.place.server.clone().unwrap().kill();
    each(&counts, 1, 1).await;
    // A replica that is not promoted yet takes nothing in.
    lead_over(&relay, &replica);
    // What was taken in before is answered by then: a client asks one thing after the other.
    each(&counts, 1, 1).await;
    let before = accepted();
    each(&counts, 1, 1).await;
    assert_eq!(accepted(), before, "a replica took an order in");
    replica.promote().await;
    each(&counts, 0, 5).await;
    stop.store(true, Ordering::SeqCst);
    let accepted: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    let bench = Arc::into_inner(bench).expect("the clients are gone").restart_with(|_| ()).await;
    for id in &accepted {
        assert_eq!(bench.command(id).await["id"], *id);
    }
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_primary_that_was_left_behind_answers_no_201() {
    let (bench, replica, relay) = start().await;
    let agent = bench.agent("a", None).await;
    let body = order_body("lock", &[agent.id]);
    let known = bench.order("lock", &[agent.id]).await;
    let bench = hasty(bench).await;
    // The old primary lives, and this node still believes it.
    replica.promote().await;
    for _ in 0..3 {
        let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "nobody else has it");
        assert!(answer.headers().contains_key("retry-after"));
    }
    lead_over(&relay, &replica);
    let taken_in = async {
        loop {
            let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
            if answer.status() == StatusCode::CREATED {
                return;
            }
        }
    };
    tokio::time::timeout(GUARD, taken_in).await.unwrap();
    let bench = bench.restart_with(|_| ()).await;
    let commands = bench.get("/v1/commands").await["items"].as_array().unwrap().clone();
    assert_eq!(commands.len(), 2, "what was answered 201, and nothing else");
    assert!(commands.iter().any(|command| command["id"] == known["commands"][0]["id"]));
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}
