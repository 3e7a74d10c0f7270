//! Approvals: persons count, not keys; what they signed is what the device gets.

use std::time::Duration;

use protocol::envelope::{Approval, approve};
use protocol::frame::{CommandFrame, HubFrame};
use protocol::key::SigningKey;
use protocol::manifest::{DeviceTree, Manifest};
use protocol::trust::{AuthorityPin, Quorum, SignedTrustRoot, TrustRoot};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::actors::{TestAgent, ack, commands, id_of};
use super::bench::{Bench, approvers, order_body};

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

pub(crate) async fn manifest(bench: &Bench, order: &str) -> Manifest {
    let view = bench.get(&format!("/v1/orders/{order}/manifest")).await;
    let manifest: Manifest = serde_json::from_value(view["manifest"].clone()).unwrap();
    let ids = view["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["id"].as_str().unwrap().parse().unwrap());
    assert_eq!(DeviceTree::new(ids).unwrap().root(), manifest.device_root);
    manifest
}

pub(crate) fn signed(bench: &Bench, manifest: &Manifest, key: &SigningKey) -> Value {
    let approval = Approval { manifest: manifest.clone(), approved_at: bench.now() };
    json!({ "jws": approve(&approval, key).unwrap() })
}

/// A wipe that two persons approved, as the device gets it.
pub(crate) async fn approved_wipe(bench: &Bench, agent: &mut TestAgent) -> CommandFrame {
    let (ann, bob) = (key(1), key(2));
    agent.trust = bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let manifest = manifest(bench, &order).await;
    for key in [&ann, &bob] {
        let path = format!("/v1/orders/{order}/approvals");
        bench.post(&path, &signed(bench, &manifest, key), StatusCode::OK).await;
    }
    commands(&agent.check_in(bench, Vec::new()).await).remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_leaves_when_two_persons_signed_and_not_before() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let (ann, ann_too, bob) = (key(1), key(2), key(3));
    let people = [(&ann, "ann"), (&ann_too, "ann"), (&bob, "bob")];
    agent.trust = bench.set_approvers(&people).await;

    let created = bench.order("wipe", &[agent.id]).await;
    assert_eq!(created["commands"][0]["state"], "awaiting_approval");
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/approvals");
    let manifest = manifest(&bench, &order).await;

    let first = signed(&bench, &manifest, &ann);
    bench.post(&path, &first, StatusCode::OK).await;
    bench.post(&path, &first, StatusCode::OK).await;
    bench.post(&path, &signed(&bench, &manifest, &ann_too), StatusCode::CONFLICT).await;
    bench.post(&path, &signed(&bench, &manifest, &key(9)), StatusCode::UNPROCESSABLE_ENTITY).await;
    let mut wider = manifest.clone();
    wider.device_count += 1;
    bench.post(&path, &signed(&bench, &wider, &bob), StatusCode::UNPROCESSABLE_ENTITY).await;
    let waiting = bench.command(&created["commands"][0]["id"]).await;
    assert_eq!((&waiting["state"], &waiting["seq"]), (&json!("awaiting_approval"), &Value::Null));
    assert!(commands(&agent.check_in(&bench, Vec::new()).await).is_empty());

    let view = bench.post(&path, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "queued": 1 }));
    assert_eq!(view["approvals"].as_array().unwrap().len(), 2);
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    agent.verify(&bench, &told[0].jws);
    assert_eq!(id_of(&told[0]), created["commands"][0]["id"]);
    bench.post(&path, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_suffices_to_stop() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/reject");
    let view = bench.post(&path, &json!({ "reason": "not ours" }), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "cancelled": 1 }));
    bench.post(&path, &json!({}), StatusCode::CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_is_taken_back_until_the_device_has_the_command() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (ann, bob, cleo) = (key(1), key(2), key(3));
    bench.set_approvers(&[(&ann, "ann"), (&bob, "bob"), (&cleo, "cleo")]).await;
    let ordered = async || {
        let created = bench.order("wipe", &[agent.id]).await;
        let order = created["order"]["id"].as_str().unwrap().to_owned();
        let manifest = manifest(&bench, &order).await;
        let path = format!("/v1/orders/{order}/");
        (path, manifest, created["commands"][0]["id"].clone())
    };
    let body = json!({ "person": "ann", "reason": "the wrong one" });

    // While it waits: it goes on waiting, for somebody else.
    let (path, manifest, command) = ordered().await;
    let (approve, withdraw) = (format!("{path}approvals"), format!("{path}withdraw"));
    bench.post(&withdraw, &body, StatusCode::CONFLICT).await;
    bench.post(&approve, &signed(&bench, &manifest, &ann), StatusCode::OK).await;
    let view = bench.post(&withdraw, &body, StatusCode::OK).await;
    assert_eq!((&view["approvals"], &view["states"]["awaiting_approval"]), (&json!([]), &json!(1)));
    bench.post(&approve, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
    assert_eq!(bench.command(&command).await["state"], "awaiting_approval", "one of two");
    bench.post(&approve, &signed(&bench, &manifest, &ann), StatusCode::OK).await;

    // When it has left: nothing of it is delivered any more.
    assert_eq!(bench.command(&command).await["state"], "queued");
    bench.post(&withdraw, &body, StatusCode::OK).await;
    let ended = bench.command(&command).await;
    assert_eq!(ended["state"], "cancelled");
    assert_eq!(ended["ended_by"], "approval of ann withdrawn by admin: the wrong one");
    assert!(commands(&agent.check_in(&bench, Vec::new()).await).is_empty());
    let told = bench.events("approval_withdrawn").await;
    let counts: Vec<_> = told.iter().map(|event| &event["payload"]["commands"]).collect();
    assert_eq!(counts, [&json!(0), &json!(1)]);

    // When the device has it: only its device ends it.
    let (path, manifest, command) = ordered().await;
    let (approve, withdraw) = (format!("{path}approvals"), format!("{path}withdraw"));
    bench.post(&approve, &signed(&bench, &manifest, &ann), StatusCode::OK).await;
    bench.post(&approve, &signed(&bench, &manifest, &bob), StatusCode::OK).await;
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    agent.check_in(&bench, vec![ack(&told[0])]).await;
    bench.post(&withdraw, &body, StatusCode::CONFLICT).await;
    assert_eq!(bench.command(&command).await["state"], "acked", "the device has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_after_the_end_of_its_order_is_refused() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let (ann, bob) = (key(1), key(2));
    bench.set_approvers(&[(&ann, "ann"), (&bob, "bob")]).await;
    let mut body = order_body("wipe", &[agent.id]);
    body["expires_in_secs"] = json!(600);
    let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/approvals");
    let manifest = manifest(&bench, &order).await;
    let (first, second) = (signed(&bench, &manifest, &ann), signed(&bench, &manifest, &bob));
    bench.hand.advance(Duration::from_secs(599));
    bench.post(&path, &first, StatusCode::OK).await;
    bench.hand.advance(Duration::from_secs(1));
    let refused = bench.post(&path, &second, StatusCode::CONFLICT).await;
    assert_eq!(refused["detail"], "this order is past its end");
    bench.until_state(&created["commands"][0]["id"], "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_of_too_many_devices_is_no_order() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for index in 0..11 {
        ids.push(bench.agent(&format!("d{index}"), None).await.id);
    }
    bench.post("/v1/orders", &order_body("wipe", &ids), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(bench.get("/v1/commands").await["items"], json!([]));
}

/// Eleven devices, and a mass role of three out of which two persons are approvers as well.
#[tokio::test(flavor = "multi_thread")]
async fn wipe_of_many_devices_leaves_when_the_mass_role_signed() {
    let bench = Bench::start().await;
    let bench = bench.restart_with(|config| config.first_wave.destructive_above = 0).await;
    let mut agents = Vec::new();
    for index in 0..11 {
        agents.push(bench.agent(&format!("d{index}"), None).await);
    }
    let (ann, bob) = (key(1), key(2));
    let mass = [key(11), key(12), key(13)];
    let trust = bench.change_trust(|root| {
        root.approvers = approvers(&[(&ann, "ann"), (&bob, "bob")]);
        let people = [(&mass[0], "ann"), (&mass[1], "bob"), (&mass[2], "cleo")];
        root.mass = Some(Quorum { approvers: approvers(&people), threshold: 3 });
    });
    let trust = trust.await;
    let ids: Vec<_> = agents.iter().map(|agent| agent.id).collect();
    let created = bench.order("wipe", &ids).await;
    assert_eq!(created["order"]["approvals_needed"], 3);
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/approvals");
    let manifest = manifest(&bench, &order).await;
    for key in [&ann, &bob, &mass[2], &mass[0]] {
        let view = bench.post(&path, &signed(&bench, &manifest, key), StatusCode::OK).await;
        assert_eq!(view["states"], json!({ "awaiting_approval": 11 }), "two of the mass role");
    }
    // Bob's key of the mass role takes the place of his other one.
    let view = bench.post(&path, &signed(&bench, &manifest, &mass[1]), StatusCode::OK).await;
    assert_eq!(view["states"], json!({ "queued": 11 }));
    let agent = &mut agents[3];
    agent.trust = trust;
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    agent.verify(&bench, &told[0].jws);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_order_to_destroy_a_protected_device_is_no_order() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let id = agent.id;
    bench.change_trust(|root| root.protected_devices.extend([id])).await;
    let body = order_body("wipe", &[id]);
    let problem = bench.post("/v1/orders", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem.to_string().contains("protects this device"), "{problem}");
    let dry = json!({ "dry_run": true, "action": body["action"], "targets": body["targets"],
        "reason": "a test" });
    let dry = bench.post("/v1/orders", &dry, StatusCode::OK).await;
    assert_eq!(dry["warnings"][0]["kind"], "protected_device");
    let locked = bench.order("lock", &[id]).await;
    assert_eq!(locked["commands"][0]["state"], "awaiting_approval");
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_releases_what_can_be_undone_and_is_an_event() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let glass = key(20);
    agent.trust = bench
        .change_trust(|root| {
            root.approvals.insert("lock".to_owned(), 2);
            root.break_glass =
                Some(Quorum { approvers: approvers(&[(&glass, "gil")]), threshold: 1 });
        })
        .await;
    for (verb, secs, status) in [
        ("wipe", 600, StatusCode::UNPROCESSABLE_ENTITY),
        ("lock", 7200, StatusCode::UNPROCESSABLE_ENTITY),
        ("lock", 600, StatusCode::OK),
    ] {
        let mut body = order_body(verb, &[agent.id]);
        body["expires_in_secs"] = json!(secs);
        let created = bench.post("/v1/orders", &body, StatusCode::CREATED).await;
        let order = created["order"]["id"].as_str().unwrap().to_owned();
        let manifest = manifest(&bench, &order).await;
        let path = format!("/v1/orders/{order}/approvals");
        bench.post(&path, &signed(&bench, &manifest, &glass), status).await;
    }
    let told = commands(&agent.check_in(&bench, Vec::new()).await);
    assert_eq!(told.len(), 1);
    agent.verify(&bench, &told[0].jws);
    let events = bench.events("break_glass_used").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["payload"]["persons"], json!(["gil"]));
}

fn roots(frames: &[HubFrame]) -> impl Iterator<Item = &SignedTrustRoot> {
    frames.iter().filter_map(
        |frame| {
            if let HubFrame::Trust { root } = frame { Some(root) } else { None }
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_root_moves_forward_only_and_reaches_present_devices() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let mut hub = bench.hub("hub-1").await;
    hub.arrive(agent.id, bench.session()).await;
    let next = bench.set_approvers(&[(&key(1), "ann")]).await;
    let frames = hub.frames_for(agent.id).await;
    let versions: Vec<_> = roots(&frames).map(|root| root.pin().unwrap().version).collect();
    assert_eq!(versions, [1, 2], "the version it reported is unknown, so all of them");
    let succeeded = agent.check_in(&bench, Vec::new()).await;
    let brought = roots(&succeeded).find_map(|root| root.succeed(&agent.trust).ok());
    assert_eq!(brought, Some(next));
    let current = bench.get("/v1/trust").await;
    let again = json!({ "signed": current["signed"] });
    bench.post("/v1/trust", &again, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(bench.get("/v1/trust/chain").await.as_array().unwrap().len(), 2);
}

/// The requester is in what is signed, and the control plane refuses what devices would.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_requester_approves_nothing_of_their_own() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("a", None).await;
    let (ann, spare, bob, cleo) = (key(1), key(2), key(3), key(4));
    let people = [(&ann, "ann"), (&spare, "ann"), (&bob, "bob"), (&cleo, "cleo")];
    bench.set_approvers(&people).await;
    agent.trust = bench
        .change_trust(|root| {
            root.approvers[0].operators.insert("admin".parse().unwrap());
        })
        .await;
    let created = bench.order("wipe", &[agent.id]).await;
    let order = created["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/orders/{order}/approvals");
    let manifest = manifest(&bench, &order).await;
    assert_eq!(manifest.requested_by, Some("admin".parse().unwrap()));
    for own in [&ann, &spare] {
        let refused = signed(&bench, &manifest, own);
        let refused = bench.post(&path, &refused, StatusCode::UNPROCESSABLE_ENTITY).await;
        let detail = refused["detail"].as_str().unwrap();
        assert!(detail.contains("ann asked for this order"), "{refused}");
    }
    // Nor does it help to sign that somebody else asked.
    let mut other = manifest.clone();
    other.requested_by = Some("cleo".parse().unwrap());
    let lied = signed(&bench, &other, &ann);
    bench.post(&path, &lied, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(bench.events("order_approved").await.len(), 0);
    for key in [&bob, &cleo] {
        bench.post(&path, &signed(&bench, &manifest, key), StatusCode::OK).await;
    }
    let frames = commands(&agent.check_in(&bench, Vec::new()).await);
    assert_eq!(frames.len(), 1);
    agent.verify(&bench, &frames[0].jws);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_root_that_would_lock_devices_out_is_not_taken() {
    let bench = Bench::start().await;
    let ours = bench.api.authority().trust_pin();
    let [backup, other] = [8, 9].map(|byte| AuthorityPin::from_bytes([byte; 32]));
    let version = async |pins: &[AuthorityPin], status| {
        let current = bench.get("/v1/trust").await;
        let mut root: TrustRoot = serde_json::from_value(current["root"].clone()).unwrap();
        root.version += 1;
        root.authority_pins = pins.iter().copied().collect();
        bench.publish(&root, status).await
    };
    let refused = version(&[backup, other], StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(refused.to_string().contains(&ours.to_string()), "{refused}");
    let refused = version(&[ours], StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(refused.to_string().contains("no backup"), "{refused}");
    version(&[ours, backup], StatusCode::CREATED).await;
}
