//! Several nodes on one store: what one did the others see, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use api::audit::Actor;
use api::db::DatabaseConfig;
use api::fixture;
use api::{Api, Config, Deps, InstallationError, StartError};
use broker::MemoryBroker;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::StatusCode;
use runtime::clock::ManualClock;
use runtime::{Clock, Drain, Entropy};
use serde_json::{Value, json};

use super::actors::{ack, commands};
use super::bench::{Bench, GUARD, PAUSE, Place, json_of, order_body};

/// The files that a person copies from node to node.
const KEYS: [&str; 4] = ["ca.crt", "ca.key", "command.key", "vault.key"];

/// Jobs of which all nodes of a store need only one.
const JOBS: i64 = 13;

/// A place for a further node on the same store, without any key.
fn further(place: &Place) -> Place {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(folder.path().join("data")).unwrap();
    Place { folder, ..place.clone() }
}

fn copy_keys(from: &Place, to: &Place, names: &[&str]) {
    for name in names {
        let path = |place: &Place| place.folder.path().join("data").join(name);
        std::fs::copy(path(from), path(to)).unwrap();
    }
}

/// A further node on the store of a bench, with the same bus and clock.
async fn join(bench: &Bench, name: &str) -> Bench {
    join_with(bench, name, |_| ()).await
}

async fn join_with(bench: &Bench, name: &str, change: impl FnOnce(&mut Config)) -> Bench {
    let place = further(&bench.place);
    copy_keys(&bench.place, &place, &KEYS);
    let mut config = place.config();
    name.clone_into(&mut config.node);
    change(&mut config);
    let (hand, broker) = (bench.hand.clone(), bench.broker.clone());
    Bench::start_as(config, place, hand, broker, Some(bench.token.clone())).await
}

async fn try_start(place: &Place) -> Result<Api, StartError> {
    let hand = ManualClock::new();
    hand.set_unix_millis(Clock::system().unix_millis());
    let deps = Deps {
        broker: Arc::new(MemoryBroker::new(hand.clock())),
        clock: hand.clock(),
        entropy: Entropy::system(),
        drain: Drain::new(),
    };
    Api::start(place.config(), deps).await
}

/// Waits until the store answers that to a question for a number.
async fn until(bench: &Bench, question: &str, answer: i64) {
    let wait = async {
        loop {
            let mut conn = bench.api.app().db.read().await.unwrap();
            if fixture::number(&mut conn, question).await.unwrap() == answer {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait)
        .await
        .unwrap_or_else(|_| panic!("never {answer}: {question}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_of_a_request_counts_on_every_node() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let body = order_body("lock", &[agent.id]);
    let send = |bench: &Bench| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
        let request = request.header("idempotency-key", "k1").json(&body);
        async move { request.send().await.unwrap() }
    };
    let at = |index: usize| if index.is_multiple_of(2) { &one } else { &two };
    let answers = futures_util::future::join_all((0..12).map(|index| send(at(index)))).await;
    let mut ids = Vec::new();
    for answer in answers {
        ids.push(json_of(answer, StatusCode::CREATED).await["order"]["id"].clone());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(two.get("/v1/commands").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_one_node_has_the_events_of_all() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let request = two.http.get(two.url("/v1/stream")).bearer_auth(&two.token);
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut expected = Vec::new();
    for bench in [&one, &two, &one] {
        expected.push(bench.order("lock", &[agent.id]).await["order"]["id"].clone());
    }
    let mut text = String::new();
    let read = async {
        while text.matches("event: order_created").count() < expected.len() {
            text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(GUARD, read).await.unwrap();
    let created = text.split("\n\n").filter(|event| event.contains("event: order_created"));
    let subjects: Vec<Value> = created
        .map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap())
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["subject"].clone())
        .collect();
    assert_eq!(subjects, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_one_node_is_woken_by_the_notification_of_another() {
    let one = Bench::start().await;
    let never = Duration::from_secs(60 * 60);
    let two = join_with(&one, "two", |config| config.database.look_every = never).await;
    let agent = one.agent("a", None).await;
    // Once it listens, there is no look any more that could tell.
    until(&one, "SELECT COUNT(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'", 2).await;
    let request = two.http.get(two.url("/v1/stream")).bearer_auth(&two.token);
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut head = two.api.app().db.events_head();
    for count in 1..=3 {
        one.order("lock", &[agent.id]).await;
        // The stream looks by itself once in a while; this is what wakes it before.
        let newest = *one.api.app().db.events_head().borrow();
        let told = tokio::time::timeout(GUARD, head.wait_for(|seen| *seen >= newest)).await;
        assert!(told.is_ok(), "order {count} is not notified");
        let mut text = String::new();
        let read = async {
            while !text.contains("event: order_created") {
                text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
            }
        };
        let heard = tokio::time::timeout(GUARD, read).await;
        assert!(heard.is_ok(), "order {count} is not told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_on_one_node_and_another_takes_over() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let holders = "SELECT COUNT(DISTINCT holder) FROM job_leases";
    until(&one, "SELECT COUNT(*) FROM job_leases", JOBS).await;
    until(&one, holders, 1).await;
    until(&one, "SELECT COUNT(*) FROM job_leases WHERE node = 'two'", 0).await;
    let id = one.order("lock", &[agent.id]).await["commands"][0]["id"].clone();

    let Bench { api, .. } = one;
    // It has the time to let go of its jobs: on this clock a claim never runs out by itself.
    api.drain(GUARD).await.unwrap();
    until(&two, "SELECT COUNT(*) FROM job_leases WHERE node = 'two'", JOBS).await;
    two.hand.advance(Duration::from_secs(25 * 60 * 60));
    two.until_state(&id, "expired").await;
    assert_eq!(two.events("command_expired").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_nodes_jobs_are_taken_over() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let id = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    until(&bench, "SELECT COUNT(*) FROM job_leases", JOBS).await;
    steal(&bench).await;
    // That node never renews: its claims run out.
    bench.hand.advance(Duration::from_secs(25 * 60 * 60));
    bench.until_state(&id, "expired").await;
    until(&bench, "SELECT COUNT(*) FROM job_leases WHERE node = 'dead'", 0).await;
}

/// Gives every job to a node that is not there, for a few seconds.
async fn steal(bench: &Bench) {
    let db = &bench.api.app().db;
    let mut tx = db.write(Actor::System, bench.now()).await.unwrap();
    let until = bench.now().plus(Duration::from_secs(6)).as_millis();
    let steal = format!(
        "UPDATE job_leases SET node = 'dead', expires_at = {until}, \
         holder = '00000000-0000-0000-0000-000000000001'"
    );
    let stolen = fixture::execute(&mut tx, &steal).await.unwrap();
    assert_eq!(i64::try_from(stolen).unwrap(), JOBS);
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_lost_its_claim_writes_nothing_for_the_job() {
    let bench = Bench::start().await;
    until(&bench, "SELECT COUNT(*) FROM job_leases", JOBS).await;
    let app = bench.api.app();
    let wait = async {
        loop {
            if let Some(lease) = app.leases.of("expiry") {
                return lease;
            }
            tokio::task::yield_now().await;
        }
    };
    let lease = tokio::time::timeout(GUARD, wait).await.unwrap();
    assert!(lease.write(app, bench.now()).await.unwrap().is_some());
    // Paused meanwhile, it does not know.
    steal(&bench).await;
    assert!(lease.write(app, bench.now()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_that_stands_still_is_cut_and_the_others_go_on() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let idle = DatabaseConfig::default().idle_timeout;
    let one = one.restart_with(|config| config.database.idle_timeout = idle).await;
    // As a node that is stopped by SIGSTOP in the middle of a write: it holds the lock.
    let mut tx = one.api.app().db.write(Actor::System, one.now()).await.unwrap();
    let insert = "INSERT INTO operators (name, created_at) VALUES ('nobody', 0)";
    fixture::execute(&mut tx, insert).await.unwrap();
    two.order("lock", &[agent.id]).await;
    tx.commit().await.unwrap_err();
    until(&two, "SELECT COUNT(*) FROM operators WHERE name = 'nobody'", 0).await;
    one.order("lock", &[agent.id]).await;
    api::audit::verify_db(&two.api.app().db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_write_is_rolled_back_and_its_session_goes_on() {
    let bench = Bench::start().await;
    let db = &bench.api.app().db;
    let session = "SELECT CAST(pg_backend_pid() AS BIGINT)";
    let mut sessions = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut tx = db.write(Actor::System, bench.now()).await.unwrap();
        let insert = "INSERT INTO operators (name, created_at) VALUES ('nobody', 0)";
        fixture::execute(&mut tx, insert).await.unwrap();
        sessions.insert(fixture::number(tx.conn(), session).await.unwrap());
    }
    // Had the server had to cut one, it would be another.
    assert_eq!(sessions.len(), 1);
    until(&bench, "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_the_keys_of_its_store_does_not_start() {
    let one = Bench::start().await;
    let place = further(&one.place);
    copy_keys(&one.place, &place, &["ca.crt", "ca.key"]);
    let error = try_start(&place).await.unwrap_err();
    let StartError::Installation(missing @ InstallationError::Missing(_)) = error else {
        panic!("{error}");
    };
    assert!(missing.to_string().contains("command.key is missing"), "{missing}");
    assert!(missing.to_string().contains("copy ca.crt, ca.key, command.key"), "{missing}");
    assert!(!place.folder.path().join("data/command.key").exists(), "made none of its own");

    api::keys::create(&place.folder.path().join("data/command.key"), &one.entropy).unwrap();
    let error = try_start(&place).await.unwrap_err();
    let StartError::Installation(InstallationError::Other { path, .. }) = error else {
        panic!("{error}");
    };
    assert!(path.ends_with("command.key"));
    copy_keys(&one.place, &place, &["command.key"]);
    let StartError::Vault(missing) = try_start(&place).await.unwrap_err() else { panic!() };
    assert!(missing.to_string().contains("vault.key is missing"), "{missing}");
    assert!(!place.folder.path().join("data/vault.key").exists(), "made none of its own");
    copy_keys(&one.place, &place, &KEYS);
    try_start(&place).await.unwrap().drain(std::time::Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_of_two_nodes_at_once_is_done_by_one() {
    let place = Place::new().await;
    let other = further(&place);
    let (one, two) = tokio::join!(try_start(&place), try_start(&other));
    let (winner, loser, winners, losers) = match (one, two) {
        (Ok(api), Err(error)) => (api, error, &place, &other),
        (Err(error), Ok(api)) => (api, error, &other, &place),
        (one, two) => panic!("{one:?} {two:?}"),
    };
    assert!(winner.first_start.is_some());
    assert!(matches!(loser, StartError::Installation(InstallationError::Missing(_))), "{loser}");
    assert!(!losers.folder.path().join("data/root.key").exists());
    copy_keys(winners, losers, &KEYS);
    let second = try_start(losers).await.unwrap();
    assert!(second.first_start.is_none());
    second.drain(std::time::Duration::ZERO).await.unwrap();
    winner.drain(std::time::Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_queued_another_delivers() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let id = one.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    let told = commands(&agent.check_in(&two, Vec::new()).await);
    assert_eq!(json!(told[0].command_id), id);
    assert_eq!(one.command(&id).await["state"], "sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_code_that_is_used_on_two_nodes_at_once_counts_on_one() {
    let first = Bench::start().await;
    let second = join(&first, "second").await;
    let nina = first.person("nina", &["*@*"]).await;
    let code = nina.code(&first, 0);
    let on_first = (0..4).map(|_| first.give_code(&nina.token, &code));
    let on_second = (0..4).map(|_| second.give_code(&nina.token, &code));
    let answers = join_all(on_first.chain(on_second)).await;
    let statuses: Vec<_> = answers.iter().map(reqwest::Response::status).collect();
    let taken = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(taken, 1, "{statuses:?}");
    // Tries are counted for both together: so many are refused that neither takes another one.
    let next = nina.code(&first, 1);
    for node in [&first, &second] {
        assert_eq!(
            node.give_code(&nina.token, &next).await.status(),
            StatusCode::TOO_MANY_REQUESTS
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_of_one_node_is_obeyed_by_the_others() {
    let one = Bench::start().await;
    let two = join(&one, "two").await;
    let agent = one.agent("a", None).await;
    let lock = async |on: &Bench| {
        let id = on.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
        let told = commands(&agent.check_in(on, Vec::new()).await).remove(0);
        agent.check_in(on, vec![ack(&told), agent.receipt(&told, |_| {})]).await;
        id
    };
    let mut ids = vec![lock(&one).await, lock(&two).await];
    let config = one.place.config();
    let place = (&config.vault, config.data_dir.as_path());
    let db = api::db::Db::open(&config.database, &config.data_dir).await.unwrap();
    let key = api::vault::rotate(&db, place, (one.now(), &one.entropy)).await.unwrap();
    // Neither was told, and both seal by it from now on.
    ids.extend([lock(&two).await, lock(&one).await]);
    let sealed = format!("SELECT COUNT(*) FROM commands WHERE receipt LIKE 'sealed:{key}:%'");
    until(&one, &sealed, 4).await;
    until(&one, "SELECT COUNT(*) FROM vault_keys", 1).await;
    for id in ids {
        let seen = one.command(&id).await;
        assert_eq!((&seen["state"], &seen), (&json!("succeeded"), &two.command(&id).await));
    }
    db.close().await;
}
