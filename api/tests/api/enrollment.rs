//! Tokens are used once, certificates are renewed, and revocation holds at once.

use std::time::Duration;

use broker::Downstream;
use protocol::enrollment::{AgentConfig, EnrollRequest, EnrollmentToken, RenewRequest};
use protocol::frame::AgentFrame;
use protocol::state::PerLane;
use reqwest::StatusCode;
use runtime::tls;
use serde_json::json;

use super::actors::commands;
use super::bench::{Bench, csr, json_of};
use super::gate::Held;

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_at_once_exactly_one_wins() {
    let bench = Bench::start().await;
    let token = bench.enrollment_token(Some("berlin")).await;
    let keys: Vec<_> = (0..8).map(|_| rcgen::KeyPair::generate().unwrap()).collect();
    let claims = keys.iter().map(|key| bench.enroll(&token, "web-17", key));
    let answers = futures_util::future::join_all(claims).await;
    let won = answers.iter().filter(|answer| answer.status() == StatusCode::CREATED).count();
    let lost = answers.iter().filter(|answer| answer.status() == StatusCode::UNAUTHORIZED).count();
    assert_eq!((won, lost), (1, 7));
    let devices = bench.get("/v1/devices?group=berlin").await;
    assert_eq!(devices["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answer_is_given_again_to_the_same_key_alone() {
    let bench = Bench::start().await;
    let token = bench.enrollment_token(Some("berlin")).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let first = json_of(bench.enroll(&token, "a", &key).await, StatusCode::CREATED).await;
    bench.hand.advance(Duration::from_secs(60));
    let again = json_of(bench.enroll(&token, "a", &key).await, StatusCode::CREATED).await;
    assert_eq!(again["device_id"], first["device_id"]);
    assert_eq!(again["generation"], 1);
    let other = rcgen::KeyPair::generate().unwrap();
    assert_eq!(bench.enroll(&token, "b", &other).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bench.events("device_enrolled").await.len(), 1);
    let copy = rcgen::KeyPair::try_from(key.serialize_der()).unwrap();
    bench.agent_of(copy, again).check_in(&bench, Vec::new()).await;

    // What was enrolled again meanwhile, or revoked, is not brought back by it.
    let next = bench.enrollment_token(None).await;
    json_of(bench.enroll(&next, "a", &key).await, StatusCode::CREATED).await;
    assert_eq!(bench.enroll(&token, "a", &key).await.status(), StatusCode::UNAUTHORIZED);
    let path = format!("/v1/devices/{}/revoke", first["device_id"].as_str().unwrap());
    bench.post_as(&bench.token, &path, &json!({})).await;
    assert_eq!(bench.enroll(&next, "a", &key).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tokens_need_no_writer_and_are_limited_by_address() {
    let bench = Bench::start().await;
    let bench = bench.restart_with(|config| {
        (config.enrolls_per_min, config.enroll_burst) = (60, 2);
    });
    let bench = bench.await;
    let mut token = bench.enrollment_token(None).await;
    let (good, key) = (token.secret.clone(), rcgen::KeyPair::generate().unwrap());
    let writer = bench.api.app().db.write(api::audit::Actor::System, bench.now()).await.unwrap();
    token.secret = "unknown".to_owned();
    for _ in 0..2 {
        let refused = bench.enroll(&token, "a", &key).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
    drop(writer);
    token.secret = good;
    let refused = bench.enroll(&token, "a", &key).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    bench.hand.advance(Duration::from_secs(1));
    json_of(bench.enroll(&token, "a", &key).await, StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_and_secrets_are_shown_once() {
    let bench = Bench::start().await;
    let token = bench.enrollment_token(None).await;
    bench.hand.advance(Duration::from_secs(16 * 60));
    let key = rcgen::KeyPair::generate().unwrap();
    assert_eq!(bench.enroll(&token, "late", &key).await.status(), StatusCode::UNAUTHORIZED);

    let make = || async {
        let request = bench.http.post(bench.url("/v1/enrollment-tokens"));
        let request = request.bearer_auth(&bench.token).header("idempotency-key", "e1");
        json_of(request.json(&json!({})).send().await.unwrap(), StatusCode::CREATED).await
    };
    let (first, second) = (make().await, make().await);
    assert_eq!(first["id"], second["id"]);
    assert!(first["token"].is_string() && second["token"].is_null());
    let too_long = json!({ "ttl_secs": 90_000 });
    bench.post("/v1/enrollment-tokens", &too_long, StatusCode::UNPROCESSABLE_ENTITY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_key_again_is_the_next_generation_and_ends_the_former() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    AgentConfig::verify(&agent.config, &agent.trust).unwrap();
    let queued = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    let token = bench.enrollment_token(None).await;
    let again = bench.enroll(&token, "a", &agent.key).await;
    let again = json_of(again, StatusCode::CREATED).await;
    assert_eq!(again["device_id"], json!(agent.id));
    assert_eq!(again["generation"], 2);
    assert_eq!(bench.command(&queued).await["state"], "cancelled");
    let former = agent.try_check_in(&bench, Vec::new()).await;
    assert_eq!(former.status(), StatusCode::UNAUTHORIZED);
    let key = rcgen::KeyPair::try_from(agent.key.serialize_der()).unwrap();
    let renewed = bench.agent_of(key, again);
    bench.order("lock", &[agent.id]).await;
    let told = commands(&renewed.check_in(&bench, Vec::new()).await);
    assert_eq!(renewed.verify(&bench, &told[0].jws).envelope().seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_device_is_out_everywhere_also_on_open_connections() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    let out = bench.order("lock", &[agent.id]).await["commands"][0]["id"].clone();
    // The connection stays open, and leaves a ticket for the next one.
    agent.check_in(&bench, Vec::new()).await;
    let path = format!("/v1/devices/{}/revoke", agent.id);
    let revoked = bench.post_as(&bench.token, &path, &json!({})).await;
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    let told = Downstream::Revoke { device: agent.id, through_generation: 1 };
    assert_eq!(hub.next().await, told);
    let refused = agent.try_check_in(&bench, Vec::new()).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "on the connection that is open");
    let (resumed, answer) = agent.check_in_by_hand(&bench).await;
    assert!(resumed, "no verifier looks at the certificate again");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    // A full handshake ends the same way.
    agent.tls.resumption = rustls::client::Resumption::disabled();
    let (resumed, answer) = agent.check_in_by_hand(&bench).await;
    assert!(!resumed && answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(bench.command(&out).await["state"], "in_doubt");
    // A hub that missed it is told when the device says hello there.
    let mut late_hub = bench.hub("hub-2").await;
    late_hub.say(&agent, vec![agent.hello()]).await;
    assert_eq!(late_hub.next().await, told);
    late_hub.say(&agent, vec![AgentFrame::Sync { last_seq: PerLane::default() }]).await;
    assert_eq!(late_hub.next().await, told);
    let lost = bench.order_for_revoked(agent.id).await;
    assert_eq!(lost["errors"][0]["pointer"], "/targets/devices/0");
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_waits_for_no_hub_that_hangs() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hubs = Vec::new();
    for name in ["hub-1", "hub-2", "hub-3"] {
        hubs.push(bench.hub(name).await);
    }
    let told = Downstream::Revoke { device: agent.id, through_generation: 1 };
    let (path, none) = (format!("/v1/devices/{}/revoke", agent.id), json!({}));
    for (number, name) in ["hub-1", "hub-2", "hub-3"].into_iter().enumerate() {
        bench.gate.hold(Held::PublishingTo(name));
        let hear = async {
            for (_, hub) in hubs.iter_mut().enumerate().filter(|(other, _)| *other != number) {
                assert_eq!(hub.next().await, told);
            }
            bench.gate.release();
            assert_eq!(hubs[number].next().await, told, "{name}");
        };
        let (answer, ()) = tokio::join!(bench.post_as(&bench.token, &path, &none), hear);
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hub_that_missed_a_revocation_is_told_while_the_device_is_present() {
    let bench = Bench::start().await;
    let (gone, stays) = (bench.agent("a", None).await, bench.agent("b", None).await);
    let path = format!("/v1/devices/{}/revoke", gone.id);
    let revoked = bench.post_as(&bench.token, &path, &json!({})).await;
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    // No hub was there to hear it, and neither device says anything.
    let mut hub = bench.hub("hub-1").await;
    for agent in [&stays, &gone] {
        hub.arrive(agent.id, bench.session()).await;
    }
    let told = Downstream::Revoke { device: gone.id, through_generation: 1 };
    assert_eq!(hub.next().await, told);
    assert_eq!(hub.next().await, told, "until it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_heard_of_a_command_after_the_enrollment_ended_leaves_it_in_doubt() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (mut commands, mut hub) = (Vec::new(), bench.hub("hub-1").await);
    for verb in ["lock", "refresh"] {
        let order = bench.order(verb, &[agent.id]).await;
        let id = order["commands"][0]["id"].clone();
        commands.push((id.as_str().unwrap().parse().unwrap(), id));
    }
    // They are signed, and no session took them as far as the store knows.
    let path = format!("/v1/devices/{}/revoke", agent.id);
    bench.post_as(&bench.token, &path, &json!({})).await;
    for (_, id) in &commands {
        assert_eq!(bench.command(id).await["state"], "cancelled");
    }
    let ack = AgentFrame::Ack { command_id: commands[0].0 };
    let stage = "apply".to_owned();
    let progress = AgentFrame::stage(commands[1].0, stage);
    hub.say(&agent, vec![ack, progress, agent.hello()]).await;
    let told = Downstream::Revoke { device: agent.id, through_generation: 1 };
    while hub.next().await != told {}
    while hub.next().await != told {}
    for (_, id) in &commands {
        let command = bench.command(id).await;
        assert_eq!(command["state"], "in_doubt", "it is on a device that can prove nothing");
        assert_eq!(command["ended_by"], "its enrollment had ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_is_over_the_old_certificate_and_for_the_same_key() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let url = bench.agent_url("/agent/v1/renew");
    let renew = |http: &reqwest::Client, key: &rcgen::KeyPair| {
        http.post(&url).json(&RenewRequest { csr: csr(key) }).send()
    };
    let answer = renew(&agent.http, &agent.key).await.unwrap();
    let answer = json_of(answer, StatusCode::OK).await;
    assert!(answer["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"));
    let other = rcgen::KeyPair::generate().unwrap();
    let refused = renew(&agent.http, &other).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let refused = renew(&bench.http, &agent.key).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    bench.hand.advance(Duration::from_secs(8 * 24 * 60 * 60));
    let late = agent.try_check_in(&bench, Vec::new()).await;
    assert_eq!(late.status(), StatusCode::UNAUTHORIZED, "expired, and the connection still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_keeps_its_files_private_and_happens_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::start().await;
    let mode = |name: &str| {
        let path = bench.place.folder.path().join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    for key in ["data/ca.key", "data/command.key", "data/root.key", "data/vault.key"] {
        assert_eq!(mode(key), 0o600, "{key}");
    }
    let trust = bench.get("/v1/trust").await;
    assert_eq!((&trust["version"], &trust["root"]["approvers"]), (&json!(1), &json!([])));
    let pin = bench.api.authority().pin();
    let bench = bench.kill_and_restart().await;
    assert!(bench.api.first_start.is_none());
    assert_eq!(bench.api.authority().pin(), pin);
    assert_eq!(bench.get("/v1/trust").await, trust);
    assert_eq!(bench.events("store_created").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_finder_of_a_token_in_another_network_neither_uses_it_nor_uses_it_up() {
    let bench = Bench::start().await;
    let body = json!({ "from": ["192.0.2.0/24", "127.0.0.2/32"] });
    let made = bench.post("/v1/enrollment-tokens", &body, StatusCode::CREATED).await;
    assert_eq!(made["from"], body["from"]);
    let token: EnrollmentToken = made["token"].as_str().unwrap().parse().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let ask = async |from: &str, header: Option<&str>, token: &EnrollmentToken| {
        let pin = token.ca_spki_sha256.parse().unwrap();
        let tls = tls::pinned_client_config(pin, &[b"http/1.1"]).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        let http = http.local_address(from.parse::<std::net::IpAddr>().unwrap()).build().unwrap();
        let (secret, csr) = (token.secret.clone(), csr(&key));
        let asked = EnrollRequest { secret, name: "web-1".to_owned(), csr };
        let mut request = http.post(bench.agent_url("/agent/v1/enroll")).json(&asked);
        if let Some(header) = header {
            request = request.header(header, "192.0.2.7").header("forwarded", "for=192.0.2.7");
        }
        request.send().await.unwrap()
    };
    // As CVE-2026-46356: a header says where a client is.
    let headers = [None, Some("x-forwarded-for"), Some("x-real-ip"), Some("cf-connecting-ip")];
    for header in headers.into_iter().cycle().take(12) {
        let answer = ask("127.0.0.1", header, &token).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{header:?}");
    }
    let unknown = EnrollmentToken { secret: "unknown".to_owned(), ..token.clone() };
    let known = json_of(ask("127.0.0.1", None, &token).await, StatusCode::UNAUTHORIZED).await;
    let unknown = json_of(ask("127.0.0.1", None, &unknown).await, StatusCode::UNAUTHORIZED).await;
    assert_eq!(known["detail"], unknown["detail"], "nobody is told that there is such a token");
    let events = bench.events("enrollment_refused").await;
    assert_eq!(events.len(), 8, "and nobody fills the log");
    assert_eq!(
        (&events[0]["subject"], &events[0]["payload"]["peer"]),
        (&made["id"], &json!("127.0.0.1"))
    );

    let enrolled = json_of(ask("127.0.0.2", None, &token).await, StatusCode::CREATED).await;
    assert_eq!(enrolled["generation"], 1);
    // The lost answer is given again there, and there alone.
    assert_eq!(ask("127.0.0.1", None, &token).await.status(), StatusCode::UNAUTHORIZED);
    json_of(ask("127.0.0.2", None, &token).await, StatusCode::CREATED).await;

    for wrong in [json!(["10.0.0.1/8"]), json!(["nowhere"]), json!(vec!["10.0.0.0/8"; 17])] {
        let body = json!({ "from": wrong });
        let answer = bench.post_as(&bench.token, "/v1/enrollment-tokens", &body).await;
        assert!(answer.status().is_client_error(), "{body}");
    }
}
