//! Certificates that are past their end: renewed within the grace time, and good for nothing else.
//!
//! TLS judges by the machine's clock, so that these control planes began in the past.

use std::time::Duration;

use protocol::enrollment::RenewRequest;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::actors::TestAgent;
use super::bench::{Bench, csr, json_of};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A device whose certificate ended 13 days ago, as everybody sees it.
async fn late_device() -> (Bench, TestAgent) {
    let bench = Bench::start_ago(20 * DAY).await;
    let agent = bench.agent("a", None).await;
    bench.hand.advance(20 * DAY);
    (bench, agent)
}

async fn renew(bench: &Bench, agent: &TestAgent, key: &rcgen::KeyPair) -> Response {
    let url = bench.agent_url("/agent/v1/renew");
    agent.http.post(url).json(&RenewRequest { csr: csr(key) }).send().await.unwrap()
}

/// The device with what a renewal gave it.
fn renewed(bench: &Bench, agent: &TestAgent, answer: &Value) -> TestAgent {
    let key = rcgen::KeyPair::try_from(agent.key.serialize_der()).unwrap();
    let mut enrolled = bench.enrolled(agent);
    enrolled["certificate"] = answer["certificate"].clone();
    bench.agent_of(key, enrolled)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_past_its_end_is_renewed_and_good_for_nothing_else() {
    let (bench, agent) = late_device().await;
    let check_in = agent.try_check_in(&bench, Vec::new()).await;
    assert_eq!(check_in.status(), StatusCode::UNAUTHORIZED);
    let answer = json_of(renew(&bench, &agent, &agent.key).await, StatusCode::OK).await;
    renewed(&bench, &agent, &answer).check_in(&bench, Vec::new()).await;
    let events = bench.events("certificate_renewed").await;
    assert_eq!(events[0]["payload"]["late_secs"], 13 * DAY.as_secs());
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_has_an_end_and_can_be_none() {
    let (mut bench, agent) = late_device().await;
    for grace in [Duration::ZERO, 12 * DAY] {
        bench = bench.restart_with(|config| config.renewal_grace = grace).await;
        let refused = renew(&bench, &agent, &agent.key).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{grace:?}");
    }
    bench = bench.restart_with(|config| config.renewal_grace = 14 * DAY).await;
    json_of(renew(&bench, &agent, &agent.key).await, StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_renewal_is_for_the_same_key_alone() {
    let (bench, agent) = late_device().await;
    let other = rcgen::KeyPair::generate().unwrap();
    let refused = renew(&bench, &agent, &other).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(bench.events("certificate_renewed").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_devices_and_former_enrollments_do_not_come_back_late() {
    let (bench, agent) = late_device().await;
    let token = bench.enrollment_token(None).await;
    let again = bench.enroll(&token, "a", &agent.key).await;
    json_of(again, StatusCode::CREATED).await;
    let former = renew(&bench, &agent, &agent.key).await;
    assert_eq!(former.status(), StatusCode::UNAUTHORIZED, "of the former generation");

    let (bench, agent) = late_device().await;
    let path = format!("/v1/devices/{}/revoke", agent.id);
    bench.post_as(&bench.token, &path, &json!({})).await;
    let revoked = renew(&bench, &agent, &agent.key).await;
    assert_eq!(revoked.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bench.events("certificate_renewed").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_copy_of_a_device_that_lives_does_not_come_back_and_is_told() {
    let (bench, agent) = late_device().await;
    json_of(renew(&bench, &agent, &agent.key).await, StatusCode::OK).await;
    for _ in 0..3 {
        let copy = renew(&bench, &agent, &agent.key).await;
        assert_eq!(copy.status(), StatusCode::UNAUTHORIZED);
    }
    let told = bench.events("renewal_refused").await;
    assert_eq!(told.len(), 1, "once a minute");
    assert_eq!(told[0]["subject"], json!(agent.id));
    // A device that never got the answer is let in again when nobody has a certificate that
    // still stands.
    bench.hand.advance(8 * DAY);
    json_of(renew(&bench, &agent, &agent.key).await, StatusCode::OK).await;
}
