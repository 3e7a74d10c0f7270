//! Three published holes of another product, and their kin.

use std::time::Duration;

use protocol::enrollment::{ENROLL_PATH, RENEW_PATH};
use protocol::frame::{AgentFrame, CHECK_IN_PATH};
use protocol::id::CommandId;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{ack, commands, id_of};
use super::bench::{Bench, csr, json_of, order_body};

/// Every route of the agent port, and what somebody without a device's certificate meets there.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_stranger_at_the_agent_port_is_let_in_nowhere() {
    let routes = [
        (ENROLL_PATH, StatusCode::UNAUTHORIZED),
        (RENEW_PATH, StatusCode::UNAUTHORIZED),
        (CHECK_IN_PATH, StatusCode::UNAUTHORIZED),
    ];
    // Whoever adds a route says here what a stranger meets.
    let sources = [include_str!("../../src/enrollment.rs"), include_str!("../../src/commands.rs")];
    let count = sources.iter().map(|source| source.matches(".route(").count()).sum::<usize>();
    assert_eq!(count, routes.len());
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let hello = json!({ "frames": [agent.hello()] });
    let bodies = [
        json!({ "secret": "x".repeat(43), "name": "b", "csr": csr(&agent.key) }),
        json!({ "csr": csr(&agent.key) }),
        hello,
    ];
    let before = bench.get("/v1/events?limit=500").await["items"].as_array().unwrap().len();
    for ((path, status), body) in routes.into_iter().zip(bodies) {
        // With an operator's token as well: it is none of a device.
        for token in ["", &bench.token] {
            let request = bench.http.post(bench.agent_url(path)).bearer_auth(token);
            let answer = request.json(&body).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
        let other = bench.http.get(bench.agent_url(path)).send().await.unwrap();
        assert_eq!(other.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    let elsewhere = bench.http.get(bench.agent_url("/v1/devices")).bearer_auth(&bench.token);
    assert_eq!(elsewhere.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let after = bench.get("/v1/events?limit=500").await["items"].as_array().unwrap().len();
    assert_eq!(after, before, "nothing of it changed anything");
}

/// Whoever writes presence says that another device is on their hub.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_broker_that_claims_a_devices_presence_delays_its_commands_and_loses_none() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut liar = bench.hub("hub-evil").await;
    liar.arrive(agent.id, bench.session()).await;
    let made = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    let stolen = liar.command_for(agent.id).await;
    assert_eq!(id_of(&stolen), made);
    // It says what it likes of it, and nothing that only the device can say is believed.
    let mallory = bench.agent("mallory", None).await;
    liar.say(&agent, vec![mallory.receipt(&stolen, |claims| claims.iss = agent.id)]).await;
    bench.until_state(&made, "sent").await;
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    assert_eq!((told.len(), id_of(&told[0])), (1, made.clone()), "the device itself asks");
    agent.verify(&bench, &told[0].jws);
    let receipts = vec![ack(&told[0]), agent.receipt(&told[0], |_| ())];
    agent.check_in(&bench, receipts).await;
    assert_eq!(bench.command(&made).await["state"], "succeeded");
}

/// As CVE-2026-34388: one unexpected value of an enrolled host crashed the whole server.
#[tokio::test(flavor = "multi_thread")]
async fn enrolled_host_cannot_crash_the_server_with_unexpected_values() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let id: CommandId = agent.id.to_string().parse().unwrap();
    let hello = serde_json::to_value(agent.hello()).unwrap();
    let mut odd_hello = hello.clone();
    odd_hello["last_seq"] = json!({ "urgent": u64::MAX, "bulk": u64::MAX });
    odd_hello["trust_version"] = json!(u32::MAX);
    odd_hello["generation"] = json!(u32::MAX);
    odd_hello["degraded_since"] = json!(u64::MAX);
    odd_hello["agent"] = json!("\u{202e}\u{0}\u{7}");
    odd_hello["capabilities"] = json!(["\u{feff}", "'; DROP TABLE devices; --", "<script>"]);
    let mut negative = hello.clone();
    negative["generation"] = json!(-1);
    let frames = [
        vec![odd_hello],
        vec![negative],
        vec![json!(null)],
        vec![json!({ "kind": 7 })],
        vec![hello.clone(), json!({ "kind": "tomorrow", "x": [[[[1]]]] })],
        vec![hello.clone(), json!({ "kind": "ack", "command_id": "no uuid" })],
        vec![hello.clone(), json!({ "kind": "ack", "command_id": id })],
        vec![hello.clone(), json!({ "kind": "progress", "command_id": id, "stage": "\u{0}" })],
        vec![
            hello.clone(),
            json!({ "kind": "progress", "command_id": id, "stage": "x".repeat(65) }),
        ],
        vec![hello.clone(), json!({ "kind": "receipt", "command_id": id, "jws": "" })],
        vec![hello.clone(), json!({ "kind": "receipt", "command_id": id, "jws": "e30.e30.e30" })],
        vec![
            hello.clone(),
            json!({ "kind": "receipt", "command_id": id, "jws": "x".repeat(40_000) }),
        ],
        vec![hello; 257],
    ];
    let url = bench.agent_url("/agent/v1/checkin");
    let bodies = frames.into_iter().map(|frames| json!({ "frames": frames }).to_string());
    let deep = "[".repeat(100_000);
    let raw = ["", "{", "{\"frames\":", "\u{0}", "{\"frames\":{}}", "{\"frames\":1e999}", &deep];
    for body in bodies.chain(raw.map(str::to_owned)) {
        let response = agent.http.post(&url).body(body.clone()).send().await.unwrap();
        let status = response.status();
        let head: String = body.chars().take(200).collect();
        assert!(status.is_success() || status.is_client_error(), "{status} for {head}");
    }
    // The same through a hub: what comes from the bus is hostile too.
    let mut hub = bench.hub("hub-1").await;
    let mut stranger = bench.agent("b", None).await;
    stranger.generation = u32::MAX;
    hub.say(&stranger, vec![stranger.hello(), AgentFrame::Unknown]).await;
    stranger.id = agent.id.to_string().replace('0', "f").parse().unwrap();
    stranger.generation = 1;
    hub.say(&stranger, vec![stranger.hello()]).await;
    hub.next().await;
    let device = bench.get(&format!("/v1/devices/{}", agent.id)).await;
    assert!(!device["agent_version"].as_str().unwrap_or_default().contains('\u{202e}'));
    assert!(agent.check_in(&bench, Vec::new()).await.len() == 1);
    api::audit::verify_db(&bench.api.app().db).await.unwrap();
}

/// As CVE-2026-46356: spoofed client-address headers walked around limits.
#[tokio::test(flavor = "multi_thread")]
async fn headers_about_the_client_are_not_believed() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let body = json!({ "frames": [agent.hello()] });
    let chain = "-----BEGIN CERTIFICATE-----";
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;proto=https"),
        ("x-forwarded-client-cert", chain),
        ("x-ssl-client-cert", chain),
        ("ssl-client-verify", "SUCCESS"),
        ("x-forwarded-user", "admin"),
        ("x-remote-user", "admin"),
    ] {
        let request = bench.http.post(bench.agent_url("/agent/v1/checkin")).header(name, value);
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
        let response = bench.http.get(bench.url("/v1/devices")).header(name, value);
        let response = response.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{name}");
    }
}

/// As CVE-2026-25963: a batch call did not check its objects. Each of the calls that take or
/// reach several objects is tried with one foreign object among them.
#[tokio::test(flavor = "multi_thread")]
async fn batch_call_checks_authorisation_for_every_object() {
    let bench = Bench::start().await;
    let mine = bench.agent("mine", Some("a")).await;
    let theirs = bench.agent("theirs", Some("b")).await;
    let token = bench.token_for(&["order:*@a", "stop@a", "devices@a", "enroll@a"]).await;
    let order = bench.order("lock", &[mine.id, theirs.id]).await;
    let order = order["order"]["id"].as_str().unwrap();
    let calls = [
        ("/v1/orders".to_owned(), order_body("lock", &[mine.id, theirs.id])),
        (format!("/v1/orders/{order}/cancel"), json!({})),
        ("/v1/enrollment-tokens".to_owned(), json!({ "group": "b" })),
        ("/v1/enrollment-tokens".to_owned(), json!({})),
    ];
    for (path, body) in calls {
        let response = bench.post_as(&token, &path, &body).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let put = |id, groups: Value| {
        let request = bench.http.put(bench.url(&format!("/v1/devices/{id}/groups")));
        request.bearer_auth(&token).json(&json!({ "groups": groups })).send()
    };
    let stolen = put(theirs.id, json!(["a"])).await.unwrap();
    assert_eq!(stolen.status(), StatusCode::NOT_FOUND);
    let pushed = put(mine.id, json!(["a", "b"])).await.unwrap();
    assert_eq!(pushed.status(), StatusCode::FORBIDDEN);
    for path in ["/v1/events", "/v1/events/export", "/v1/stream"] {
        let request = bench.http.get(bench.url(path)).bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
    // Reading an order names no device beyond the reach; approving needs all of them.
    for (scopes, names) in
        [(vec!["read@a"], vec!["mine"]), (vec!["read@a", "approve@a"], vec!["mine", "theirs"])]
    {
        let token = bench.token_for(&scopes).await;
        let request = bench.http.get(bench.url(&format!("/v1/orders/{order}/manifest")));
        let response = request.bearer_auth(token).send().await.unwrap();
        let manifest = json_of(response, StatusCode::OK).await;
        let devices = manifest["devices"].as_array().unwrap();
        let mut seen: Vec<_> = devices.iter().map(|d| d["name"].as_str().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, names, "{scopes:?}");
    }
    let states = bench.get(&format!("/v1/orders/{order}")).await["states"].clone();
    assert_eq!(states, json!({ "queued": 2 }));
}

/// The audit log is for ever: no device may fill it.
#[tokio::test(flavor = "multi_thread")]
async fn device_cannot_fill_the_audit_log() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let stage =
        |number: usize| AgentFrame::stage(command.command_id, format!("stage {}", number / 2));
    for from in [0, 100] {
        agent.check_in(&bench, (from..from + 100).map(stage).collect()).await;
    }
    // It has had the command for a while, and speaks from before it.
    bench.hand.advance(Duration::from_secs(11));
    assert_eq!(bench.events("command_running").await.len(), 16);
    let story = bench.get(&format!("/v1/commands/{}", command.command_id)).await;
    assert_eq!(story["stage"], "stage 99");

    let hello_with = |number: usize| {
        let AgentFrame::Hello(mut hello) = agent.hello() else { unreachable!() };
        hello.capabilities = vec![format!("word {number}")];
        let body = json!({ "frames": [AgentFrame::Hello(hello)] });
        agent.http.post(bench.agent_url("/agent/v1/checkin")).json(&body).send()
    };
    for number in 0..50 {
        assert_eq!(hello_with(number).await.unwrap().status(), StatusCode::OK);
    }
    let strange = |number: usize| {
        let envelope_sha256 = number.to_string();
        agent.receipt(&command, |claims| claims.envelope_sha256 = envelope_sha256)
    };
    for from in [0, 20] {
        agent.check_in(&bench, (from..from + 20).map(strange).collect()).await;
    }
    assert_eq!(bench.events("device_reported").await.len(), 1, "one a minute");
    assert_eq!(bench.events("envelope_forged").await.len(), 4);
    assert_eq!(bench.events("journal_rollback").await.len(), 1, "one a minute");
    bench.hand.advance(Duration::from_secs(61));
    hello_with(50).await.unwrap();
    let reported = bench.events("device_reported").await;
    let device = bench.get(&format!("/v1/devices/{}", agent.id)).await;
    assert_eq!(reported.len(), 2, "what the device stays with is told later");
    assert_eq!(reported[1]["payload"]["capabilities"], device["capabilities"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_that_checks_in_too_often_is_told_when_to_come_again() {
    let bench = Bench::start().await;
    let (agent, other) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let bench = bench.restart_with(|config| {
        (config.check_ins_per_min, config.check_in_burst) = (30, 2);
    });
    let bench = bench.await;
    for _ in 0..2 {
        agent.check_in(&bench, Vec::new()).await;
    }
    let refused = agent.try_check_in(&bench, Vec::new()).await;
    assert_eq!(refused.headers()["retry-after"], "3");
    let problem = json_of(refused, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(problem["type"], "urn:tocsin:problem:too-many");
    other.check_in(&bench, Vec::new()).await;
    bench.hand.advance(Duration::from_secs(3));
    agent.check_in(&bench, Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_problems_with_their_place() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let good = order_body("lock", &[agent.id]);
    let cases = [
        ("/action", "verb", json!("nuke")),
        ("/targets", "devices", json!(["no uuid"])),
        ("", "reason", json!("\u{202e}")),
        ("", "reason", json!("")),
        ("", "expires_in_secs", json!(1)),
        ("", "expires_in_secs", json!(-1)),
        ("", "surprise", json!(1)),
        ("/targets", "devices", json!([])),
    ];
    for (parent, field, value) in cases {
        let mut body = good.clone();
        body.pointer_mut(parent).unwrap()[field] = value.clone();
        let response = bench.post_as(&bench.token, "/v1/orders", &body).await;
        let media_type = response.headers()["content-type"].clone();
        let problem = json_of(response, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(media_type, "application/problem+json");
        assert_eq!(problem["status"], 422, "{field} = {value}");
        assert!(problem["errors"][0]["pointer"].is_string(), "{problem}");
    }
    for path in ["/v1/devices/7", "/v1/devices?limit=x", "/v1/commands?state=odd"] {
        let request = bench.http.get(bench.url(path)).bearer_auth(&bench.token);
        let problem = json_of(request.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
        assert_eq!(problem["type"], "urn:tocsin:problem:malformed");
    }
    let response = bench.http.get(bench.url("/nowhere")).send().await.unwrap();
    for name in ["x-request-id", "x-content-type-options", "strict-transport-security"] {
        assert!(response.headers().contains_key(name), "{name}");
    }
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let big = "x".repeat(600 * 1024);
    let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token).body(big);
    // The refusal may close the connection before all of it was sent: the last request on it.
    if let Ok(response) = request.header("content-type", "application/json").send().await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

/// Tokens belong to no group: a token bound to one manages those of its own operator alone.
#[tokio::test(flavor = "multi_thread")]
async fn group_bound_token_manages_its_own_operators_tokens_alone() {
    let bench = Bench::start().await;
    let bound = bench.token_for(&["tokens@lab", "read@lab"]).await;
    let list = bench.http.get(bench.url("/v1/tokens")).bearer_auth(&bound).send().await.unwrap();
    let list = json_of(list, StatusCode::OK).await;
    let whose: Vec<_> = list["items"].as_array().unwrap().iter().map(|t| &t["operator"]).collect();
    assert_eq!(whose, ["limited"]);

    let mint =
        |operator: &str| json!({ "label": "x", "operator": operator, "scopes": ["read@lab"] });
    let refused = bench.post_as(&bound, "/v1/tokens", &mint("admin")).await;
    json_of(refused, StatusCode::FORBIDDEN).await;
    let own = bench.post_as(&bound, "/v1/tokens", &mint("limited")).await;
    let own = json_of(own, StatusCode::CREATED).await;

    let all = bench.get("/v1/tokens").await;
    let admins = all["items"].as_array().unwrap().iter().find(|t| t["operator"] == "admin");
    let revoke = |id: &Value| {
        let url = bench.url(&format!("/v1/tokens/{}", id.as_str().unwrap()));
        bench.http.delete(url).bearer_auth(&bound).send()
    };
    let refused = revoke(&admins.unwrap()["id"]).await.unwrap();
    assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    assert_eq!(revoke(&own["id"]).await.unwrap().status(), StatusCode::NO_CONTENT);
}

/// What is remembered of a token for a second gives it nothing: whatever its next order is answered, the
/// store was asked again.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_token_that_ordered_a_moment_ago_and_is_revoked_orders_and_learns_nothing() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let scopes = ["order:refresh@*"];
    let asked = json!({ "label": "x", "operator": "limited", "scopes": scopes, "service": true });
    let made = bench.post("/v1/tokens", &asked, StatusCode::CREATED).await;
    let token = made["secret"].as_str().unwrap();
    let order = |body: Value| {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(token);
        request.header("idempotency-key", "k").json(&body).send()
    };
    let body = order_body("refresh", &[agent.id]);
    // The clock of the test stands still: it is remembered from here on.
    for _ in 0..2 {
        json_of(order(body.clone()).await.unwrap(), StatusCode::CREATED).await;
    }
    let url = bench.url(&format!("/v1/tokens/{}", made["id"].as_str().unwrap()));
    let revoked = bench.http.delete(url).bearer_auth(&bench.token).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);

    let before = bench.events("order_created").await.len();
    let named: Vec<_> = (0..17).map(|_| agent.id).collect();
    let nobody = CommandId::new(bench.now(), [7; 10]).to_string();
    for (what, body) in [
        ("a new order", order_body("lock", &[agent.id])),
        ("a repetition", body),
        ("another body under the key", order_body("refresh", &[agent.id, agent.id])),
        ("a verb beyond its scopes", order_body("wipe", &[agent.id])),
        ("more than a few devices", order_body("refresh", &named)),
        (
            "no device",
            json!({ "action": { "verb": "refresh", "params": {} },
            "targets": { "devices": [nobody] } }),
        ),
        ("no order", json!({})),
    ] {
        let answer = order(body).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
    }
    assert_eq!(bench.events("order_created").await.len(), before);
}
