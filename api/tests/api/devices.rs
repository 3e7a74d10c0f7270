//! The list of devices: filters, presence, groups.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::bench::{Bench, json_of};

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wipe_would_leave_is_found_before_the_incident() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let findings = async || {
        let device = bench.get(&format!("/v1/devices/{}", agent.id)).await;
        device["findings"].clone()
    };
    assert_eq!(findings().await, json!(null), "it was never heard of");
    let reports = async |words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        agent.check_in_as(&bench, |hello| hello.capabilities = words).await;
        // What a device says of itself is written once a minute.
        bench.hand.advance(Duration::from_secs(61));
    };
    reports(&["wipe"]).await;
    assert_eq!(findings().await, json!(["wipe_not_provable"]));
    reports(&["wipe", "encrypted_volume"]).await;
    assert_eq!(findings().await, json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_found_by_group_name_and_presence() {
    let bench = Bench::start().await;
    let one = bench.agent("one", Some("a")).await;
    bench.hand.advance(Duration::from_millis(2));
    bench.agent("two", Some("b")).await;
    let hub = bench.hub("hub-1").await;
    hub.arrive(one.id, bench.session()).await;
    assert_eq!(names(&bench.get("/v1/devices").await), ["one", "two"]);
    assert_eq!(names(&bench.get("/v1/devices?group=b").await), ["two"]);
    assert_eq!(names(&bench.get("/v1/devices?name=one").await), ["one"]);
    assert_eq!(names(&bench.get("/v1/devices?online=true").await), ["one"]);
    assert_eq!(names(&bench.get("/v1/devices?online=false").await), ["two"]);
    let device = bench.get(&format!("/v1/devices/{}", one.id)).await;
    assert_eq!((&device["online"], &device["hub"]), (&json!(true), &json!("hub-1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_past_its_end_is_refused() {
    let bench = Bench::start().await;
    let body = json!({ "label": "x", "scopes": ["read@*"], "ttl_secs": 60, "service": true });
    let made = bench.post("/v1/tokens", &body, StatusCode::CREATED).await;
    let secret = made["secret"].as_str().unwrap();
    let look = async || {
        let url = bench.url("/v1/devices");
        bench.http.get(url).bearer_auth(secret).send().await.unwrap().status()
    };
    bench.hand.advance(Duration::from_secs(59));
    assert_eq!(look().await, StatusCode::OK);
    bench.hand.advance(Duration::from_secs(1));
    assert_eq!(look().await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_replaced_and_recorded() {
    let bench = Bench::start().await;
    let agent = bench.agent("one", Some("a")).await;
    let url = bench.url(&format!("/v1/devices/{}/groups", agent.id));
    let body = json!({ "groups": ["b", "c", "b"] });
    let request = bench.http.put(url).bearer_auth(&bench.token).json(&body);
    let device = json_of(request.send().await.unwrap(), StatusCode::OK).await;
    assert_eq!(device["groups"], json!(["b", "c"]));
    let event = bench.events("device_groups_changed").await.remove(0);
    assert_eq!(event["payload"], json!({ "groups": ["b", "c"], "former": ["a"] }));
    assert_eq!(event["actor"], "operator:admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_what_their_scopes_say_until_they_are_revoked() {
    let bench = Bench::start().await;
    let token = bench.token_for(&["read@*", "tokens@*"]).await;
    let read = || bench.http.get(bench.url("/v1/devices")).bearer_auth(&token).send();
    assert_eq!(read().await.unwrap().status(), StatusCode::OK);
    let wider = json!({ "label": "x", "scopes": ["events@*"] });
    json_of(bench.post_as(&token, "/v1/tokens", &wider).await, StatusCode::FORBIDDEN).await;
    let all = bench.get("/v1/tokens").await;
    let limited = all["items"].as_array().unwrap().iter().find(|t| t["operator"] == "limited");
    let id = limited.unwrap()["id"].as_str().unwrap();
    let revoke = bench.http.delete(bench.url(&format!("/v1/tokens/{id}")));
    let revoked = revoke.bearer_auth(&bench.token).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    assert_eq!(read().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn owner_of_the_data_folder_gets_in_again() {
    let bench = Bench::start().await;
    let token = bench.api.issue_owner_token().await.unwrap();
    let read = bench.http.get(bench.url("/v1/devices")).bearer_auth(token.expose());
    assert_eq!(read.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(bench.events("api_token_created").await.len(), 2);
}
