//! Streams lose nothing, whenever they begin and however they are resumed.

use futures_util::StreamExt as _;
use reqwest::StatusCode;

use protocol::advance::{Advance, Output, Tail};
use protocol::frame::AgentFrame;
use serde_json::{Value, json};

use super::actors::{ack, commands, id_of};
use super::bench::{Bench, GUARD};

/// Reads the ids of a stream's events until `enough`.
async fn ids(
    bench: &Bench,
    path: &str,
    last: Option<i64>,
    enough: impl Fn(&[(i64, String)]) -> bool,
) -> Vec<(i64, String)> {
    let mut request = bench.http.get(bench.url(path)).bearer_auth(&bench.token);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut bytes = response.bytes_stream();
    let (mut text, mut seen) = (String::new(), Vec::new());
    let read = async {
        while !enough(&seen) {
            text.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
            while let Some((event, rest)) = text.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                if let (Some(id), Some(kind)) = (field("id: "), field("event: ")) {
                    seen.push((id.parse().unwrap(), kind));
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(GUARD, read).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_has_every_event_once_while_orders_come_in() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let start = *bench.api.app().db.events_head().borrow();
    let orders = async {
        for _ in 0..20 {
            bench.order("refresh", &[agent.id]).await;
        }
    };
    let expected = 40;
    let follow = |last| ids(&bench, "/v1/stream", Some(last), |seen| seen.len() >= 5);
    let (seen, resumed, ()) = tokio::join!(
        ids(&bench, "/v1/stream", Some(start), |seen| seen.len() >= expected),
        async {
            // Comes and goes all the time.
            let mut all: Vec<(i64, String)> = Vec::new();
            while all.len() < expected {
                let last = all.last().map_or(start, |(id, _)| *id);
                all.extend(follow(last).await);
            }
            all
        },
        orders,
    );
    let range = |seen: &[(i64, String)]| seen.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let whole: Vec<_> = (start + 1..).take(expected).collect();
    assert_eq!(range(&seen)[..expected], whole);
    assert_eq!(range(&resumed)[..expected], whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn story_of_a_command_streams_from_its_begin() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let id = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    let path = format!("/v1/commands/{}/stream", id.as_str().unwrap());
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    let (seen, _) = tokio::join!(
        ids(&bench, &path, None, |seen| seen.last().is_some_and(|(_, k)| k == "command_finished")),
        agent.check_in(&bench, vec![agent.receipt(&told[0], |_| {})]),
    );
    let kinds: Vec<_> = seen.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["command_queued", "command_sent", "command_finished"]);
}

/// Reads what a stream tells beside events until `enough`: their data, and whether one had a number.
async fn advances(bench: &Bench, path: &str, enough: impl Fn(&Value) -> bool) -> Vec<Value> {
    let request = bench.http.get(bench.url(path)).bearer_auth(&bench.token);
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let (mut text, mut seen) = (String::new(), Vec::new());
    let read = async {
        while !seen.last().is_some_and(&enough) {
            text.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
            while let Some((message, rest)) = text.split_once("\n\n") {
                if message.lines().any(|line| line == "event: advance") {
                    assert!(!message.contains("id: "), "it is no event: {message}");
                    let data = message.lines().find_map(|line| line.strip_prefix("data: "));
                    seen.push(serde_json::from_str(data.unwrap()).unwrap());
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(GUARD, read).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn advance_is_the_newest_word_and_no_event_and_ends_with_its_stage() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let (command_id, id) = (command.command_id, id_of(&command));
    let told = |stage: &str, done: u64| AgentFrame::Progress {
        command_id,
        stage: stage.to_owned(),
        advance: Some(Advance::at("/dev/sda2").step(1, 2).bytes(done, 1000)),
    };
    agent.check_in(&bench, vec![ack(&command), told("finish", 0)]).await;
    let path = format!("/v1/commands/{command_id}/stream");
    let (with, plain) = (format!("{path}?advance=true"), path);
    let is_last = |how_far: &Value| how_far["advance"]["bytes"]["done"] == 500;
    let (seen, ()) = tokio::join!(advances(&bench, &with, is_last), async {
        for done in (1..=100).chain([500]) {
            agent.check_in(&bench, vec![told("finish", done)]).await;
        }
    });
    let last = seen.last().unwrap();
    assert_eq!(last["command_id"], id);
    assert_eq!((&last["state"], &last["stage"]), (&json!("running"), &json!("finish")));
    let expected = json!({ "at": "/dev/sda2", "step": { "done": 1, "of": 2 },
        "bytes": { "done": 500, "of": 1000 } });
    assert_eq!(last["advance"], expected);
    assert_eq!(bench.command(&id).await["advance"], expected);
    // A word without an advance says nothing against it; another stage does.
    agent.check_in(&bench, vec![AgentFrame::stage(command_id, "finish".to_owned())]).await;
    assert_eq!(bench.command(&id).await["advance"], expected);
    assert_eq!(bench.events("command_running").await.len(), 1, "one event for one stage");
    agent.check_in(&bench, vec![AgentFrame::stage(command_id, "prove".to_owned())]).await;
    assert_eq!(bench.command(&id).await["advance"], Value::Null);
    agent.check_in(&bench, vec![told("prove", 7), agent.receipt(&command, |_| {})]).await;
    let ended = bench.command(&id).await;
    assert_eq!((&ended["state"], &ended["advance"]), (&json!("succeeded"), &Value::Null));
    // Who did not ask gets events alone.
    let all = ids(&bench, &plain, None, |seen| seen.len() >= 5).await;
    let kinds: Vec<_> = all.iter().map(|(_, kind)| kind.as_str()).collect();
    let running = "command_running";
    assert_eq!(
        kinds[2..],
        ["command_acked", running, running, "command_finished"][..kinds.len() - 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_script_is_in_the_stream_alone_and_ends_with_its_stage() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let (command_id, id) = (command.command_id, id_of(&command));
    let told = |output: Option<Output>| AgentFrame::Progress {
        command_id,
        stage: "apply".to_owned(),
        advance: Some(Advance::at("script").secs(1, 60).output(output)),
    };
    let said = |from, bytes: &[u8]| {
        let stdout = Some(Tail { from, bytes: bytes.to_vec() });
        told(Some(Output { stdout, stderr: None }))
    };
    agent.check_in(&bench, vec![ack(&command), said(0, b"one\n\x1b[2J")]).await;
    let path = format!("/v1/commands/{command_id}/stream?advance=true");
    let is_two = |how_far: &Value| how_far["advance"]["output"]["stdout"]["from"] == 3;
    let (seen, ()) = tokio::join!(advances(&bench, &path, is_two), async {
        // A word on the time alone takes nothing back.
        agent.check_in(&bench, vec![told(None)]).await;
        agent.check_in(&bench, vec![said(3, b"\n\x1b[2Jtwo\n")]).await;
    });
    let last = &seen.last().unwrap()["advance"];
    assert_eq!(last["secs"], json!({ "done": 1, "of": 60 }));
    assert_eq!(last["output"], json!({ "stdout": { "from": 3, "bytes": "ChtbMkp0d28K" } }));
    assert!(
        seen.iter().all(|seen| seen["advance"]["output"]["stdout"]["from"].is_u64()),
        "{seen:?}"
    );
    // Whoever comes later has it, and lists do not.
    let again = advances(&bench, &path, is_two).await;
    assert_eq!(again.len(), 1);
    let alone = json!({ "at": "script", "secs": { "done": 1, "of": 60 } });
    assert_eq!(bench.command(&id).await["advance"], alone);
    // The next stage has nothing of it.
    let is_next = |how_far: &Value| how_far["stage"] == "prove";
    agent.check_in(&bench, vec![AgentFrame::stage(command_id, "prove".to_owned())]).await;
    let next = advances(&bench, &path, is_next).await;
    assert_eq!(next.last().unwrap()["advance"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_advances_are_refused_or_left_out() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let hello = serde_json::to_value(agent.hello()).unwrap();
    let url = bench.agent_url("/agent/v1/checkin");
    for advance in [
        json!({ "at": "\u{1b}[2J" }),
        json!({ "at": "x".repeat(65) }),
        json!({ "step": { "done": 1, "of": 20_000 } }),
        json!({ "bytes": { "done": 2, "of": 1 } }),
        json!({ "secs": { "done": 1, "of": u64::MAX } }),
        json!({ "bytes": { "done": -1, "of": 1 } }),
        json!({ "output": { "stdout": { "from": 0, "bytes": "x".repeat(2732) } } }),
        json!({ "output": { "stderr": { "from": u64::MAX, "bytes": "eA" } } }),
        json!({ "output": { "stdout": { "from": 0, "bytes": "?" } } }),
        json!("half"),
    ] {
        let frame = json!({ "kind": "progress", "command_id": command.command_id,
            "stage": "apply", "advance": advance });
        let body = json!({ "frames": [hello, frame] });
        let answer = agent.http.post(&url).json(&body).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{advance}: {}", answer.status());
    }
    assert_eq!(bench.command(&id_of(&command)).await["advance"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_with_its_token() {
    let bench = Bench::start().await;
    let token = bench.token_for(&["events@*"]).await;
    let request = bench.http.get(bench.url("/v1/stream")).bearer_auth(&token);
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let tokens = bench.get("/v1/tokens").await;
    let tokens = tokens["items"].as_array().unwrap();
    let id = tokens.iter().find(|t| t["operator"] == "limited").unwrap()["id"].clone();
    let url = bench.url(&format!("/v1/tokens/{}", id.as_str().unwrap()));
    bench.http.delete(url).bearer_auth(&bench.token).send().await.unwrap();
    // Only now: a stream that finds its token in order does not ask again for a while.
    bench.hand.advance(std::time::Duration::from_secs(30));
    let end = async { while bytes.next().await.is_some() {} };
    tokio::time::timeout(GUARD, end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn token_has_so_many_streams_and_no_more() {
    let bench = Bench::start().await;
    let open = || bench.http.get(bench.url("/v1/stream")).bearer_auth(&bench.token).send();
    let mut streams = Vec::new();
    for _ in 0..16 {
        let stream = open().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        streams.push(stream);
    }
    assert_eq!(open().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    streams.clear();
    let wait = async { while open().await.unwrap().status() != StatusCode::OK {} };
    tokio::time::timeout(GUARD, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_a_chain_and_a_tampered_row_is_named() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let export = bench.http.get(bench.url("/v1/events/export")).bearer_auth(&bench.token);
    let text = export.send().await.unwrap().text().await.unwrap();
    let head = api::audit::verify_json_lines(text.as_bytes(), &api::audit::Marks::new()).unwrap();
    let db = &bench.api.app().db;
    assert_eq!(api::audit::verify_db(db).await.unwrap(), head);

    let mut tx = db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    let tamper = "UPDATE events SET actor = 'operator:eve' WHERE seq = 5";
    assert_eq!(api::fixture::execute(&mut tx, tamper).await.unwrap(), 1);
    tx.commit().await.unwrap();
    let error = api::audit::verify_db(db).await.unwrap_err();
    assert!(matches!(error, api::audit::ChainError::Broken(broken) if broken.seq == 5));
}
