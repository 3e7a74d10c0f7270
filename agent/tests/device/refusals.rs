//! Every refusal is a signed receipt that says why, and nothing was done.

use std::time::Duration;

use agent::config::ArmingConfig;
use protocol::action::{Action, Refresh};
use protocol::envelope::{self, Approval};
use protocol::fixture::{device, lock, signing_key, wipe};
use protocol::frame::{CommandFrame, HubFrame};
use protocol::jws::{self, CompactJws};
use protocol::manifest::DeviceTree;
use protocol::receipt::{Outcome, RefusalReason};
use protocol::trust::{Approver, Quorum};

use crate::bench::{Bench, now, reason};

#[tokio::test]
async fn wrong_signature_is_refused() {
    let mut bench = Bench::new();
    let good = bench.command(1, lock(), 1);
    let claims = bench.envelope(1, lock(), 1);
    let stranger = envelope::sign(&claims, &signing_key(66)).unwrap();
    let forged = CommandFrame { jws: stranger, ..good.clone() };
    assert_eq!(bench.refusal(forged).await, RefusalReason::BadSignature);
    let mut text = good.jws.as_str().to_owned();
    text.truncate(text.len() - 8);
    text.push_str("AAAAAAAA");
    let altered = CommandFrame { jws: CompactJws::from_text(text), ..good };
    assert_eq!(Bench::new().refusal(altered).await, RefusalReason::BadSignature);
}

#[tokio::test]
async fn wrong_audience_is_refused() {
    let mut bench = Bench::new();
    let mut other = bench.organisation.envelope(1, lock(), device(2), 1);
    (other.iat, other.nbf) = (now(), now());
    let frame = bench.organisation.deliver(&other, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::WrongAudience);
}

#[tokio::test]
async fn order_for_simulated_devices_is_refused_by_whoever_acts() {
    let mut bench = Bench::new();
    let mut claims = bench.envelope(1, Action::Refresh(Refresh {}), 1);
    claims.manifest.simulated = true;
    let frame = bench.organisation.deliver(&claims, 0);
    bench.config.host.arming = ArmingConfig::Off;
    assert_eq!(bench.refusal(frame.clone()).await, RefusalReason::WrongAudience);

    let mut simulated = Bench::new();
    let mut server = simulated.server().await;
    let agent = simulated.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(frame)).await;
    let receipt = simulated.receipt(&hub.receipt().await);
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn expired_command_is_refused() {
    let mut bench = Bench::new();
    let mut late = bench.envelope(1, lock(), 1);
    late.nbf = now().minus(Duration::from_secs(60));
    late.exp = now().minus(Duration::from_secs(1));
    let frame = bench.organisation.deliver(&late, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::Expired);
}

/// Not ignored: whoever ordered it learns that this agent is too old for it.
#[tokio::test]
async fn f20_verb_of_a_newer_protocol_is_refused_by_a_signed_receipt() {
    let mut bench = Bench::new();
    let mut claims = serde_json::to_value(bench.envelope(1, lock(), 1)).unwrap();
    claims["manifest"]["action"] = serde_json::json!({ "verb": "teleport", "params": {} });
    let jws = jws::sign(envelope::TYP, &claims, &bench.organisation.command_key).unwrap();
    let frame = CommandFrame { jws, ..bench.command(1, lock(), 1) };
    assert_eq!(bench.refusal(frame).await, RefusalReason::Unsupported);
    assert!(bench.effects().is_empty());
}

#[tokio::test]
async fn routine_command_that_is_valid_for_more_than_a_day_is_refused() {
    let day = Duration::from_secs(24 * 60 * 60);
    for (more, refused) in [(1, Some(RefusalReason::ValidityTooLong)), (0, None)] {
        let mut bench = Bench::new();
        let mut long = bench.envelope(1, Action::Refresh(Refresh {}), 1);
        long.exp = long.nbf.plus(day + Duration::from_secs(more));
        long.manifest.expires_at = long.exp;
        let frame = bench.organisation.deliver(&long, 0);
        let mut server = bench.server().await;
        let agent = bench.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(frame)).await;
        let receipt = bench.receipt(&hub.receipt().await);
        let is_refused = matches!(receipt.outcome, Outcome::Refused { .. });
        assert_eq!(is_refused.then(|| reason(&receipt)), refused);
        agent.drain().await.unwrap();
    }
}

#[tokio::test]
async fn replayed_number_is_refused() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(bench.command(2, lock(), 5))).await;
    hub.receipt().await;
    let replayed = bench.command(1, lock(), 5);
    hub.send(HubFrame::Command(replayed.clone())).await;
    let receipt = loop {
        let receipt = bench.receipt(&hub.receipt().await);
        if receipt.command_id == replayed.command_id {
            break receipt;
        }
    };
    assert_eq!(reason(&receipt), RefusalReason::Replayed);
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn missing_approval_is_refused() {
    let mut bench = Bench::new();
    let claims = bench.envelope(1, wipe(), 1);
    let once = bench.organisation.approved(claims, &[&bench.organisation.alice]);
    let frame = bench.organisation.deliver(&once, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::MissingApproval);
}

#[tokio::test]
async fn doubled_approval_is_refused() {
    let mut bench = Bench::new();
    let claims = bench.envelope(1, wipe(), 1);
    let alice_twice = [&bench.organisation.alice, &bench.organisation.alice_spare];
    let twice = bench.organisation.approved(claims, &alice_twice);
    let frame = bench.organisation.deliver(&twice, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::DoubledApproval);
}

#[tokio::test]
async fn widened_manifest_is_refused() {
    let mut bench = Bench::new();
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let mut wide = bench.organisation.approved(bench.envelope(1, wipe(), 1), &approvers);
    let devices = DeviceTree::new([device(1), device(2)]).unwrap();
    wide.manifest.device_root = devices.root();
    wide.manifest.device_count = 2;
    wide.proof = devices.proof(&device(1)).unwrap();
    let frame = bench.organisation.deliver(&wide, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::WidenedManifest);
}

/// Two persons approved, and one of them is the operator who asked for it.
#[tokio::test]
async fn hostile_requester_who_approves_their_own_order_is_refused_by_the_device() {
    let mut bench = Bench::new();
    bench.change_trust(|trust| {
        trust.approvers[0].operators.insert("al".parse().unwrap());
    });
    let mut claims = bench.envelope(1, wipe(), 1);
    claims.manifest.requested_by = Some("al".parse().unwrap());
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let claims = bench.organisation.approved(claims, &approvers);
    let frame = bench.organisation.deliver(&claims, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::BadApproval);
}

/// Two persons approved, and the trust root says that nobody can.
#[tokio::test]
async fn hostile_wipe_of_a_protected_device_is_refused_whoever_signed() {
    let mut bench = Bench::new();
    bench.change_trust(|trust| trust.protected_devices.extend([device(1)]));
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let claims = bench.organisation.approved(bench.envelope(1, wipe(), 1), &approvers);
    let frame = bench.organisation.deliver(&claims, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::ProtectedDevice);
}

#[tokio::test]
async fn hostile_wipe_of_many_devices_without_the_mass_role_is_refused() {
    let mut bench = Bench::new();
    let devices = DeviceTree::new((1..=11).map(device)).unwrap();
    let mut many = bench.envelope(1, wipe(), 1);
    many.manifest.device_root = devices.root();
    many.manifest.device_count = 11;
    many.proof = devices.proof(&device(1)).unwrap();
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let many = bench.organisation.approved(many, &approvers);
    let frame = bench.organisation.deliver(&many, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::TooManyDevices);
}

/// What break-glass did stands in the receipt, which no control plane can leave out.
#[tokio::test]
async fn break_glass_stands_in_and_the_receipt_says_so() {
    let mut bench = Bench::new();
    let glass = signing_key(20);
    let (key, person) = (glass.public().clone(), "gil".parse().unwrap());
    let approver = Approver { key, person, operators: [].into() };
    bench.change_trust(|trust| {
        trust.break_glass = Some(Quorum { approvers: vec![approver], threshold: 1 });
        trust.approvals.insert("lock".to_owned(), 2);
    });
    let mut claims = bench.envelope(1, lock(), 1);
    let ends = now().plus(Duration::from_secs(600)).whole_secs();
    (claims.exp, claims.manifest.expires_at) = (ends, ends);
    let approval = Approval { manifest: claims.manifest.clone(), approved_at: now() };
    claims.approvals = vec![envelope::approve(&approval, &glass).unwrap()];
    let frame = bench.organisation.deliver(&claims, 0);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(frame)).await;
    let receipt = bench.receipt(&hub.receipt().await);
    let Outcome::Succeeded { evidence } = receipt.outcome else {
        panic!("not carried out: {:?}", receipt.outcome)
    };
    assert_eq!(evidence.get("break_glass"), Some(&serde_json::json!(["gil"])));
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn agent_that_is_not_armed_refuses_what_disrupts() {
    let mut bench = Bench::new();
    bench.config.host.arming = agent::config::ArmingConfig::Off;
    let frame = bench.command(1, lock(), 1);
    assert_eq!(bench.refusal(frame).await, RefusalReason::NotArmed);
}
