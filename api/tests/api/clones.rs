//! One identity on two machines: a boot that comes back after a later one gives it away.

use protocol::id::BootId;
use protocol::time::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::TestAgent;
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
