//! Stolen rights reach few devices at a time, and meet a switch that they cannot turn.

use std::time::Duration;

use api::audit::Actor;
use api::commands::halt;
use api::lockdown::Level;
use protocol::action::Action;
use protocol::id::DeviceId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::actors::{TestAgent, commands};
use super::approvals::{key, manifest, signed};
use super::bench::{Bench, GUARD, PAUSE, approvers, order_body};

const MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
const LOCKED: StatusCode = StatusCode::LOCKED;

async fn lock_down(bench: &Bench, level: Level) {
    let done = halt::halt(&bench.api.app().db, bench.now(), level, "the console says so").await;
    done.unwrap().expect("it was not in force");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_operator_destroys_no_more_than_the_budget_also_after_a_restart() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.destructive_per_operator = 2;
    });
    let bench = bench.await;
    let agent = bench.agent("a", None).await;
    let body = order_body("wipe", &[agent.id]);
    for _ in 0..2 {
        bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    }
    let problem = bench.post("/v1/orders", &body, MANY).await;
    assert_eq!(problem["type"], "urn:tocsin:problem:over-budget");
    bench.order("lock", &[agent.id]).await;
    let bench = bench.restart_with(|config| config.budgets.destructive_per_operator = 2).await;
    bench.post("/v1/orders", &body, MANY).await;
    assert_eq!(bench.events("order_created").await.len(), 3, "what was refused left nothing");
    bench.hand.advance(Duration::from_secs(3700));
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_the_fleet_have_budgets_of_their_own() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.destructive_per_operator = 0;
        config.budgets.destructive_per_group = 1;
        config.budgets.destructive_in_all = 3;
    });
    let bench = bench.await;
    let lab = bench.agent("a", Some("lab")).await;
    let free = bench.agent("b", None).await;
    let order = |id| order_body("wipe", &[id]);
    bench.post("/v1/orders", &order(lab.id), StatusCode::CREATED).await;
    let problem = bench.post("/v1/orders", &order(lab.id), MANY).await;
    assert!(problem.to_string().contains("destructive/group of lab"), "{problem}");
    for status in [StatusCode::CREATED, StatusCode::CREATED, MANY] {
        bench.post("/v1/orders", &order(free.id), status).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_rate_of_wipes_trips_the_brake_which_withdraws_them_and_no_token_lifts_it() {
    let bench = Bench::start().await.restart_with(|config| config.budgets.brake_above = 3).await;
    let agent = bench.agent("a", None).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(bench.order("wipe", &[agent.id]).await["commands"][0]["id"].clone());
    }
    let body = order_body("wipe", &[agent.id]);
    bench.post("/v1/orders", &body, LOCKED).await;
    for id in &made {
        assert_eq!(bench.command(id).await["state"], "cancelled");
    }
    assert_eq!(bench.events("lockdown_began").await.len(), 1);
    bench.post("/v1/orders", &body, LOCKED).await;
    assert_eq!(bench.events("lockdown_began").await.len(), 1);
    bench.order("lock", &[agent.id]).await;
    bench.hand.advance(Duration::from_secs(3 * 24 * 3600));
    bench.post("/v1/orders", &body, LOCKED).await;
    halt::resume(&bench.api.app().db, bench.now()).await.unwrap();
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    assert_eq!(bench.events("lockdown_ended").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_operator_revokes_no_more_than_the_budget() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.revocations_per_operator = 2;
    });
    let bench = bench.await;
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        agents.push(bench.agent(name, None).await);
    }
    let path = |agent: &TestAgent| format!("/v1/devices/{}/revoke", agent.id);
    let none = json!({});
    // Asked again, it is told again and costs nothing.
    for agent in [&agents[0], &agents[0], &agents[1]] {
        bench.post(&path(agent), &none, StatusCode::NO_CONTENT).await;
    }
    let refused = bench.post(&path(&agents[2]), &none, MANY).await;
    assert!(refused.to_string().contains("revocations/operator"), "{refused}");
    agents[2].check_in(&bench, Vec::new()).await;
    let other = bench.token_for(&["devices@*"]).await;
    let revoked = bench.post_as(&other, &path(&agents[2]), &none).await;
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT, "a budget of each");
}

/// Trips the brake, and answers how many orders it let through before.
async fn trip(bench: &Bench, agent: &TestAgent) {
    let body = order_body("wipe", &[agent.id]);
    bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    bench.post("/v1/orders", &body, LOCKED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brake_freezes_every_device_by_orders_that_they_believe() {
    let bench = Bench::start().await.restart_with(|config| config.budgets.brake_above = 1).await;
    let (here, away) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(here.id, bench.session()).await;
    trip(&bench, &here).await;
    let pushed = hub.command_for(here.id).await;
    let asked = commands(&away.check_in(&bench, Vec::new()).await).remove(0);
    for (agent, command) in [(&here, pushed), (&away, asked)] {
        let verified = agent.verify(&bench, &command.jws);
        let Action::Freeze(freeze) = verified.envelope().action() else { panic!("{verified:?}") };
        assert_eq!(freeze.until.since(bench.now()).as_secs().div_ceil(60), 60);
    }
    let ordered = bench.events("freeze_ordered").await;
    assert_eq!((ordered.len(), &ordered[0]["actor"]), (1, &json!("system")), "{ordered:?}");
    // It is given once, also by a control plane that starts again.
    let bench = bench.restart_with(|config| config.budgets.brake_above = 1).await;
    bench.order("lock", &[away.id]).await;
    assert_eq!(bench.events("freeze_ordered").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn brake_freezes_a_fleet_that_no_single_order_reaches() {
    let bench = Bench::start().await.restart_with(|config| config.budgets.brake_above = 1).await;
    let agent = bench.agent("a", None).await;
    let ids: Vec<_> = (0..450).map(|_| DeviceId::new(bench.now(), bench.entropy.bytes())).collect();
    let mut tx = bench.api.app().db.write(Actor::System, bench.now()).await.unwrap();
    api::fixture::insert_devices(&mut tx, &ids, None).await.unwrap();
    tx.commit().await.unwrap();
    trip(&bench, &agent).await;
    let frozen = async {
        loop {
            let orders = bench.events("freeze_ordered").await;
            let devices = orders.iter().map(|order| order["payload"]["devices"].as_u64().unwrap());
            if devices.clone().sum::<u64>() >= 451 {
                return devices.collect::<Vec<_>>();
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert_eq!(tokio::time::timeout(GUARD, frozen).await.unwrap(), [200, 200, 51]);
}

#[tokio::test(flavor = "multi_thread")]
async fn brake_that_is_to_freeze_nobody_freezes_nobody() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.brake_above = 1;
        config.budgets.brake_freeze = Duration::ZERO;
    });
    let bench = bench.await;
    let agent = bench.agent("a", None).await;
    trip(&bench, &agent).await;
    halt::resume(&bench.api.app().db, bench.now()).await.unwrap();
    assert!(bench.events("freeze_ordered").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_approval_in_a_lockdown_releases_nothing() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (ann, bob) = (key(1), key(2));
    bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let manifest = manifest(&bench, &order).await;
    let path = format!("/v1/orders/{order}/approvals");
    bench.post(&path, &signed(&bench, &manifest, &ann), StatusCode::OK).await;
    lock_down(&bench, Level::Destructive).await;
    bench.post(&path, &signed(&bench, &manifest, &bob), LOCKED).await;
    let command = bench.command(&created["commands"][0]["id"]).await;
    assert_eq!(command["state"], "cancelled");
}

/// Every route of the document that changes anything, but those that stop or withdraw.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_token_changes_nothing_in_a_lockdown_by_any_route() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let made = bench.order("lock", &[agent.id]).await;
    lock_down(&bench, Level::Everything).await;
    let document = bench.get("/openapi.json").await;
    let mut refused = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "01890000-0000-7000-8000-000000000000");
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "get") {
            let stops = ["/cancel", "/reject", "/withdraw"].iter().any(|end| path.ends_with(end));
            // Who signs in may look, as before: what the token is used for meets the lockdown.
            let looks = path == "/v1/sign-ins";
            if stops || looks || (method == "delete" && path.starts_with("/v1/tokens/")) {
                continue;
            }
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let url = format!("https://localhost:{}{path}", bench.api.operator_addr.port());
            let request = bench.http.request(method.clone(), url).bearer_auth(&bench.token);
            let status = request.json(&json!({})).send().await.unwrap().status();
            assert_eq!(status, LOCKED, "{method} {path}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused} routes");
    let id = made["commands"][0]["id"].as_str().unwrap();
    let cancel = format!("/v1/commands/{id}/cancel");
    let stopped: Value = bench.post(&cancel, &json!({}), StatusCode::OK).await;
    assert_eq!(stopped["state"], "cancelled");
    let bench = bench.restart_with(|_| ()).await;
    bench.post("/v1/orders", &order_body("lock", &[agent.id]), LOCKED).await;
    halt::resume(&bench.api.app().db, bench.now()).await.unwrap();
    bench.order("lock", &[agent.id]).await;
}

/// An order of the mass role is judged by its people, not by budgets.
#[tokio::test(flavor = "multi_thread")]
async fn order_of_the_mass_role_is_in_no_budget() {
    let bench = Bench::start().await.restart_with(|config| {
        config.budgets.destructive_per_operator = 1;
        config.budgets.brake_above = 1;
    });
    let bench = bench.await;
    let mass = [key(11), key(12)];
    bench
        .change_trust(|root| {
            let people = approvers(&[(&mass[0], "ann"), (&mass[1], "bob")]);
            root.mass = Some(protocol::trust::Quorum { approvers: people, threshold: 2 });
        })
        .await;
    let mut ids = Vec::new();
    for index in 0..11 {
        ids.push(bench.agent(&format!("d{index}"), None).await.id);
    }
    bench.order("wipe", &ids).await;
    bench.order("wipe", &ids[..1]).await;
    bench.post("/v1/orders", &order_body("wipe", &ids[..1]), MANY).await;
}
