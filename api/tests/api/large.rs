//! Orders of more devices than one transaction takes: written in pieces, answered as a whole.

use std::time::Duration;

use api::audit::Actor;
use api::db::{Rank, Tx};
use protocol::id::DeviceId;
use protocol::trust::TrustRoot;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::actors::{TestAgent, commands, id_of};
use super::approvals::key;
use super::bench::{Bench, GUARD, PAUSE, json_of, order_body};

/// A control plane that writes two devices at a time, with five devices. Its jobs do nothing.
async fn bench() -> (Bench, Vec<TestAgent>) {
    let bench = Bench::start().await.restart_with(|config| {
        (config.order_piece, config.job_period) = (2, Duration::from_secs(3600));
    });
    let bench = bench.await;
    let mut agents = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        agents.push(bench.agent(name, Some("lab")).await);
    }
    // As orders list them.
    agents.sort_by_key(|agent| agent.id);
    (bench, agents)
}

fn ids(agents: &[TestAgent]) -> Vec<DeviceId> {
    agents.iter().map(|agent| agent.id).collect()
}

/// A request on a task of its own, which ends with it.
struct Request(JoinSet<Response>);

impl Request {
    /// Sends an order with a key.
    fn post(bench: &Bench, body: &Value) -> Self {
        let request = bench.http.post(bench.url("/v1/orders")).bearer_auth(&bench.token);
        let request = request.header("idempotency-key", "case-7").json(body);
        let mut task = JoinSet::new();
        task.spawn(async move { request.send().await.unwrap() });
        Self(task)
    }

    async fn answer(mut self) -> Response {
        tokio::time::timeout(GUARD, self.0.join_next()).await.unwrap().unwrap().unwrap()
    }
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, wait).await.unwrap();
}

/// Lets an order be accepted and so many of its commands be written, and no more: the transaction
/// that is answered keeps everybody else from writing.
async fn stopped_at(bench: &Bench, body: &Value, commands: usize) -> (Request, Tx) {
    let db = &bench.api.app().db;
    let mut held = db.write(Actor::System, bench.now()).await.unwrap();
    let request = Request::post(bench, body);
    loop {
        // Whoever waits now has a turn, and so one transaction of the order at most.
        until(|| db.waiting(Rank::InOrder) > 0).await;
        let next = db.write(Actor::System, bench.now());
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(held);
        held = next.await.unwrap();
        let is_accepted = !bench.events("order_created").await.is_empty();
        let written = bench.get("/v1/commands").await["items"].as_array().unwrap().len();
        assert!(written <= commands, "{written} commands are written");
        if is_accepted && written == commands {
            return (request, held);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_order_is_written_in_pieces_and_answered_as_a_whole() {
    let (bench, agents) = bench().await;
    let body = order_body("refresh", &ids(&agents));
    let made = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let order = &made["order"];
    assert_eq!((&order["device_count"], &order["states"]), (&json!(5), &json!({ "queued": 5 })));
    let shown = bench.get(&format!("/v1/orders/{}", order["id"].as_str().unwrap())).await;
    assert_eq!(&shown, order);
    for (agent, told) in agents.iter().zip(made["commands"].as_array().unwrap()) {
        let command = commands(&agent.check_in(&bench, Vec::new()).await).remove(0);
        assert_eq!(id_of(&command), told["id"]);
        let verified = agent.verify(&bench, &command.jws);
        assert_eq!(verified.envelope().manifest.device_count, 5, "one manifest for all");
    }
    assert_eq!(bench.events("order_created").await.len(), 1);
    assert_eq!(bench.events("command_queued").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_order_is_written_between_two_pieces_of_a_large_one() {
    let (bench, agents) = bench().await;
    let body = order_body("refresh", &ids(&agents));
    let (request, held) = stopped_at(&bench, &body, 2).await;
    let urgent = order_body("lock", &[agents[4].id]);
    let urgent = bench.post("/v1/orders", &urgent, StatusCode::CREATED);
    let (urgent, ()) = tokio::join!(urgent, async {
        until(|| bench.api.app().db.waiting(Rank::First) > 0).await;
        drop(held);
    });
    let made = json_of(request.answer().await, StatusCode::CREATED).await;
    let queued = bench.events("command_queued").await;
    let place = |id: &Value| queued.iter().position(|event| event["subject"] == *id).unwrap();
    let urgent = place(&urgent["commands"][0]["id"]);
    let at = |index: usize| place(&made["commands"][index]["id"]);
    assert!(at(1) < urgent && urgent < at(2), "{queued:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_order_goes_on_where_its_node_died_and_has_one_effect() {
    let (bench, agents) = bench().await;
    let body = order_body("refresh", &ids(&agents));
    // Accepted, and one piece of it is written.
    let (request, held) = stopped_at(&bench, &body, 2).await;
    let again = Request::post(&bench, &body).answer().await;
    let again = json_of(again, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(again.to_string().contains("accepted"), "{again}");
    drop(request);
    until(|| bench.api.app().intake.large() == 0).await;
    drop(held);
    let told = commands(&agents[0].check_in(&bench, Vec::new()).await);
    assert_eq!(told.len(), 1, "what is committed may leave");
    let bench = bench.kill_and_restart().await;
    let made = tokio::time::timeout(GUARD, async {
        loop {
            let answer = Request::post(&bench, &body).answer().await;
            if answer.status() == StatusCode::CREATED {
                return answer;
            }
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        }
    });
    let made = made.await.unwrap();
    assert_eq!(made.headers()["idempotency-replayed"], "true");
    let made = json_of(made, StatusCode::CREATED).await;
    assert_eq!(made["commands"][0]["id"], id_of(&told[0]));
    for (agent, command) in agents.iter().zip(made["commands"].as_array().unwrap()) {
        let told = commands(&agent.check_in(&bench, Vec::new()).await);
        assert_eq!(told.len(), 1);
        assert_eq!(id_of(&told[0]), command["id"]);
    }
    assert_eq!(bench.events("order_created").await.len(), 1);
    assert_eq!(bench.events("command_queued").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn order_that_is_withdrawn_in_its_middle_ends_for_every_device() {
    let (bench, agents) = bench().await;
    let body = order_body("refresh", &ids(&agents));
    let (request, held) = stopped_at(&bench, &body, 2).await;
    let listed = bench.get("/v1/commands").await["items"].clone();
    let order = listed[0]["order_id"].as_str().unwrap().to_owned();
    let shown = bench.get(&format!("/v1/orders/{order}")).await;
    assert_eq!(shown["states"], json!({ "queued": 2, "preparing": 3 }));
    let manifest = format!("/v1/orders/{order}/manifest");
    let early = bench.http.get(bench.url(&manifest)).bearer_auth(&bench.token).send().await;
    assert_eq!(early.unwrap().status(), StatusCode::CONFLICT, "what is shown must be the whole");
    let path = format!("/v1/orders/{order}/cancel");
    let nothing = json!({});
    let cancel = bench.post(&path, &nothing, StatusCode::OK);
    tokio::join!(cancel, async {
        until(|| bench.api.app().db.waiting(Rank::First) > 0).await;
        drop(held);
    });
    json_of(request.answer().await, StatusCode::CREATED).await;
    let shown = bench.get(&format!("/v1/orders/{order}")).await;
    assert_eq!(shown["states"], json!({ "cancelled": 5 }));
    assert_eq!(bench.events("command_cancelled").await.len(), 5);
    assert_eq!(bench.events("command_queued").await.len(), 2);
    for agent in &agents {
        assert!(commands(&agent.check_in(&bench, Vec::new()).await).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn device_whose_enrollment_ends_meanwhile_gets_nothing_and_the_others_do() {
    let (bench, agents) = bench().await;
    let body = order_body("refresh", &ids(&agents));
    let (request, held) = stopped_at(&bench, &body, 0).await;
    let path = format!("/v1/devices/{}/revoke", agents[4].id);
    let nothing = json!({});
    let revoke = bench.post_as(&bench.token, &path, &nothing);
    tokio::join!(revoke, async {
        until(|| bench.api.app().db.waiting(Rank::First) > 0).await;
        drop(held);
    });
    let made = json_of(request.answer().await, StatusCode::CREATED).await;
    let order = made["order"]["id"].as_str().unwrap();
    let shown = bench.get(&format!("/v1/orders/{order}")).await;
    assert_eq!(shown["states"], json!({ "queued": 4, "cancelled": 1 }));
    let last = bench.command(&made["commands"][4]["id"]).await;
    assert_eq!(last["ended_by"], "its enrollment ended before it was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_order_that_waits_for_approvals_leaves_with_the_last_of_them() {
    let (bench, agents) = bench().await;
    let ann = key(1);
    bench.set_approvers(&[(&ann, "ann")]).await;
    let one = |root: &mut TrustRoot| {
        root.approvals.insert("refresh".to_owned(), 1);
    };
    bench.change_trust(one).await;
    let body = order_body("refresh", &ids(&agents));
    let made = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    assert_eq!(made["order"]["states"], json!({ "awaiting_approval": 5 }));
    let order = made["order"]["id"].as_str().unwrap();
    let manifest = super::approvals::manifest(&bench, order).await;
    let approval = super::approvals::signed(&bench, &manifest, &ann);
    let path = format!("/v1/orders/{order}/approvals");
    let shown = bench.post(&path, &approval, StatusCode::OK).await;
    assert_eq!(shown["states"], json!({ "queued": 5 }));
    bench.hand.advance(Duration::from_secs(1));
    for agent in &agents {
        assert_eq!(commands(&agent.check_in(&bench, Vec::new()).await).len(), 1);
    }
}
