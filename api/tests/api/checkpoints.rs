//! The head of the audit log is signed, shown to devices, and has to be borne out by the log.

use std::time::Duration;

use api::audit::{ChainError, verify_store};
use protocol::checkpoint::Checkpoint;
use protocol::frame::{Hello, HubFrame};
use protocol::jws::CompactJws;
use reqwest::StatusCode;
use serde_json::json;

use super::actors::TestAgent;
use super::bench::{Bench, GUARD, PAUSE};

/// The newest checkpoint that a check-in brings, once its head is beyond that event.
async fn shown(bench: &Bench, agent: &TestAgent, beyond: u64) -> (CompactJws, Checkpoint) {
    let wait = async {
        loop {
            // A device is told when it was not seen for a while.
            bench.hand.advance(Duration::from_secs(700));
            for frame in agent.check_in(bench, Vec::new()).await {
                if let HubFrame::Checkpoint { jws } = frame {
                    let checkpoint = Checkpoint::verify(&jws, &agent.trust).unwrap();
                    if checkpoint.head.seq > beyond {
                        return (jws, checkpoint);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.expect("a checkpoint")
}

async fn start() -> Bench {
    let every = Duration::from_millis(20);
    Bench::start().await.restart_with(|config| config.checkpoint_every = every).await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_shown_signed_checkpoints_that_name_earlier_ones() {
    let bench = start().await;
    let agent = bench.agent("a", None).await;
    let (_, first) = shown(&bench, &agent, 0).await;
    bench.order("lock", &[agent.id]).await;
    let (_, later) = shown(&bench, &agent, first.head.seq).await;
    assert!(later.number > first.number);
    let mut memory = protocol::checkpoint::Memory::default();
    assert_eq!(memory.take(&first), Ok(()));
    assert_eq!(memory.take(&later), Ok(()));
    let page = bench.get("/v1/events?limit=500").await;
    let events = page["items"].as_array().unwrap();
    for mark in later.marks() {
        let event = events.iter().find(|event| event["seq"] == mark.seq).unwrap();
        assert_eq!(event["hash"], mark.hash.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn device_that_knows_another_log_is_an_event_once() {
    let bench = start().await;
    let agent = bench.agent("a", None).await;
    for other in ["x", "y"] {
        bench.hand.advance(Duration::from_secs(700));
        let words = ["audit_forked", other].map(str::to_owned);
        let forked = |hello: &mut Hello| hello.capabilities.extend(words);
        agent.check_in_as(&bench, forked).await;
    }
    assert_eq!(bench.events("device_reported").await.len(), 2);
    let events = bench.events("audit_forked").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["subject"], json!(agent.id));
}

/// Whoever has the database rewrites an event and every hash after it. The chain is whole then,
/// and the checkpoints do not fit.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_database_whose_whole_chain_was_rewritten_is_found_by_its_checkpoints() {
    // Only a file can be read beside its server.
    if crate::STORE == super::bench::Store::Postgres {
        return;
    }
    let bench = start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let (jws, checkpoint) = shown(&bench, &agent, 5).await;
    let file = bench.place.folder.path().join("data").join(api::db::FILE);
    let given = [jws];
    assert!(verify_store(&file, &given).await.unwrap().seq >= checkpoint.head.seq as i64);

    let mut tx = bench.api.app().db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    api::fixture::rewrite_history(&mut tx, 3).await.unwrap();
    tx.commit().await.unwrap();
    let found = verify_store(&file, &[]).await.unwrap_err();
    assert!(matches!(found, ChainError::Broken(_)), "{found}");
    // Without the rows of the checkpoints too: what a device was shown finds it.
    let mut tx = bench.api.app().db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    api::fixture::forget_checkpoints(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let found = verify_store(&file, &given).await.unwrap_err();
    assert!(matches!(found, ChainError::Broken(_)), "{found}");
    let forged = checkpoint.sign(&super::approvals::key(66)).unwrap();
    let stranger = verify_store(&file, &[forged]).await.unwrap_err();
    assert!(matches!(stranger, ChainError::Checkpoint), "{stranger}");
    bench
        .post("/v1/orders", &super::bench::order_body("lock", &[agent.id]), StatusCode::CREATED)
        .await;
}
