//! The database fails under orders: what was answered 201 stays, and the rest is 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::fixture::PostgresServer;
use reqwest::StatusCode;
use serde_json::Value;

use super::bench::{Bench, GUARD, PAUSE, Place, order_body};

/// Gives orders until it is told to stop, and answers the commands of those that were accepted.
pub(crate) async fn give_orders(
    bench: Arc<Bench>,
    body: Value,
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
) -> Vec<Value> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status == StatusCode::CREATED {
            let created: Value = answer.json().await.unwrap();
            accepted.push(created["commands"][0]["id"].clone());
            counts[0].fetch_add(1, Ordering::SeqCst);
        } else {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(headers.contains_key("retry-after"));
            counts[1].fetch_add(1, Ordering::SeqCst);
        }
    }
    accepted
}

/// Waits until there are that many more of the answers.
pub(crate) async fn more(count: &AtomicUsize, than: usize) {
    let before = count.load(Ordering::SeqCst);
    let wait = async {
        while count.load(Ordering::SeqCst) < before + than {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD * 2, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_database_killed_under_orders_keeps_every_201() {
    let bench = Arc::new(Bench::start().await);
    let agent = bench.agent("a", None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let body = order_body("lock", &[agent.id]);
        clients.spawn(give_orders(bench.clone(), body, stop.clone(), counts.clone()));
    }
    let server = bench.place.server.clone().unwrap();
    for _ in 0..3 {
        more(&counts[0], 10).await;
        server.kill();
        more(&counts[1], 4).await;
        server.restart();
    }
    more(&counts[0], 10).await;
    stop.store(true, Ordering::SeqCst);
    let accepted: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
    assert!(accepted.len() >= 40);
    for id in &accepted {
        assert_eq!(bench.command(id).await["id"], *id);
    }
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_database_that_hangs_is_unavailable_and_comes_back() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    // Only while it hangs.
    let short = Duration::from_secs(2);
    let bench = bench
        .restart_with(|config| {
            config.database.connect_timeout = short;
            config.database.statement_timeout = short;
            config.database.lock_timeout = short;
        })
        .await;
    let body = order_body("lock", &[agent.id]);
    let server = bench.place.server.clone().unwrap();
    server.pause();
    let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    server.resume();
    let back = async {
        loop {
            let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
            if answer.status() == StatusCode::CREATED {
                return;
            }
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    tokio::time::timeout(GUARD, back).await.unwrap();
    let bench = bench.restart_with(|_| ()).await;
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_full_disk_of_the_server_is_503_and_never_201() {
    let server = Arc::new(PostgresServer::start_on_disk_of("64m"));
    let (url, folder) = (server.database().await, Arc::new(tempfile::tempdir().unwrap()));
    let place = Place { folder, server: Some(server.clone()), url };
    let bench = Bench::start_in(place, Duration::ZERO).await;
    let agent = bench.agent("a", None).await;
    let body = order_body("lock", &[agent.id]);
    let mut accepted = vec![bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone()];
    server.fill_disk();
    // What still fits into pages that the server has is taken in, and kept. It makes some room itself, too: a
    // checkpoint may give segments of its log back in between.
    let filling = async {
        let mut refused = 0;
        while refused < 5 {
            let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
            if answer.status() == StatusCode::CREATED {
                let created: Value = answer.json().await.unwrap();
                accepted.push(created["commands"][0]["id"].clone());
            } else {
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                assert!(answer.headers().contains_key("retry-after"));
                refused += 1;
            }
        }
    };
    tokio::time::timeout(GUARD, filling).await.unwrap();
    server.make_room();
    let taken_in = async {
        while bench.post_as(&bench.token, "/v1/orders", &body).await.status() != StatusCode::CREATED
        {
        }
    };
    tokio::time::timeout(GUARD, taken_in).await.unwrap();
    for id in &accepted {
        assert_eq!(bench.command(id).await["id"], *id);
    }
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}
