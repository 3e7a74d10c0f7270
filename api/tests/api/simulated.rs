//! Orders for simulated devices and others never meet: the token said which a device is.

use protocol::envelope::Verifying;
use protocol::frame::CommandFrame;
use protocol::receipt::RefusalReason;
use protocol::trust::TrustRoot;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, id_of};
use super::bench::{Bench, json_of, order_body};

const CREATED: StatusCode = StatusCode::CREATED;
const WRONG: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

async fn simulated_token(bench: &Bench, group: &str) -> protocol::enrollment::EnrollmentToken {
    let body = json!({ "group": group, "simulated": true });
    let made = bench.post("/v1/enrollment-tokens", &body, CREATED).await;
    assert_eq!(made["simulated"], true);
    made["token"].as_str().unwrap().parse().unwrap()
}

async fn simulated(bench: &Bench, name: &str, group: &str) -> TestAgent {
    let token = simulated_token(bench, group).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let response = bench.enroll(&token, name, &key).await;
    bench.agent_of(key, json_of(response, CREATED).await)
}

/// The same order for simulated devices.
fn marked(mut body: Value) -> Value {
    body["simulated"] = json!(true);
    body
}

fn to(targets: Value) -> Value {
    let mut body = order_body("lock", &[]);
    body["targets"] = targets;
    body
}

/// Whether a device that acts, or one that does not, would take it.
fn taken(bench: &Bench, agent: &TestAgent, command: &CommandFrame, is_simulated: bool) -> bool {
    let (device, generation, trust) = (agent.id, agent.generation, &agent.trust);
    let verifying = Verifying { device, generation, now: bench.now(), trust, is_simulated };
    match verifying.verify(&command.jws) {
        Ok(_) => true,
        Err(refusal) => {
            assert_eq!(refusal.reason, RefusalReason::WrongAudience, "{refusal}");
            assert!(refusal.authentic.is_some(), "its number counts as seen");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn order_reaches_devices_of_its_own_kind_and_passes_the_others_of_a_group_by() {
    let bench = Bench::start().await;
    let real = bench.agent("web-17", Some("lab")).await;
    let sim = simulated(&bench, "sim-1", "lab").await;
    for (targets, pointer) in [
        (json!({ "devices": [real.id, sim.id] }), "/targets/devices/1"),
        (json!({ "names": ["web-17", "sim-1"] }), "/targets/names/1"),
    ] {
        let problem = bench.post("/v1/orders", &to(targets), WRONG).await;
        assert_eq!(problem["errors"][0]["pointer"], pointer);
        assert!(problem.to_string().contains("is a simulated device"), "{problem}");
    }
    let wrong = marked(to(json!({ "devices": [sim.id, real.id] })));
    let problem = bench.post("/v1/orders", &wrong, WRONG).await;
    assert_eq!(problem["errors"][0]["pointer"], "/targets/devices/1");

    let group = to(json!({ "group": "lab" }));
    let mut dry = group.clone();
    dry["dry_run"] = json!(true);
    assert_eq!(bench.post("/v1/orders", &dry, StatusCode::OK).await["skipped"], 1);
    let plain = bench.post("/v1/orders", &group, CREATED).await;
    let made = bench.post("/v1/orders", &marked(group), CREATED).await;
    for (order, agent) in [(&plain, &real), (&made, &sim)] {
        assert_eq!(order["skipped"], 1);
        assert_eq!(order["commands"].as_array().unwrap().len(), 1);
        assert_eq!(order["commands"][0]["device_id"], json!(agent.id));
    }
    assert_eq!(plain["order"].get("simulated"), None);
    assert_eq!(made["order"]["simulated"], true);

    let mut told = commands(&real.check_in(&bench, Vec::new()).await);
    let command = told.remove(0);
    assert!(told.is_empty() && id_of(&command) == plain["commands"][0]["id"]);
    assert!(taken(&bench, &real, &command, false));
    let command = commands(&sim.check_in(&bench, Vec::new()).await).remove(0);
    assert!(taken(&bench, &sim, &command, true));
    assert!(!taken(&bench, &sim, &command, false), "whoever acts refuses it");

    let shown = bench.get(&format!("/v1/devices/{}", sim.id)).await;
    assert_eq!(shown["simulated"], true);
    let shown = bench.get(&format!("/v1/devices/{}", real.id)).await;
    assert_eq!(shown.get("simulated"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_of_the_other_kind_alone_is_no_target() {
    let bench = Bench::start().await;
    simulated(&bench, "sim-1", "swarm").await;
    bench.agent("web-17", Some("lab")).await;
    for (body, says) in [
        (to(json!({ "group": "swarm" })), "name only simulated devices (1)"),
        (marked(to(json!({ "group": "lab" }))), "name no simulated device (1 others)"),
    ] {
        let problem = bench.post("/v1/orders", &body, WRONG).await;
        assert!(problem.to_string().contains(says), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_of_simulated_devices_spend_no_budget() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.revocations_per_operator = 1;
    });
    let bench = bench.await;
    for name in ["sim-1", "sim-2", "sim-3"] {
        let sim = simulated(&bench, name, "swarm").await;
        let path = format!("/v1/devices/{}/revoke", sim.id);
        bench.post(&path, &json!({}), StatusCode::NO_CONTENT).await;
    }
    let acts = bench.agent("a", None).await;
    let path = format!("/v1/devices/{}/revoke", acts.id);
    bench.post(&path, &json!({}), StatusCode::NO_CONTENT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_token_makes_no_simulated_device_of_one_that_acts_and_none_the_other_way() {
    let bench = Bench::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let first = bench.enrollment_token(Some("lab")).await;
    let enrolled = json_of(bench.enroll(&first, "web-17", &key).await, CREATED).await;
    let other = simulated_token(&bench, "lab").await;
    assert_eq!(bench.enroll(&other, "web-17", &key).await.status(), StatusCode::CONFLICT);
    let path = format!("/v1/devices/{}", enrolled["device_id"].as_str().unwrap());
    let device = bench.get(&path).await;
    assert_eq!((&device["generation"], device.get("simulated")), (&json!(1), None));

    // It was not used up by that.
    let another = rcgen::KeyPair::generate().unwrap();
    json_of(bench.enroll(&other, "sim-1", &another).await, CREATED).await;
    let plain = bench.enrollment_token(None).await;
    assert_eq!(bench.enroll(&plain, "sim-1", &another).await.status(), StatusCode::CONFLICT);
    let again = simulated_token(&bench, "lab").await;
    let enrolled = json_of(bench.enroll(&again, "sim-1", &another).await, CREATED).await;
    assert_eq!(enrolled["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wipes_of_simulated_devices_spend_no_budget_and_trip_no_brake() {
    let bench = Bench::start().await.restart_with(|config| {
        (config.budgets.destructive_per_operator, config.budgets.brake_above) = (2, 3);
    });
    let bench = bench.await;
    let real = bench.agent("web-17", None).await;
    let sim = simulated(&bench, "sim-1", "lab").await;
    for _ in 0..5 {
        bench.post("/v1/orders", &marked(order_body("wipe", &[sim.id])), CREATED).await;
    }
    let body = order_body("wipe", &[real.id]);
    for status in [CREATED, CREATED, StatusCode::TOO_MANY_REQUESTS] {
        bench.post("/v1/orders", &body, status).await;
    }
    assert!(bench.events("lockdown_began").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_an_order_for_simulated_devices_back_is_for_them_as_well() {
    let bench = Bench::start().await;
    let mut sim = simulated(&bench, "sim-1", "lab").await;
    let nobody = |root: &mut TrustRoot| {
        root.approvals.insert("run_script".to_owned(), 0);
    };
    sim.trust = bench.change_trust(nobody).await;
    let (action, script) = protocol::fixture::run_script();
    let body = json!({ "action": action, "script": script, "simulated": true,
        "targets": { "devices": [sim.id] }, "reason": "a test" });
    let made = bench.post("/v1/orders", &body, CREATED).await;
    let command = commands(&sim.check_in(&bench, Vec::new()).await).remove(0);
    sim.check_in(&bench, vec![ack(&command)]).await;
    let path = format!("/v1/orders/{}/cancel", made["order"]["id"].as_str().unwrap());
    let answer = bench.post(&path, &json!({}), StatusCode::OK).await;
    assert_eq!(answer["cancel"]["order"]["simulated"], true);
    let back = commands(&sim.check_in(&bench, vec![ack(&command)]).await).remove(0);
    assert!(taken(&bench, &sim, &back, true) && !taken(&bench, &sim, &back, false));
}
