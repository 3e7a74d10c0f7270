//! Streams lose nothing, whenever they begin and however they are resumed.

use futures_util::StreamExt as _;
use reqwest::StatusCode;

use super::actors::commands;
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

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_with_its_token() {
    let bench = Bench::start().await;
    let token = bench.token_for(&["events@*"]).await;
    let request = bench.http.get(bench.url("/v1/stream")).bearer_auth(&token);
    let mut bytes = request.send().await.unwrap().bytes_stream();
    let tokens = bench.get("/v1/tokens").await;
    let tokens = tokens["items"].as_array().unwrap();
    let id = tokens.iter().find(|t| t["operator"] == "limited").unwrap()["id"].clone();
    bench.hand.advance(std::time::Duration::from_secs(30));
    let url = bench.url(&format!("/v1/tokens/{}", id.as_str().unwrap()));
    bench.http.delete(url).bearer_auth(&bench.token).send().await.unwrap();
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
