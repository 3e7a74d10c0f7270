//! What stops an order on its way: withdrawn while no device has it, called back by a signed order
//! where one waits in its undo window, and frozen for a time.

use protocol::action::Action;
use protocol::fixture;
use protocol::frame::{AgentFrame, CommandFrame};
use protocol::id::DeviceId;
use protocol::offline::OfflineSecret;
use protocol::receipt::{Evidence, Outcome, RefusalReason};
use protocol::trust::TrustRoot;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, id_of};
use super::approvals::approved_wipe;
use super::bench::{Bench, json_of, order_body};

/// A device that holds a wipe in the undo window that the trust root asks for.
async fn held(bench: &Bench) -> (TestAgent, CommandFrame) {
    let undo = |root: &mut TrustRoot| root.undo_secs = [("wipe".to_owned(), 600)].into();
    bench.change_trust(undo).await;
    let mut agent = bench.agent("a", None).await;
    let command = approved_wipe(bench, &mut agent).await;
    let command_id = command.command_id;
    let stage = "undo window until 2026-01-01T00:10:00Z".to_owned();
    agent.check_in(bench, vec![ack(&command), AgentFrame::stage(command_id, stage)]).await;
    (agent, command)
}

fn cancel_path(command: &CommandFrame) -> String {
    format!("/v1/commands/{}/cancel", command.command_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_in_its_undo_window_is_called_back_by_a_signed_order() {
    let bench = Bench::start().await;
    let (agent, wipe) = held(&bench).await;
    let story = bench.command(&id_of(&wipe)).await;
    assert_eq!(story["stage"], "undo window until 2026-01-01T00:10:00Z");

    // Whoever may stop needs no other scope for that.
    let token = bench.token_for(&["read@*", "stop@*"]).await;
    let answer = bench.post_as(&token, &cancel_path(&wipe), &json!({ "reason": "not ours" })).await;
    let answer = json_of(answer, StatusCode::OK).await;
    assert_eq!(answer["state"], "running", "only its device ends it");
    assert_eq!(answer["cancel"]["commands"][0]["state"], "queued");
    let cancel = commands(&agent.check_in(&bench, vec![ack(&wipe)]).await).remove(0);
    let verified = agent.verify(&bench, &cancel.jws);
    let Action::Cancel(back) = verified.envelope().action() else { panic!("{verified:?}") };
    assert_eq!(json!(back.order_id), story["order_id"]);
    assert!(verified.envelope().exp >= agent.verify(&bench, &wipe.jws).envelope().exp);

    let detail = "called back".to_owned();
    let called_back = Outcome::Refused { reason: RefusalReason::Cancelled, detail };
    let evidence = Evidence::new().with("result", "called_back");
    let receipts = vec![
        agent.receipt(&wipe, |claims| claims.outcome = called_back),
        agent.receipt(&cancel, |claims| claims.outcome = Outcome::Succeeded { evidence }),
    ];
    agent.check_in(&bench, receipts).await;
    let story = bench.command(&id_of(&wipe)).await;
    assert_eq!((&story["state"], &story["grade"]), (&json!("refused"), &json!("refused")));
    assert_eq!(story["outcome"]["reason"], "cancelled");
    assert_eq!(bench.command(&id_of(&cancel)).await["state"], "succeeded");
    bench.post(&cancel_path(&wipe), &json!({}), StatusCode::CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_order_is_called_back_where_devices_have_it() {
    let bench = Bench::start().await;
    let (agent, wipe) = held(&bench).await;
    let story = bench.command(&id_of(&wipe)).await;
    let order = story["order_id"].as_str().unwrap();
    let path = format!("/v1/orders/{order}/cancel");
    let answer = bench.post(&path, &json!({}), StatusCode::OK).await;
    assert_eq!(answer["states"], json!({ "running": 1 }));
    assert_eq!(answer["cancel"]["commands"].as_array().unwrap().len(), 1);
    assert_eq!(commands(&agent.check_in(&bench, vec![ack(&wipe)]).await).len(), 1);
}

/// A device for which a script is ordered that nobody needs to approve, and the order's id.
async fn script_ordered(bench: &Bench) -> (TestAgent, Value) {
    let mut agent = bench.agent("a", None).await;
    let nobody = |root: &mut TrustRoot| {
        root.approvals.insert("run_script".to_owned(), 0);
    };
    agent.trust = bench.change_trust(nobody).await;
    let (action, script) = fixture::run_script();
    let targets = json!({ "devices": [agent.id] });
    let body =
        json!({ "action": action, "script": script, "targets": targets, "reason": "a test" });
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    (agent, created["order"]["id"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn script_that_its_device_has_is_called_back_by_a_signed_order() {
    let bench = Bench::start().await;
    let (agent, _) = script_ordered(&bench).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    agent.check_in(&bench, vec![ack(&command)]).await;
    let answer = bench.post(&cancel_path(&command), &json!({}), StatusCode::OK).await;
    assert_eq!(answer["state"], "acked", "only its device ends it");
    let cancel = commands(&agent.check_in(&bench, vec![ack(&command)]).await).remove(0);
    let verified = agent.verify(&bench, &cancel.jws);
    let Action::Cancel(back) = verified.envelope().action() else { panic!("{verified:?}") };
    assert_eq!(json!(back.order_id), bench.command(&id_of(&command)).await["order_id"]);
}

/// Another node may have sent it a moment ago, and then its store says so a moment later.
#[tokio::test(flavor = "multi_thread")]
async fn script_that_counts_as_not_sent_is_withdrawn_and_called_back_as_well() {
    let bench = Bench::start().await;
    let (agent, order) = script_ordered(&bench).await;
    let path = format!("/v1/orders/{}/cancel", order.as_str().unwrap());
    let answer = bench.post(&path, &json!({}), StatusCode::OK).await;
    assert_eq!(answer["states"], json!({ "cancelled": 1 }));
    let left = commands(&agent.check_in(&bench, Vec::new()).await);
    let [cancel] = &left[..] else { panic!("{left:?}") };
    let verified = agent.verify(&bench, &cancel.jws);
    let Action::Cancel(back) = verified.envelope().action() else { panic!("{verified:?}") };
    assert_eq!(json!(back.order_id), order);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_undo_window_is_not_called_back() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let wipe = approved_wipe(&bench, &mut agent).await;
    agent.check_in(&bench, vec![ack(&wipe)]).await;
    bench.post(&cancel_path(&wipe), &json!({}), StatusCode::CONFLICT).await;
    assert!(commands(&agent.check_in(&bench, vec![ack(&wipe)]).await).is_empty());
    let lock = json!({ "undo_secs": 60 });
    let mut body = order_body("lock", &[agent.id]);
    body.as_object_mut().unwrap().extend(lock.as_object().unwrap().clone());
    bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    body = order_body("wipe", &[agent.id]);
    body["undo_secs"] = json!(24 * 60 * 60 + 1);
    bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    body["undo_secs"] = json!(600);
    body["dry_run"] = json!(true);
    let dry_run = bench.post("/v1/orders", &body, StatusCode::OK).await;
    let kinds: Vec<_> =
        dry_run["warnings"].as_array().unwrap().iter().map(|w| &w["kind"]).collect();
    assert!(kinds.contains(&&json!("undo_window")), "{kinds:?}");
    // This agent reports no `cancel`.
    assert!(kinds.contains(&&json!("no_undo_window")), "{kinds:?}");
    body["dry_run"] = json!(false);
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let order = created["order"]["id"].as_str().unwrap();
    let manifest = bench.get(&format!("/v1/orders/{order}/manifest")).await;
    assert_eq!(manifest["manifest"]["undo_secs"], 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_freezes_loudly_and_does_not_thaw() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let token = bench.token_for(&["read@*", "stop@*"]).await;
    let freeze = |secs: u64| {
        let mut body = order_body("freeze", &[agent.id]);
        body["action"]["params"] = json!({ "until": bench.now().as_millis() / 1000 + secs });
        body
    };
    let answer = bench.post_as(&token, "/v1/orders", &freeze(25 * 60 * 60)).await;
    json_of(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
    let answer = bench.post_as(&token, "/v1/orders", &freeze(60 * 60)).await;
    let created: Value = json_of(answer, StatusCode::CREATED).await;
    assert_eq!(created["commands"][0]["state"], "queued");
    assert_eq!(bench.events("freeze_ordered").await.len(), 1);
    let frame = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let verified = agent.verify(&bench, &frame.jws);
    assert!(matches!(verified.envelope().action(), Action::Freeze(_)));

    let thaw = order_body("thaw", &[agent.id]);
    json_of(bench.post_as(&token, "/v1/orders", &thaw).await, StatusCode::FORBIDDEN).await;
    let created = bench.post("/v1/orders", &thaw, StatusCode::CREATED).await;
    assert_eq!(created["commands"][0]["state"], "awaiting_approval");
    assert_eq!(created["order"]["approvals_needed"], 2);
    assert_eq!(bench.events("thaw_ordered").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_that_came_to_its_signed_end_is_no_alarm() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut body = order_body("quarantine", &[agent.id]);
    body["action"]["params"] = json!({ "until": bench.now().as_millis() / 1000 - 1 });
    bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    body["action"]["params"] = json!({ "until": bench.now().as_millis() / 1000 + 60 });
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let ended = agent.notice(&command, |claims| claims.what = "quarantine_ended".to_owned());
    let other = agent.notice(&command, |_| ());
    agent.check_in(&bench, vec![ack(&command), ended, other]).await;
    let told = bench.events("effect_ended").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["payload"]["what"], "quarantine_ended");
    assert_eq!(bench.events("device_tampered").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_codes_need_who_may_end_the_order_and_their_use_is_no_alarm() {
    let bench = Bench::start().await;
    bench.change_trust(|root| root.approvals = [("unlock".to_owned(), 1)].into()).await;
    let agent = bench.agent("a", None).await;
    let other = bench.agent("b", None).await;
    agent.check_in(&bench, Vec::new()).await;
    let secret = OfflineSecret::new([1; 32]);
    let commit = |device: &DeviceId| secret.code(device).commitment(device).to_string();
    let with_code = |verb: &str, device: &DeviceId| {
        let mut body = order_body(verb, &[agent.id]);
        body["offline_codes"] = json!({ device.to_string(): commit(device) });
        body
    };
    for body in [with_code("lock", &other.id), with_code("reboot", &agent.id)] {
        let refused = bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(refused.to_string().contains("/offline_codes"), "{refused}");
    }
    let mut body = with_code("lock", &agent.id);
    body["dry_run"] = json!(true);
    let dry_run = bench.post("/v1/orders", &body, StatusCode::OK).await;
    let kinds: Vec<_> =
        dry_run["warnings"].as_array().unwrap().iter().map(|w| &w["kind"]).collect();
    assert!(kinds.contains(&&json!("no_offline_code")), "this agent reports none: {kinds:?}");
    assert_eq!(dry_run["approvals_needed"], 1, "as many as to unlock");
    body["dry_run"] = json!(false);
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    assert_eq!(created["commands"][0]["state"], "awaiting_approval");
    let order = created["order"]["id"].as_str().unwrap();
    let manifest = bench.get(&format!("/v1/orders/{order}/manifest")).await;
    assert_eq!(manifest["manifest"]["offline_codes"], body["offline_codes"]);

    bench.post("/v1/orders", &order_body("lock", &[agent.id]), StatusCode::CREATED).await;
    let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
    let used = agent.notice(&command, |claims| claims.what = "unlocked_offline".to_owned());
    let wrong = agent.notice(&command, |claims| claims.what = "offline_code_wrong".to_owned());
    agent.check_in(&bench, vec![ack(&command), used, wrong]).await;
    assert_eq!(bench.events("effect_ended").await[0]["payload"]["what"], "unlocked_offline");
    let alarm = &bench.events("device_tampered").await[0];
    assert_eq!(alarm["payload"]["what"], "offline_code_wrong");
}
