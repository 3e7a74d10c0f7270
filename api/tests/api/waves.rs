//! The first wave of a large order, and those behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use api::commands::halt;
use api::lockdown::Level;
use protocol::frame::CommandFrame;
use protocol::receipt::Outcome;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands};
use super::approvals::{key, manifest, signed};
use super::bench::{Bench, json_of, order_body};

/// A control plane in which three in ten devices go first, of orders of more than two.
async fn bench() -> Bench {
    Bench::start().await.restart_with(policy).await
}

fn policy(config: &mut api::Config) {
    config.first_wave.disruptive_above = 2;
    config.first_wave.destructive_above = 2;
    config.first_wave.percent = 40;
}

async fn agents(bench: &Bench, count: usize) -> Vec<TestAgent> {
    let mut agents = Vec::new();
    for index in 0..count {
        agents.push(bench.agent(&format!("d{index}"), None).await);
    }
    agents
}

/// An order of a verb for all of them.
async fn ordered(bench: &Bench, verb: &str, agents: &[TestAgent]) -> Value {
    let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    bench.order(verb, &ids).await["order"].clone()
}

async fn order(bench: &Bench, order: &Value) -> Value {
    bench.get(&format!("/v1/orders/{}", order["id"].as_str().unwrap())).await
}

/// What each agent is told that is told anything.
async fn told<'a>(
    bench: &Bench,
    agents: &'a [TestAgent],
) -> BTreeMap<usize, (&'a TestAgent, CommandFrame)> {
    let mut told = BTreeMap::new();
    for (index, agent) in agents.iter().enumerate() {
        let commands = commands(&agent.check_in(bench, Vec::new()).await);
        if let [command] = commands.as_slice() {
            agent.check_in(bench, vec![ack(command)]).await;
            told.insert(index, (agent, command.clone()));
        }
    }
    told
}

async fn succeed(bench: &Bench, (agent, command): &(&TestAgent, CommandFrame)) {
    agent.check_in(bench, vec![agent.receipt(command, |_| {})]).await;
}

async fn fail(bench: &Bench, (agent, command): &(&TestAgent, CommandFrame)) {
    let receipt = agent.receipt(command, |claims| {
        claims.outcome = Outcome::InDoubt { stage: "apply".to_owned() };
    });
    agent.check_in(bench, vec![receipt]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_follow_at_once_when_all_of_the_first_wave_succeeded() {
    let bench = bench().await;
    let agents = agents(&bench, 5).await;
    let given = ordered(&bench, "lock", &agents).await;
    assert_eq!(given["states"], json!({ "queued": 2, "awaiting_wave": 3 }));
    assert_eq!(given["first_wave"], json!({ "size": 2, "state": "running" }));
    assert_eq!(order(&bench, &given).await["states"], given["states"]);
    assert_eq!(bench.events("command_awaits_wave").await.len(), 3);
    let first = told(&bench, &agents).await;
    assert_eq!(first.len(), 2, "nobody behind it is told anything");
    let bench = bench.restart_with(policy).await;
    let mut first = first.values();
    succeed(&bench, first.next().unwrap()).await;
    assert_eq!(order(&bench, &given).await["states"]["awaiting_wave"], 3, "one is not all");
    succeed(&bench, first.next().unwrap()).await;
    let view = order(&bench, &given).await;
    assert_eq!(view["states"], json!({ "queued": 3, "succeeded": 2 }));
    assert_eq!(view["first_wave"]["state"], "passed");
    assert_eq!(bench.events("first_wave_passed").await.len(), 1);
    let then = told(&bench, &agents).await;
    assert_eq!(then.len(), 3);
    for told in then.values() {
        told.0.verify(&bench, &told.1.jws);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_wait_for_somebody_when_one_of_the_first_wave_did_not_succeed() {
    let bench = bench().await;
    let agents = agents(&bench, 5).await;
    let given = ordered(&bench, "lock", &agents).await;
    let first = told(&bench, &agents).await;
    let mut told_first = first.values();
    fail(&bench, told_first.next().unwrap()).await;
    let view = order(&bench, &given).await;
    assert_eq!(view["first_wave"]["state"], "stopped");
    assert_eq!(view["first_wave"]["why"], "of the first wave: 1 in_doubt");
    assert_eq!(bench.events("first_wave_stopped").await.len(), 1);
    succeed(&bench, told_first.next().unwrap()).await;
    assert_eq!(order(&bench, &given).await["states"]["awaiting_wave"], 3, "it stays stopped");
    let path = format!("/v1/orders/{}/continue", given["id"].as_str().unwrap());
    bench.post(&path, &json!({}), StatusCode::UNPROCESSABLE_ENTITY).await;
    let lab = bench.token_for(&["order:lock@lab"]).await;
    let reboots = bench.token_for(&["order:reboot@*"]).await;
    let why = json!({ "reason": "that one is known to be broken" });
    for token in [lab, reboots] {
        let refused = bench.post_as(&token, &path, &why).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
    let view = bench.post(&path, &why, StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "queued": 3, "succeeded": 1, "in_doubt": 1 }));
    let expected = "continued by admin: that one is known to be broken";
    assert_eq!(view["first_wave"]["why"], expected);
    assert_eq!(bench.events("order_continued").await.len(), 1);
    assert_eq!(told(&bench, &agents).await.len(), 3);
    bench.post(&path, &why, StatusCode::CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_has_its_first_wave_once_it_is_approved_and_the_others_their_approvals() {
    let bench = bench().await;
    let mut agents = agents(&bench, 4).await;
    let (ann, bob) = (key(1), key(2));
    let trust = bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    for agent in &mut agents {
        agent.trust = trust.clone();
    }
    let given = ordered(&bench, "wipe", &agents).await;
    assert_eq!(given["states"], json!({ "awaiting_approval": 4 }));
    let id = given["id"].as_str().unwrap();
    let manifest = manifest(&bench, id).await;
    for (key, states) in [
        (&ann, json!({ "awaiting_approval": 4 })),
        (&bob, json!({ "queued": 1, "awaiting_wave": 3 })),
    ] {
        let path = format!("/v1/orders/{id}/approvals");
        let view = bench.post(&path, &signed(&bench, &manifest, key), StatusCode::OK).await;
        assert_eq!(view["states"], states);
    }
    let first = told(&bench, &agents).await;
    assert_eq!(first.len(), 1);
    succeed(&bench, first.values().next().unwrap()).await;
    let then = told(&bench, &agents).await;
    assert_eq!(then.len(), 3);
    for told in then.values() {
        told.0.verify(&bench, &told.1.jws);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_can_give_an_order_to_all_at_once_but_none_that_destroys() {
    let bench = bench().await;
    let agents = agents(&bench, 4).await;
    let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    let mut body = order_body("lock", &ids);
    let dry = |mut body: Value| {
        body["dry_run"] = json!(true);
        body
    };
    let plan = bench.post("/v1/orders", &dry(body.clone()), StatusCode::OK).await;
    assert_eq!(plan["first_wave"], 1);
    body["all_at_once"] = json!(true);
    let plan = bench.post("/v1/orders", &dry(body.clone()), StatusCode::OK).await;
    assert_eq!(plan["first_wave"], Value::Null);
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    assert_eq!(created["order"]["states"], json!({ "queued": 4 }));
    let mut body = order_body("wipe", &ids);
    body["all_at_once"] = json!(true);
    let problem = bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem.to_string().contains("/all_at_once"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_behind_are_withdrawn_and_expire_like_others() {
    let bench = bench().await;
    let agents = agents(&bench, 4).await;
    let cancelled = ordered(&bench, "lock", &agents).await;
    let path = format!("/v1/orders/{}/cancel", cancelled["id"].as_str().unwrap());
    let view = bench.post(&path, &json!({}), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "cancelled": 4 }));
    let given = bench.order("lock", &agents.iter().map(|a| a.id).collect::<Vec<_>>()).await;
    let behind = |c: &&Value| c["state"] == "awaiting_wave";
    let behind = given["commands"].as_array().unwrap().iter().find(behind).unwrap()["id"].clone();
    bench.hand.advance(Duration::from_secs(25 * 60 * 60));
    bench.until_state(&behind, "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lockdown_withdraws_those_that_wait_to_destroy_and_keeps_the_others_where_they_are() {
    let bench = bench().await;
    let agents = agents(&bench, 4).await;
    let locks = ordered(&bench, "lock", &agents).await;
    let first = told(&bench, &agents).await;
    let wipes = ordered(&bench, "wipe", &agents).await;
    let db = &bench.api.app().db;
    halt::halt(db, bench.now(), Level::Everything, "a test").await.unwrap();
    let view = order(&bench, &wipes).await;
    assert_eq!(view["states"], json!({ "cancelled": 4 }), "also those behind");
    succeed(&bench, first.values().next().unwrap()).await;
    let view = order(&bench, &locks).await;
    assert_eq!(view["states"], json!({ "succeeded": 1, "awaiting_wave": 3 }));
    halt::resume(db, bench.now()).await.unwrap();
    let commands = bench.get("/v1/commands").await["items"].clone();
    for command in commands.as_array().unwrap() {
        if command["order_id"] == locks["id"] && command["state"] == "awaiting_wave" {
            bench.until_state(&command["id"], "queued").await;
        }
    }
}

/// The one report that would end the wave never comes: an operator withdraws that command.
#[tokio::test(flavor = "multi_thread")]
async fn first_wave_that_no_report_ends_is_found() {
    let bench = bench().await;
    let agents = agents(&bench, 5).await;
    ordered(&bench, "lock", &agents).await;
    let queued = bench.get("/v1/commands?state=queued").await["items"].clone();
    let behind = bench.get("/v1/commands?state=awaiting_wave").await["items"][0]["id"].clone();
    let agent = agents.iter().find(|agent| json!(agent.id) == queued[0]["device_id"]).unwrap();
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    succeed(&bench, &(agent, command)).await;
    assert_eq!(bench.command(&behind).await["state"], "awaiting_wave");
    let path = format!("/v1/commands/{}/cancel", queued[1]["id"].as_str().unwrap());
    bench.post(&path, &json!({}), StatusCode::OK).await;
    bench.until_state(&behind, "queued").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_session_without_a_code_has_nobody_follow() {
    let bench = Bench::start().await.restart_with(|config| {
        policy(config);
        config.step_up.needed_for = vec![serde_json::from_value(json!("disruptive")).unwrap()];
    });
    let bench = bench.await;
    let agents = agents(&bench, 4).await;
    let given = ordered(&bench, "lock", &agents).await;
    let stolen = bench.person_token("nina", &["*@*"]).await;
    let path = format!("/v1/orders/{}/continue", given["id"].as_str().unwrap());
    let refused = bench.post_as(&stolen, &path, &json!({ "reason": "go" })).await;
    let problem = json_of(refused, StatusCode::FORBIDDEN).await;
    assert_eq!(problem["type"], "urn:tocsin:problem:factor-required");
    assert_eq!(order(&bench, &given).await["states"]["awaiting_wave"], 3);
}

/// A command that was withdrawn before anything left is none that went first.
#[tokio::test(flavor = "multi_thread")]
async fn order_that_lost_a_device_before_its_approval_has_its_first_wave_all_the_same() {
    let bench = bench().await;
    let agents = agents(&bench, 5).await;
    let (ann, bob) = (key(1), key(2));
    bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    let given = bench.order("wipe", &ids).await;
    let command = given["commands"][2]["id"].as_str().unwrap();
    bench.post(&format!("/v1/commands/{command}/cancel"), &json!({}), StatusCode::OK).await;
    let id = given["order"]["id"].as_str().unwrap();
    let (path, manifest) = (format!("/v1/orders/{id}/approvals"), manifest(&bench, id).await);
    bench.post(&path, &signed(&bench, &manifest, &ann), StatusCode::OK).await;
    let view = bench.post(&path, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "queued": 2, "awaiting_wave": 2, "cancelled": 1 }));
}
