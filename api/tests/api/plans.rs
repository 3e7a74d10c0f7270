//! Orders that are bound to what their devices signed.

use protocol::receipt::{Evidence, Outcome};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, id_of};
use super::bench::{Bench, order_body};

const HASH: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

/// A plan that the device answered with that evidence.
async fn planned(bench: &Bench, agent: &TestAgent, evidence: Evidence) -> Value {
    let mut body = order_body("plan", &[agent.id]);
    let wipe = json!({ "verb": "wipe", "params": { "level": "keys", "power_off": true } });
    body["action"]["params"] = json!({ "of": wipe });
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let command = commands(&agent.check_in(bench, Vec::new()).await).remove(0);
    let receipt =
        agent.receipt(&command, |claims| claims.outcome = Outcome::Succeeded { evidence });
    agent.check_in(bench, vec![ack(&command), receipt]).await;
    id_of(&command)
}

fn hashed() -> Evidence {
    Evidence::new().with("plan_hash", HASH)
}

fn wipe(agents: &[&TestAgent], plans: &[&Value]) -> Value {
    let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    let mut body = order_body("wipe", &ids);
    body["plans"] = json!(plans);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_all_devices_stand_in_the_manifest_that_is_approved() {
    let bench = Bench::start().await;
    let (a, b) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let (plan_a, plan_b) =
        (planned(&bench, &a, hashed()).await, planned(&bench, &b, hashed()).await);
    let body = wipe(&[&a, &b], &[&plan_a, &plan_b]);
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let view = bench.get(&format!("/v1/orders/{order}/manifest")).await;
    let plans = json!({ a.id.to_string(): HASH, b.id.to_string(): HASH });
    assert_eq!(view["manifest"]["plans"], plans);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plan_of_a_device_of_the_order_binds_nothing() {
    let bench = Bench::start().await;
    let (a, b) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let plan = planned(&bench, &a, hashed()).await;
    let simulated = planned(&bench, &a, Evidence::new()).await;
    let odd = planned(&bench, &a, Evidence::new().with("plan_hash", "short")).await;
    let locked = bench.order("lock", &[a.id]).await["commands"][0]["id"].clone();
    let mut lock = order_body("lock", &[a.id]);
    lock["plans"] = json!([plan]);
    for body in [
        wipe(&[&b], &[&plan]),
        wipe(&[&a, &b], &[&plan]),
        wipe(&[&a], &[&plan, &plan]),
        wipe(&[&a], &[&simulated]),
        wipe(&[&a], &[&odd]),
        wipe(&[&a], &[&locked]),
        wipe(&[&a], &[&json!(b.id)]),
        lock,
    ] {
        let refused = bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(refused.to_string().contains("plans"), "{refused}");
    }
    let mut nested = order_body("plan", &[a.id]);
    nested["action"]["params"] = json!({ "of": { "verb": "refresh", "params": {} } });
    bench.post("/v1/orders", &nested, StatusCode::UNPROCESSABLE_ENTITY).await;
}
