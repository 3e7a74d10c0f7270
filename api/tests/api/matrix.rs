//! Who is let in where: every route of the OpenAPI document with every scope there is.
//!
//! The expectations are the document's own, which is checked in and read by people. What the
//! document cannot say, how far a scope of a group reaches, has to be said here for each route.

use std::collections::{BTreeMap, BTreeSet};

use protocol::action::Verb;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::actors::TestAgent;
use super::bench::{Bench, json_of, order_body};
use super::documents::Route;

/// The abilities of scopes that are not orders.
const ABILITIES: [&str; 9] =
    ["read", "stop", "approve", "enroll", "devices", "trust", "escrows", "events", "tokens"];
/// The routes that ask for no token. Whoever adds one says here why: the document of the API holds no
/// secret; who signs in has no token yet.
const PUBLIC: [&str; 3] = ["GET /openapi.json", "GET /v1/sign-ins/provider", "POST /v1/sign-ins"];
/// An id that nothing has.
const NOTHING: &str = "0197a1b2-0000-7000-8000-000000000000";

impl Route {
    /// Whether the document lets somebody with that ability in; `None`: whoever has any token.
    pub(crate) fn admits(&self, ability: Option<&str>) -> bool {
        let alternatives = self.operation["security"].as_array().unwrap();
        alternatives.iter().any(|alternative| {
            let Some(named) = alternative.get("token") else { return alternative == &json!({}) };
            let named = named.as_array().unwrap();
            named.iter().all(|name| match ability {
                Some("*") => true,
                Some(ability) if ability.starts_with("order:") => name == "order",
                Some(ability) => name == ability,
                None => false,
            })
        })
    }

    pub(crate) async fn knock(&self, bench: &Bench, token: Option<&str>) -> Response {
        let path = self.path.replace("{id}", NOTHING);
        let mut request = bench.http.request(self.method.clone(), bench.url(&path));
        if self.operation.get("requestBody").is_some() {
            request = request.json(&json!({}));
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    }
}

/// Every ability that a scope can name.
fn every_ability() -> Vec<String> {
    let orders = Verb::ALL.iter().map(|verb| format!("order:{verb}"));
    let whole = ["*", "order:*"].map(str::to_owned);
    ABILITIES.map(str::to_owned).into_iter().chain(whole).chain(orders).collect()
}

#[test]
fn document_names_who_is_let_in_at_every_route() {
    let routes = Route::all();
    assert!(routes.len() > 25);
    let mut public = BTreeSet::new();
    for route in &routes {
        let security = route.operation["security"].as_array();
        assert!(security.is_some_and(|list| !list.is_empty()), "{}", route.name());
        let known = |name: &Value| ABILITIES.iter().any(|ability| name == ability);
        for alternative in security.unwrap() {
            match alternative.get("token").and_then(Value::as_array) {
                Some(names) => {
                    assert!(names.iter().all(|name| known(name) || name == "order"), "{route:?}");
                }
                None => drop(public.insert(route.name())),
            }
        }
    }
    assert_eq!(public, PUBLIC.map(str::to_owned).into());
}

/// The router's own word, against the document: what axum prints of it names each path and method.
#[test]
fn router_has_the_routes_of_the_document_and_no_other() {
    let (router, _) = api::openapi::operator_routes();
    let printed = format!("{router:?}");
    let served = served(&printed);
    assert!(served.len() > 25, "the form in which axum prints a router has changed: {printed}");
    let documented: BTreeSet<_> = Route::all().iter().map(Route::name).collect();
    assert_eq!(served, documented);
}

/// `GET /path` and so on, of what axum prints of a router.
fn served(printed: &str) -> BTreeSet<String> {
    let (printed, _) = printed.split_once("fallback_router: ").unwrap();
    let (routes, paths) = printed.split_once("node: Node { paths: {").unwrap();
    let id = |text: &str| text.split(')').next().unwrap().to_owned();
    let mut methods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in routes.split("RouteId(").skip(1) {
        let known = ["get", "head", "delete", "options", "patch", "post", "put", "trace"];
        let has = |name: &&&str| {
            let field = format!("{name}: ");
            let value = entry.split(&field).nth(1).unwrap_or("None");
            !value.starts_with("None")
        };
        let names = known.iter().filter(has).map(|name| name.to_uppercase()).collect();
        methods.insert(id(entry), names);
    }
    let mut served = BTreeSet::new();
    for entry in paths.split("RouteId(").skip(1) {
        let Some(path) = entry.split('"').nth(1) else { continue };
        // A path without methods is a service of its own, which no document describes.
        let names = methods.get(&id(entry)).filter(|names| !names.is_empty());
        let names = names.cloned().unwrap_or_else(|| vec!["ANY".to_owned()]);
        served.extend(names.iter().map(|name| format!("{name} {path}")));
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scope_opens_exactly_the_doors_that_the_document_names() {
    let bench = Bench::start().await;
    let routes = Route::all();
    for route in &routes {
        for token in [None, Some("tocsin_pat_no"), Some("")] {
            let status = route.knock(&bench, token).await.status();
            let is_public = PUBLIC.contains(&route.name().as_str());
            assert_eq!(status == StatusCode::UNAUTHORIZED, !is_public, "{} {status}", route.name());
        }
    }
    for ability in every_ability() {
        let token = bench.token_for(&[&format!("{ability}@*")]).await;
        for route in &routes {
            let response = route.knock(&bench, Some(&token)).await;
            let status = response.status();
            let place = format!("{} with {ability}@*: {status}", route.name());
            if route.admits(Some(&ability)) {
                let is_in = !matches!(status.as_u16(), 401 | 403 | 405 | 500..);
                assert!(is_in, "{place}");
            } else {
                assert_eq!(status, StatusCode::FORBIDDEN, "{place}");
                let problem = json_of(response, StatusCode::FORBIDDEN).await;
                assert_eq!(problem["type"], "urn:tocsin:problem:forbidden", "{place}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_the_document_lacks_are_refused_with_those_it_has() {
    let bench = Bench::start().await;
    let routes = Route::all();
    let of = |path: &str| {
        let of_path = routes.iter().filter(|route| route.path == path);
        of_path.map(|route| route.method.to_string()).collect::<BTreeSet<_>>()
    };
    for path in routes.iter().map(|route| &route.path).collect::<BTreeSet<_>>() {
        let mut known = of(path);
        if known.contains("GET") {
            known.insert("HEAD".to_owned());
        }
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
            if known.contains(method) {
                continue;
            }
            let url = bench.url(&path.replace("{id}", NOTHING));
            let request = bench.http.request(method.parse().unwrap(), url);
            let response = request.bearer_auth(&bench.token).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
            let allowed: BTreeSet<_> = allowed.split(", ").map(str::to_owned).collect();
            assert_eq!(allowed, known, "{method} {path}");
        }
    }
}

pub(crate) fn params_of(verb: Verb) -> Value {
    match verb {
        Verb::Lock => json!({ "level": "session" }),
        Verb::Wipe => json!({ "level": "keys", "power_off": true }),
        Verb::Plan => {
            json!({ "of": { "verb": "wipe", "params": { "level": "keys", "power_off": true } } })
        }
        Verb::RunScript => json!({
            "sha256": "A".repeat(43), "budget_secs": 60,
        }),
        Verb::CollectEvidence => json!({ "case_key": "A".repeat(43) }),
        Verb::RotateCredentials => json!({
            "credential": "volumes", "recovery_key": "A".repeat(43),
        }),
        Verb::CryptoLock => json!({ "recovery_key": "A".repeat(43) }),
        Verb::Cancel => json!({ "order_id": NOTHING }),
        Verb::Freeze => json!({ "until": 4_102_444_800_u64 }),
        Verb::Unlock
        | Verb::Quarantine
        | Verb::Release
        | Verb::SelectiveWipe
        | Verb::Reboot
        | Verb::Refresh
        | Verb::Thaw => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_orders_the_verbs_of_its_scopes_and_no_other() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut body = order_body("lock", &[agent.id]);
    body["dry_run"] = json!(true);
    for mine in Verb::ALL {
        let token = bench.token_for(&[&format!("order:{mine}@*")]).await;
        for verb in Verb::ALL {
            body["action"] = json!({ "verb": verb, "params": params_of(verb) });
            let status = bench.post_as(&token, "/v1/orders", &body).await.status();
            let is_in = !matches!(status.as_u16(), 401 | 403 | 500..);
            assert_eq!(is_in, mine == verb, "order:{mine} for {verb}: {status}");
        }
    }
}

/// A body that can be read there.
pub(crate) fn body_of(route: &str, agent: &TestAgent, trust: &Value) -> Value {
    match route {
        "POST /v1/orders" => order_body("lock", &[agent.id]),
        "POST /v1/enrollment-tokens" => json!({ "group": "a" }),
        "POST /v1/tokens" => json!({ "label": "x", "scopes": ["read@a"] }),
        "POST /v1/sign-ins" => json!({ "id_token": "", "nonce_secret": "" }),
        "POST /v1/trust" => json!({ "signed": trust["signed"] }),
        "POST /v1/escrows/{id}/read" => json!({ "reason": "a test" }),
        "PUT /v1/devices/{id}/groups" => json!({ "groups": ["b"] }),
        "POST /v1/orders/{id}/approvals" => json!({ "jws": trust["signed"][0] }),
        "POST /v1/orders/{id}/withdraw" => json!({ "person": "ann" }),
        "POST /v1/factor/confirm" | "POST /v1/step-ups" => json!({ "code": "000000" }),
        _ => json!({}),
    }
}

/// With everything asked for that can be, a person's token is asked for a code at these routes.
#[tokio::test(flavor = "multi_thread")]
async fn token_of_a_person_is_asked_for_a_code_at_these_routes_and_no_other() {
    let bench = Bench::start().await;
    let bench = bench.restart_with(|config| {
        let all = ["routine", "disruptive", "token", "trust", "revoke", "escrow"];
        config.step_up = serde_json::from_value(json!({ "needed_for": all })).unwrap();
    });
    let bench = bench.await;
    let agent = bench.agent("a", None).await;
    let trust = bench.get("/v1/trust").await;
    let person = bench.person("nina", &["*@*"]).await;
    let mut asked = BTreeSet::new();
    for route in Route::all() {
        let url = bench.url(&route.path.replace("{id}", NOTHING));
        let mut request = bench.http.request(route.method.clone(), url).bearer_auth(&person.token);
        if route.operation.get("requestBody").is_some() {
            let mut body = body_of(&route.name(), &agent, &trust);
            if route.name() == "POST /v1/tokens" {
                body["scopes"] = json!(["order:lock@a"]);
            }
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        if response.status() == StatusCode::UNAUTHORIZED {
            let problem = json_of(response, StatusCode::UNAUTHORIZED).await;
            let is_code = problem["type"] == "urn:tocsin:problem:step-up-required";
            assert!(is_code, "{}: {problem}", route.name());
            asked.insert(route.name());
        }
    }
    let expected = [
        "DELETE /v1/factor",
        "DELETE /v1/operators/{id}/factor",
        "POST /v1/devices/{id}/revoke",
        "POST /v1/escrows/{id}/read",
        "POST /v1/factor",
        "POST /v1/operators/{id}/factor-invitations",
        "POST /v1/orders",
        "POST /v1/tokens",
        "POST /v1/trust",
    ];
    assert_eq!(asked, expected.map(str::to_owned).into());
}

/// How many events there are.
async fn events_in_all(bench: &Bench) -> usize {
    bench.get("/v1/events?limit=500").await["items"].as_array().unwrap().len()
}

/// What a token of another group meets at a route.
#[derive(Debug, PartialEq)]
enum Met {
    /// Refused, or as if the thing were not there.
    Nothing,
    /// A list without a thing in it.
    Empty,
    /// What belongs to no group, and everybody with the ability may see.
    Shared,
}

/// Has to be thought about for each new route.
fn met_by_another_group(route: &str) -> Met {
    match route {
        "GET /v1/commands" | "GET /v1/devices" | "GET /v1/escrows" => Met::Empty,
        "GET /openapi.json" | "GET /v1/operators" | "GET /v1/trust" | "GET /v1/trust/chain" => {
            Met::Shared
        }
        // For whoever has no token yet; there is no provider in this test.
        "GET /v1/sign-ins/provider" | "POST /v1/sign-ins" => Met::Nothing,
        // One's own.
        "GET /v1/tokens" | "GET /v1/factor" => Met::Shared,
        // A token of no person has no second factor.
        "POST /v1/factor"
        | "DELETE /v1/factor"
        | "POST /v1/factor/confirm"
        | "POST /v1/step-ups" => Met::Nothing,
        "GET /v1/cluster"
        | "GET /v1/commands/{id}"
        | "POST /v1/commands/{id}/cancel"
        | "GET /v1/commands/{id}/collection"
        | "GET /v1/commands/{id}/collection/chunk"
        | "GET /v1/commands/{id}/stream"
        | "GET /v1/devices/{id}"
        | "PUT /v1/devices/{id}/groups"
        | "POST /v1/devices/{id}/revoke"
        | "POST /v1/enrollment-tokens"
        | "POST /v1/escrows/{id}/read"
        | "GET /v1/events"
        | "GET /v1/events/export"
        | "POST /v1/orders"
        | "GET /v1/orders/{id}"
        | "POST /v1/orders/{id}/approvals"
        | "POST /v1/orders/{id}/cancel"
        | "POST /v1/orders/{id}/continue"
        | "GET /v1/orders/{id}/manifest"
        | "POST /v1/orders/{id}/reject"
        | "POST /v1/orders/{id}/withdraw"
        | "GET /v1/stream"
        | "POST /v1/tokens"
        | "DELETE /v1/tokens/{id}"
        | "POST /v1/trust"
        | "POST /v1/operators/{id}/factor-invitations"
        | "DELETE /v1/operators/{id}/factor" => Met::Nothing,
        other => panic!("{other}: say what a token of another group meets there"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_a_group_reaches_nothing_of_another() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", Some("a")).await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let command = created["commands"][0]["id"].as_str().unwrap().to_owned();
    let owner = bench.get("/v1/tokens").await["items"][0]["id"].as_str().unwrap().to_owned();
    let trust = bench.get("/v1/trust").await;
    let token = bench.token_for(&["*@b"]).await;
    let before = events_in_all(&bench).await;
    for route in Route::all() {
        let id = match route.path.split('/').nth(2) {
            Some("devices") => agent.id.to_string(),
            Some("orders") => order.clone(),
            Some("commands") => command.clone(),
            _ => owner.clone(),
        };
        let body = body_of(&route.name(), &agent, &trust);
        let url = bench.url(&route.path.replace("{id}", &id));
        let mut request = bench.http.request(route.method.clone(), url).bearer_auth(&token);
        if route.operation.get("requestBody").is_some() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, name) = (response.status(), route.name());
        match met_by_another_group(&name) {
            Met::Nothing => {
                let is_refused = matches!(status.as_u16(), 403 | 404)
                    || (name == "POST /v1/orders" && status == StatusCode::UNPROCESSABLE_ENTITY);
                assert!(is_refused, "{name}: {status}");
            }
            Met::Empty => {
                assert_eq!(json_of(response, StatusCode::OK).await["items"], json!([]), "{name}");
            }
            Met::Shared => assert_eq!(status, StatusCode::OK, "{name}"),
        }
    }
    assert_eq!(events_in_all(&bench).await, before, "nothing of it changed anything");
}
