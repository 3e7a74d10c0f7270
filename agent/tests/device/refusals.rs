//! Every refusal is a signed receipt that says why, and nothing was done.

use std::time::Duration;

use protocol::envelope;
use protocol::fixture::{device, lock, signing_key, wipe};
use protocol::frame::{CommandFrame, HubFrame};
use protocol::jws::CompactJws;
use protocol::manifest::DeviceTree;
use protocol::receipt::RefusalReason;

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
async fn expired_command_is_refused() {
    let mut bench = Bench::new();
    let mut late = bench.envelope(1, lock(), 1);
    late.nbf = now().minus(Duration::from_secs(60));
    late.exp = now().minus(Duration::from_secs(1));
    let frame = bench.organisation.deliver(&late, 0);
    assert_eq!(bench.refusal(frame).await, RefusalReason::Expired);
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

#[tokio::test]
async fn agent_that_is_not_armed_refuses_what_disrupts() {
    let mut bench = Bench::new();
    bench.config.host.arming = agent::config::ArmingConfig::Off;
    let frame = bench.command(1, lock(), 1);
    assert_eq!(bench.refusal(frame).await, RefusalReason::NotArmed);
}
