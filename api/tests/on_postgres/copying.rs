//! A store moves to another database whole, or stays where it is.

use std::path::Path;

use api::audit::{self, Actor, ChainError};
use api::db::{CopyError, DatabaseConfig, DatabaseUrl, Location, copy, migrate};
use api::fixture;
use serde_json::Value;

use super::actors::{ack, commands};
use super::bench::{Bench, Place};

fn file(folder: &Path) -> Location {
    Location { data_dir: folder.join("data"), ..Location::default() }
}

fn server(url: &DatabaseUrl) -> Location {
    let database = DatabaseConfig { url: url.clone(), ..DatabaseConfig::default() };
    Location { database, ..Location::default() }
}

/// A bench whose store is a file, and beside it a server with an empty database.
async fn on_file() -> (Bench, DatabaseUrl) {
    let place = Place::new().await;
    let url = place.url.clone();
    let place = Place { url: DatabaseUrl::default(), ..place };
    (Bench::start_in(place, std::time::Duration::ZERO).await, url)
}

/// Something of everything.
async fn live(bench: &Bench) -> Value {
    let agent = bench.agent("web-17", Some("berlin")).await;
    let id = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    let told = commands(&agent.check_in(bench, Vec::new()).await);
    agent.check_in(bench, vec![ack(&told[0]), agent.receipt(&told[0], |_| {})]).await;
    bench.order("wipe", &[agent.id]).await;
    // More than one page of events.
    for _ in 0..300 {
        bench.order("refresh", &[agent.id]).await;
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn store_moves_to_the_server_and_back_with_the_same_chain() {
    let (bench, url) = on_file().await;
    let id = live(&bench).await;
    let expected = audit::verify_db(&bench.api.app().db).await.unwrap();
    let commands = bench.get("/v1/commands?limit=500").await;
    let bench = bench.restart_with(|config| config.node = "before".to_owned()).await;
    let Bench { api, place, hand, broker, token, .. } = bench;
    api.drain(std::time::Duration::ZERO).await.unwrap();

    let mut told = 0;
    let copied = copy(&file(place.folder.path()), &server(&url), |_, _| told += 1).await.unwrap();
    assert_eq!(copied.head, expected);
    assert!(told > 10, "progress is told: {told}");
    let rows = |name: &str| copied.tables.iter().find(|(table, _)| *table == name).unwrap().1;
    assert_eq!(rows("events"), expected.seq);
    assert_eq!((rows("orders"), rows("devices"), rows("installation")), (302, 1, 3));

    let place = Place { url: url.clone(), ..place };
    let bench = Bench::start_as(place.config(), place, hand, broker, Some(token)).await;
    assert_eq!(bench.get("/v1/commands?limit=500").await, commands);
    assert_eq!(bench.command(&id).await["state"], "succeeded");
    let Bench { api, place: _server, .. } = bench;
    api.drain(std::time::Duration::ZERO).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let back = copy(&server(&url), &file(folder.path()), |_, _| {}).await.unwrap();
    assert_eq!(back, copied);
    let path = folder.path().join("data/tocsin.db");
    assert_eq!(audit::verify_store(&path, &[]).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn target_with_anything_in_it_is_refused() {
    let (bench, url) = on_file().await;
    let from = file(bench.place.folder.path());
    copy(&from, &server(&url), |_, _| {}).await.unwrap();
    let error = copy(&from, &server(&url), |_, _| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::NotEmpty("events")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn store_with_a_broken_chain_is_not_copied_and_leaves_nothing() {
    let (bench, url) = on_file().await;
    bench.agent("a", None).await;
    let db = &bench.api.app().db;
    let set = async |actor: &str| {
        let mut tx = db.write(Actor::System, bench.now()).await.unwrap();
        let text = format!("UPDATE events SET actor = '{actor}' WHERE seq = 2");
        assert_eq!(fixture::execute(&mut tx, &text).await.unwrap(), 1);
        tx.commit().await.unwrap();
    };
    set("operator:eve").await;
    let (from, to) = (file(bench.place.folder.path()), server(&url));
    let error = copy(&from, &to, |_, _| {}).await.unwrap_err();
    assert!(matches!(error, CopyError::Chain(ChainError::Broken(ref b)) if b.seq == 2), "{error}");
    set("system").await;
    copy(&from, &to, |_, _| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_says_from_which_version_to_which() {
    let place = Place::new().await;
    let to = server(&place.url);
    let (one, two) =
        tokio::join!(migrate(&to.database, &to.data_dir), migrate(&to.database, &to.data_dir),);
    let mut froms = [one.unwrap(), two.unwrap()].map(|done| (done.from, done.to));
    froms.sort_unstable();
    let newest = froms[0].1;
    assert_eq!(froms, [(0, newest), (newest, newest)], "of two at once one does it");
}
