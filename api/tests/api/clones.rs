//! One identity on two machines: a boot that comes back after a later one gives it away, and so do agents of
//! one boot that cannot be one.

use std::time::Duration;

use protocol::frame::CommandFrame;
use protocol::id::BootId;
use protocol::run::Run;
use protocol::time::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, commands, id_of};
use super::approvals::{key, manifest, signed};
use super::bench::{Bench, json_of, order_body};

fn boot(number: u8) -> BootId {
    BootId::new(Timestamp::from_millis(1_767_225_600_000), [number; 10])
}

/// A session of the device in that boot.
async fn hello(bench: &Bench, agent: &TestAgent, number: u8, epoch: u64) {
    agent
        .check_in_as(bench, |hello| {
            hello.boot_id = boot(number);
            hello.epoch = epoch;
        })
        .await;
}

async fn device(bench: &Bench, agent: &TestAgent) -> Value {
    bench.get(&format!("/v1/devices/{}", agent.id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_of_a_device_is_told_and_orders_wait_for_somebody_who_knows() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    hello(&bench, &agent, 1, 10).await;
    // The copy, on another machine, looks like a reboot.
    hello(&bench, &agent, 2, 20).await;
    assert!(device(&bench, &agent).await["cloned_at"].is_null());

    hello(&bench, &agent, 1, 30).await;
    let told = bench.events("device_cloned").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["payload"]["boots"], json!([boot(1), boot(2)]));
    assert!(device(&bench, &agent).await["cloned_at"].is_string());

    let mut order = order_body("lock", &[agent.id]);
    let refused = bench.post("/v1/orders", &order, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(refused["errors"][0]["pointer"], "/targets", "{refused}");
    assert!(refused.to_string().contains("two machines"), "{refused}");
    order["dry_run"] = json!(true);
    let plan = bench.post("/v1/orders", &order, StatusCode::OK).await;
    let kinds: Vec<_> =
        plan["warnings"].as_array().unwrap().iter().map(|warning| &warning["kind"]).collect();
    assert!(kinds.contains(&&json!("cloned")), "{plan}");
    order["dry_run"] = json!(false);
    order["accept_cloned"] = json!(true);
    bench.post("/v1/orders", &order, StatusCode::CREATED).await;
    bench.order("refresh", &[agent.id]).await;

    hello(&bench, &agent, 2, 40).await;
    assert_eq!(bench.events("device_cloned").await.len(), 1, "told once");
}

/// A device that was heard from in two boots, one after the other.
async fn rebooted(bench: &Bench) -> TestAgent {
    let agent = bench.agent("a", None).await;
    hello(bench, &agent, 1, 10).await;
    hello(bench, &agent, 2, 20).await;
    agent
}

/// What waits for the device, in that boot.
async fn told(bench: &Bench, agent: &TestAgent, number: u8, epoch: u64) -> Vec<CommandFrame> {
    let frames = agent.check_in_as(bench, |hello| {
        hello.boot_id = boot(number);
        hello.epoch = epoch;
    });
    commands(&frames.await)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_gets_no_wipe_that_was_ordered_before_it_was_told() {
    let bench = Bench::start().await;
    let agent = rebooted(&bench).await;
    let (ann, bob) = (key(1), key(2));
    bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/approvals");
    let manifest = manifest(&bench, &order).await;
    bench.post(&path, &signed(&bench, &manifest, &ann), StatusCode::OK).await;

    hello(&bench, &agent, 1, 30).await;
    let held = bench.events("command_held").await;
    assert_eq!((held.len(), &held[0]["subject"]), (1, &created["commands"][0]["id"]));
    let view = bench.post(&path, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "awaiting_approval": 1 }), "though two persons signed");
    assert!(told(&bench, &agent, 1, 31).await.is_empty());
    assert!(bench.events("command_queued").await.is_empty());
    // Whoever enrolls it anew ends the order with it.
    let token = bench.enrollment_token(None).await;
    json_of(bench.enroll(&token, "a", &agent.key).await, StatusCode::CREATED).await;
    assert_eq!(bench.command(&created["commands"][0]["id"]).await["state"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_gets_nothing_that_was_queued_but_what_somebody_ordered_knowing_of_it() {
    let bench = Bench::start().await;
    let agent = rebooted(&bench).await;
    let held = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    assert!(told(&bench, &agent, 1, 30).await.is_empty(), "not even in answer to the copy");
    assert_eq!(bench.command(&held).await["state"], "queued");
    let mut order = order_body("unlock", &[agent.id]);
    order["accept_cloned"] = json!(true);
    let free = bench.post("/v1/orders", &order, StatusCode::CREATED).await;
    let free = free["commands"][0]["id"].clone();
    let until = bench.now().as_millis() / 1000 + 3600;
    order["action"] = json!({ "verb": "freeze", "params": { "until": until } });
    order["accept_cloned"] = json!(false);
    let stop = bench.post("/v1/orders", &order, StatusCode::CREATED).await;
    let stop = stop["commands"][0]["id"].clone();
    let again = told(&bench, &agent, 2, 40).await;
    assert_eq!(again.iter().map(id_of).collect::<Vec<_>>(), [free.clone(), stop]);
    assert_eq!(again[0].after_seq, 0, "it follows nothing that the device could ask for");

    // Everything is due again, the held one first.
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    bench.hand.advance(Duration::from_secs(3));
    loop {
        let next = id_of(&hub.command_for(agent.id).await);
        assert_ne!(next, held);
        if next == free {
            break;
        }
    }
    bench.hand.advance(Duration::from_secs(2 * 24 * 3600));
    bench.until_state(&held, "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reboots_and_late_words_of_an_earlier_session_are_no_clones() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    for (number, epoch) in [(1, 10), (1, 11), (2, 20), (1, 12), (2, 21), (3, 30), (2, 25), (3, 31)]
    {
        hello(&bench, &agent, number, epoch).await;
    }
    assert!(bench.events("device_cloned").await.is_empty());
    assert!(device(&bench, &agent).await["cloned_at"].is_null());
    bench.order("lock", &[agent.id]).await;
}

/// A hello of an agent that began, spoke and speaks at those times of the same boot.
async fn spoke(bench: &Bench, agent: &TestAgent, [started_us, previous_us, at_us]: [u64; 3]) {
    agent
        .check_in_as(bench, |hello| {
            hello.boot_id = boot(1);
            hello.run = Some(Run { started_us, previous_us, at_us });
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_in_the_same_boot_is_told_when_the_first_one_is_heard_again() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    spoke(&bench, &agent, [100, 100, 150]).await;
    // The copy, beside it, looks like a restart of the agent.
    spoke(&bench, &agent, [200, 200, 210]).await;
    assert!(device(&bench, &agent).await["cloned_at"].is_null());
    spoke(&bench, &agent, [100, 150, 260]).await;
    let told = bench.events("device_cloned").await;
    assert_eq!(told.len(), 1, "{told:?}");
    let expected = json!({ "boot": boot(1), "runs_us": [[100, 150, 260], [200, 210]] });
    assert_eq!(told[0]["payload"], expected);
    let order = order_body("lock", &[agent.id]);
    bench.post("/v1/orders", &order, StatusCode::UNPROCESSABLE_ENTITY).await;
    spoke(&bench, &agent, [200, 210, 270]).await;
    assert_eq!(bench.events("device_cloned").await.len(), 1, "told once");

    let token = bench.enrollment_token(None).await;
    let again = bench.enroll(&token, "a", &agent.key).await;
    let agent = bench.agent_of(
        rcgen::KeyPair::try_from(agent.key.serialize_der()).unwrap(),
        json_of(again, StatusCode::CREATED).await,
    );
    spoke(&bench, &agent, [50, 50, 60]).await;
    assert!(device(&bench, &agent).await["cloned_at"].is_null(), "what was before is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_copy_of_a_machine_as_it_runs_is_told_when_the_other_one_is_heard() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    spoke(&bench, &agent, [100, 110, 150]).await;
    spoke(&bench, &agent, [100, 120, 160]).await;
    assert_eq!(bench.events("device_cloned").await.len(), 1, "neither speaks of the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_late_words_in_one_boot_are_no_clones() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    for run in [
        [100, 100, 110],
        [200, 200, 210],
        // Of the first run, late.
        [100, 110, 150],
        [200, 230, 240],
        [200, 210, 230],
        [200, 230, 240],
        [300, 300, 301],
        [200, 240, 300],
        [300, 305, 310],
    ] {
        spoke(&bench, &agent, run).await;
    }
    // An agent of before, and one that was updated again.
    hello(&bench, &agent, 1, 50).await;
    spoke(&bench, &agent, [400, 400, 401]).await;
    // After a reboot its clock begins anew.
    agent
        .check_in_as(&bench, |hello| {
            hello.boot_id = boot(2);
            hello.run = Some(Run { started_us: 7, previous_us: 7, at_us: 8 });
        })
        .await;
    assert!(bench.events("device_cloned").await.is_empty());
    bench.order("lock", &[agent.id]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrollment_anew_settles_which_machine_is_the_device() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    for (number, epoch) in [(1, 10), (2, 20), (1, 30)] {
        hello(&bench, &agent, number, epoch).await;
    }
    assert!(device(&bench, &agent).await["cloned_at"].is_string());
    let token = bench.enrollment_token(None).await;
    let again = bench.enroll(&token, "a", &agent.key).await;
    json_of(again, StatusCode::CREATED).await;
    assert!(device(&bench, &agent).await["cloned_at"].is_null());
    bench.order("lock", &[agent.id]).await;
}
