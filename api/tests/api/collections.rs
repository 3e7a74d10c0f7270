//! Collections at the control plane: taken only as a receipt names them, from their device alone, within a
//! quota, and for a while.

use std::time::Duration;

use protocol::collection::{ChunkHashes, Collection};
use protocol::frame::{AgentFrame, CommandFrame};
use protocol::limits;
use protocol::manifest::Hash;
use protocol::receipt::{Evidence, Outcome};
use protocol::sealed::{CaseSecret, TAG_BYTES};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, confirmed};
use super::bench::{Bench, json_of};

const FULL: usize = limits::CHUNK_BYTES + TAG_BYTES;

/// Chunks as a device has them, and what it signs for.
fn chunks() -> (Vec<Vec<u8>>, Collection) {
    let chunks = vec![vec![1; FULL], vec![2; FULL], vec![3; 100]];
    let mut hashes = ChunkHashes::default();
    chunks.iter().for_each(|chunk| hashes.add(&Hash::sha256(chunk)));
    let collection = Collection {
        chunks: 3,
        bytes: 2 * FULL as u64 + 100,
        chunks_sha256: hashes.finish(),
        once: CaseSecret::new([3; 32]).public().unwrap(),
        items: 1,
        left_out: 0,
        content_bytes: 1,
    };
    (chunks, collection)
}

/// A collection that its device has taken up.
async fn taken(bench: &Bench, agent: &TestAgent) -> CommandFrame {
    let params = json!({
        "case_key": CaseSecret::new([9; 32]).public().unwrap(),
        "sources": { "logs": true, "item_bytes": 1000, "total_bytes": 1000 },
    });
    let action = json!({ "verb": "collect_evidence", "params": params });
    let body =
        json!({ "action": action, "targets": { "devices": [agent.id] }, "reason": "a test" });
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let command = commands(&agent.check_in(bench, Vec::new()).await).pop().unwrap();
    agent.check_in(bench, vec![ack(&command)]).await;
    command
}

/// Signs for it.
async fn signed(bench: &Bench, agent: &TestAgent, command: &CommandFrame, said: &Collection) {
    let evidence: Evidence = said.evidence();
    let receipt = agent.receipt(command, |claims| {
        claims.outcome = Outcome::Succeeded { evidence };
    });
    let told = agent.check_in(bench, vec![receipt]).await;
    assert_eq!(confirmed(&told).len(), 1);
}

fn place(command: &CommandFrame) -> String {
    format!("/agent/v1/collections/{}", command.command_id)
}

async fn put(
    bench: &Bench,
    agent: &TestAgent,
    (command, number): (&CommandFrame, u32),
    chunk: &[u8],
) -> Response {
    let url = bench.agent_url(&format!("{}/{number}", place(command)));
    agent.http.put(url).body(chunk.to_vec()).send().await.unwrap()
}

async fn missing(bench: &Bench, agent: &TestAgent, command: &CommandFrame) -> Value {
    let response = agent.http.get(bench.agent_url(&place(command))).send().await.unwrap();
    json_of(response, StatusCode::OK).await["missing"].clone()
}

async fn view(bench: &Bench, command: &CommandFrame) -> Value {
    bench.get(&format!("/v1/commands/{}/collection", command.command_id)).await
}

async fn chunk_of(bench: &Bench, command: &CommandFrame, number: u32) -> Response {
    let path = format!("/v1/commands/{}/collection/chunk?number={number}", command.command_id);
    bench.http.get(bench.url(&path)).bearer_auth(&bench.token).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_taken_once_their_receipt_names_them_and_come_out_as_they_came() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let other = bench.agent("b", None).await;
    let command = taken(&bench, &agent).await;
    assert_eq!(bench.command(&json!(command.command_id)).await["lane"], "bulk");
    let (chunks, said) = chunks();
    // Who is refused before the body is read may miss the answer while sending it.
    let early = put(&bench, &agent, (&command, 0), b"").await;
    assert_eq!(early.status(), StatusCode::NOT_FOUND, "nothing was signed for");
    signed(&bench, &agent, &command, &said).await;
    assert_eq!(missing(&bench, &agent, &command).await, json!([0, 1, 2]));
    for refused in [
        (put(&bench, &other, (&command, 0), b"").await, StatusCode::NOT_FOUND),
        (put(&bench, &agent, (&command, 3), &chunks[0]).await, StatusCode::NOT_FOUND),
        (put(&bench, &agent, (&command, 0), b"short").await, StatusCode::UNPROCESSABLE_ENTITY),
        (put(&bench, &agent, (&command, 2), &chunks[0]).await, StatusCode::UNPROCESSABLE_ENTITY),
        (chunk_of(&bench, &command, 0).await, StatusCode::NOT_FOUND),
    ] {
        assert_eq!(refused.0.status(), refused.1);
    }
    for number in [2, 0, 0] {
        let put = put(&bench, &agent, (&command, number), &chunks[number as usize]).await;
        assert_eq!(put.status(), StatusCode::NO_CONTENT);
    }
    let another = put(&bench, &agent, (&command, 0), &chunks[1]).await;
    assert_eq!(another.status(), StatusCode::CONFLICT, "the first stays");
    // What broke off goes on, also with another process.
    let bench = bench.kill_and_restart().await;
    assert_eq!(missing(&bench, &agent, &command).await, json!([1]));
    let seen = view(&bench, &command).await;
    assert_eq!((&seen["arrived"], &seen["whole_at"]), (&json!(2), &Value::Null));
    assert!(bench.events("collection_arrived").await.is_empty());
    put(&bench, &agent, (&command, 1), &chunks[1]).await;
    assert_eq!(missing(&bench, &agent, &command).await, json!([]));
    assert_eq!(bench.events("collection_arrived").await.len(), 1);
    assert_eq!(view(&bench, &command).await["arrived_bytes"], json!(said.bytes));
    for (number, chunk) in (0..).zip(&chunks) {
        let found = chunk_of(&bench, &command, number).await;
        assert_eq!(found.bytes().await.unwrap(), chunk.as_slice());
    }
    let long = put(&bench, &agent, (&command, 0), &[0; FULL + 1]).await;
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_chunks_that_were_not_signed_for_are_not_kept() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let command = taken(&bench, &agent).await;
    let (chunks, said) = chunks();
    signed(&bench, &agent, &command, &said).await;
    // Two that changed places: each has the right length.
    for (number, chunk) in [(0, &chunks[1]), (1, &chunks[0]), (2, &chunks[2])] {
        put(&bench, &agent, (&command, number), chunk).await;
    }
    assert_eq!(missing(&bench, &agent, &command).await, json!([0, 1, 2]));
    assert_eq!(view(&bench, &command).await["arrived_bytes"], json!(0));
    assert!(bench.events("collection_arrived").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_device_that_signs_for_more_than_was_ordered_takes_no_room() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    // The order is for 1000 bytes: one chunk, and what is around it.
    let most = 1 + limits::COLLECTION_EXTRA_CHUNKS;
    let (chunks, said) = chunks();
    let of =
        |chunks: u32| Collection { chunks, bytes: u64::from(chunks) * FULL as u64, ..said.clone() };
    let (greedy, modest) = (taken(&bench, &agent).await, taken(&bench, &agent).await);
    signed(&bench, &agent, &greedy, &of(most + 1)).await;
    signed(&bench, &agent, &modest, &of(most)).await;
    for refused in [
        put(&bench, &agent, (&greedy, 0), b"").await,
        agent.http.get(bench.agent_url(&place(&greedy))).send().await.unwrap(),
    ] {
        assert_eq!(refused.status(), StatusCode::GONE, "for good: it may forget it");
    }
    let other = bench.agent("b", None).await;
    let stranger = put(&bench, &other, (&greedy, 0), b"").await;
    assert_eq!(stranger.status(), StatusCode::NOT_FOUND, "which is nobody else's business");
    let events = bench.events("collection_refused").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["payload"], json!({ "chunks": most + 1, "ordered": most }));
    let taken = put(&bench, &agent, (&modest, 0), &chunks[0]).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_of_all_collections_holds_and_time_gives_it_back() {
    let bench = Bench::start().await;
    let bench = bench.restart_with(|config| {
        config.collections.total_bytes = FULL as u64 + 200;
        config.collections.kept = Duration::from_secs(3600);
    });
    let bench = bench.await;
    let agent = bench.agent("a", None).await;
    let (first, second) = (taken(&bench, &agent).await, taken(&bench, &agent).await);
    let (chunks, said) = chunks();
    signed(&bench, &agent, &first, &said).await;
    signed(&bench, &agent, &second, &said).await;
    let taken = put(&bench, &agent, (&first, 0), &chunks[0]).await;
    assert_eq!(taken.status(), StatusCode::NO_CONTENT);
    let full = put(&bench, &agent, (&second, 1), &chunks[1]).await;
    assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(full.headers().contains_key("retry-after"));
    assert_eq!(missing(&bench, &agent, &second).await, json!([0, 1, 2]));
    bench.hand.advance(Duration::from_secs(3601));
    let gone = async || bench.events("collection_removed").await.len();
    while gone().await < 2 {
        tokio::task::yield_now().await;
    }
    let url = bench.agent_url(&place(&first));
    assert_eq!(agent.http.get(url).send().await.unwrap().status(), StatusCode::GONE);
    assert_eq!(chunk_of(&bench, &first, 0).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_that_brings_chunks_without_end_is_slowed_down() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let command = taken(&bench, &agent).await;
    let (_, said) = chunks();
    signed(&bench, &agent, &command, &said).await;
    let mut slowed = None;
    for _ in 0..100 {
        let response = agent.http.get(bench.agent_url(&place(&command))).send().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            slowed = Some(response);
            break;
        }
    }
    assert!(slowed.unwrap().headers().contains_key("retry-after"));
}

/// The device says that it is lost.
fn lost(agent: &TestAgent, command: &CommandFrame) -> AgentFrame {
    agent.notice(command, |notice| "collection_lost".clone_into(&mut notice.what))
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_that_its_device_has_lost_ends_and_takes_no_more_place() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (chunks, collection) = chunks();
    let command = taken(&bench, &agent).await;
    signed(&bench, &agent, &command, &collection).await;
    put(&bench, &agent, (&command, 0), &chunks[0]).await;
    // Twice: it is said until it is confirmed.
    for _ in 0..2 {
        let told = agent.check_in(&bench, vec![lost(&agent, &command)]).await;
        assert_eq!(confirmed(&told).len(), 1);
    }
    assert_eq!(missing(&bench, &agent, &command).await, json!([]), "nobody asks for the rest");
    let late = put(&bench, &agent, (&command, 1), &chunks[1]).await;
    assert_eq!(late.status(), StatusCode::CONFLICT);
    let view = bench.get(&format!("/v1/commands/{}/collection", command.command_id)).await;
    assert!(view["lost_at"].is_string() && view["whole_at"].is_null(), "{view}");
    assert_eq!((&view["arrived"], &view["arrived_bytes"]), (&json!(0), &json!(0)));
    let events = bench.events("collection_lost").await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(bench.events("device_tampered").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_word_that_a_collection_is_lost_takes_nothing_that_is_whole_or_anothers() {
    let bench = Bench::start().await;
    let (agent, other) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let (chunks, collection) = chunks();
    let command = taken(&bench, &agent).await;
    signed(&bench, &agent, &command, &collection).await;
    for (number, chunk) in (0..).zip(&chunks) {
        put(&bench, &agent, (&command, number), chunk).await;
    }
    agent.check_in(&bench, vec![lost(&agent, &command)]).await;
    other.check_in(&bench, vec![lost(&other, &command)]).await;
    let view = bench.get(&format!("/v1/commands/{}/collection", command.command_id)).await;
    assert!(view["whole_at"].is_string() && view["lost_at"].is_null(), "{view}");
    assert_eq!(view["arrived"], 3);
    assert!(bench.events("collection_lost").await.is_empty());
}
