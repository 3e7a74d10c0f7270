//! Roles: what each opens, who may hand them on, how often their tokens may ask.

use std::time::Duration;

use api::auth::{Role, RoleGrant};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::bench::{Bench, json_of};
use super::documents::Route;

impl Bench {
    /// A token of that role, for somebody of that role's name.
    pub(crate) async fn token_of(&self, role: &str) -> String {
        let name = role.replace(['@', '*'], ".");
        let body = json!({ "label": "test", "operator": name, "role": role, "service": true });
        let made = self.post("/v1/tokens", &body, StatusCode::CREATED).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn status_as(&self, token: &str, path: &str) -> StatusCode {
        let request = self.http.get(self.url(path)).bearer_auth(token);
        request.send().await.unwrap().status()
    }
}

#[test]
fn roles_are_made_of_these_scopes() {
    let scopes = |grant: &str| {
        let grant: RoleGrant = grant.parse().unwrap();
        let scopes: Vec<_> = grant.scopes().iter().map(ToString::to_string).collect();
        scopes.join(" ")
    };
    for (grant, expected) in [
        ("viewer", "read@*"),
        ("responder", "read@* stop@* order:*@*"),
        ("responder@lab", "read@lab stop@lab order:*@lab"),
        ("approver", "read@* stop@* approve@*"),
        ("administrator", "read@* stop@* enroll@* devices@* tokens@* trust@* events@*"),
        ("auditor", "read@* events@*"),
    ] {
        assert_eq!(scopes(grant), expected, "{grant}");
    }
    for text in ["", "owner", "viewer@", "viewer@A B", "Viewer", "viewer@*@*"] {
        assert!(text.parse::<RoleGrant>().is_err(), "{text}");
    }
    assert_eq!("viewer".parse::<RoleGrant>().unwrap().to_string(), "viewer@*");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_opens_exactly_the_doors_of_its_scopes() {
    let bench = Bench::start().await;
    for role in Role::ALL {
        let token = bench.token_of(role.as_str()).await;
        let mut opened = 0;
        for route in Route::all() {
            let status = route.knock(&bench, Some(&token)).await.status();
            let may = |ability: &&str| route.admits(Some(ability));
            let is_in = role.abilities().iter().any(may) || route.admits(None);
            let expected = if is_in { status != StatusCode::FORBIDDEN } else { status == 403 };
            assert!(expected, "{} as {}: {status}", route.name(), role.as_str());
            opened += usize::from(is_in);
        }
        assert!(opened < Route::all().len(), "no role opens everything: {}", role.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hands_on_a_role_that_is_more_than_their_own() {
    let bench = Bench::start().await;
    let administrator = bench.token_of("administrator").await;
    let make = async |token: &str, body: Value| {
        bench.post_as(token, "/v1/tokens", &body).await.status().as_u16()
    };
    for (role, status) in [("viewer", 201), ("auditor", 201), ("responder", 403), ("approver", 403)]
    {
        let body = json!({ "label": "x", "role": role });
        assert_eq!(make(&administrator, body).await, status, "{role}");
    }
    for (body, status) in [
        (json!({ "label": "x", "role": "viewer", "scopes": ["read@*"] }), 422),
        (json!({ "label": "x", "role": "owner" }), 422),
        (json!({ "label": "x" }), 422),
        (json!({ "label": "x", "role": "viewer", "rate_per_min": 0 }), 422),
        (json!({ "label": "x", "role": "viewer", "rate_per_min": 1201 }), 403),
        (json!({ "label": "x", "role": "viewer", "rate_per_min": 1200 }), 201),
        (json!({ "label": "x", "role": "administrator@lab" }), 201),
    ] {
        assert_eq!(make(&administrator, body.clone()).await, status, "{body}");
    }
    let bound = bench.token_of("administrator@lab").await;
    for (role, status) in [("viewer@lab", 201), ("viewer", 403), ("viewer@other", 403)] {
        let body = json!({ "label": "x", "role": role });
        assert_eq!(make(&bound, body).await, status, "{role}");
    }
    assert_eq!(bench.status_as(&bound, "/v1/events").await, StatusCode::FORBIDDEN);
    let events = bench.events("api_token_created").await;
    assert!(events.iter().any(|event| event["payload"]["role"] == "viewer@lab"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_that_asks_too_often_is_told_when_to_come_again() {
    let bench = Bench::start().await;
    let body = json!({ "label": "x", "role": "viewer", "rate_per_min": 3 });
    let made = bench.post("/v1/tokens", &body, StatusCode::CREATED).await;
    let token = made["secret"].as_str().unwrap();
    for _ in 0..3 {
        assert_eq!(bench.status_as(token, "/v1/devices").await, StatusCode::OK);
    }
    let request = bench.http.get(bench.url("/v1/devices")).bearer_auth(token);
    let response = request.send().await.unwrap();
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let problem = json_of(response, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(problem["type"], "urn:tocsin:problem:too-many");
    assert!((1..=21).contains(&wait), "{wait}");
    assert_eq!(bench.status_as(&bench.token, "/v1/devices").await, StatusCode::OK, "others do");
    bench.hand.advance(Duration::from_secs(wait));
    assert_eq!(bench.status_as(token, "/v1/devices").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn last_use_of_a_token_is_shown_and_outlives_a_restart() {
    let bench = Bench::start().await;
    let body = json!({ "label": "x", "role": "viewer" });
    let made = bench.post("/v1/tokens", &body, StatusCode::CREATED).await;
    let last = async |bench: &Bench| {
        let tokens = bench.get("/v1/tokens").await;
        let tokens = tokens["items"].as_array().unwrap().clone();
        tokens.into_iter().find(|token| token["id"] == made["id"]).unwrap()
    };
    assert_eq!(last(&bench).await["last_used_at"], Value::Null);
    assert_eq!(last(&bench).await["role"], "viewer@*");
    assert_eq!(last(&bench).await["rate_per_min"], 600);
    let secret = made["secret"].as_str().unwrap();
    assert_eq!(bench.status_as(secret, "/v1/devices").await, StatusCode::OK);
    let used = last(&bench).await["last_used_at"].clone();
    assert!(used.is_string());
    bench.hand.advance(Duration::from_secs(60));
    let bench = bench.kill_and_restart().await;
    assert_eq!(last(&bench).await["last_used_at"], used);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_read_again_count_from_then_on() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (reload, present) = (bench.api.reload(), bench.api.app().config.clone());
    agent.check_in(&bench, Vec::new()).await;
    let strict = api::Config { check_ins_per_min: 1, check_in_burst: 1, ..present.clone() };
    assert_eq!(reload.follow(&strict).unwrap(), Vec::<&str>::new(), "it takes no restart");
    let statuses = async || {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(agent.try_check_in(&bench, Vec::new()).await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 429]);
    let mut wrong = api::Config { check_ins_per_min: 0, ..present.clone() };
    wrong.first_wave.percent = 99;
    assert!(reload.follow(&wrong).is_err());
    assert_eq!(statuses().await, [429, 429], "what cannot be meant changes nothing");
    let other = api::Config { check_ins_per_min: 0, node: "another".to_owned(), ..present };
    assert_eq!(reload.follow(&other).unwrap(), ["api.node"], "which takes a restart");
    assert_eq!(statuses().await, [200, 200]);
}
