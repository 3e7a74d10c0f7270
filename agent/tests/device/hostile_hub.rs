//! A hub that is somebody else's, and has no key: whatever it makes of the orders that pass
//! through it, or that it kept, the device does what people signed and says in a receipt what it
//! would not do. `hostile_talk` has what a hub says of itself, `hostile` what a whole control plane
//! tries.

use std::time::Duration;

use agent::Agent;
use protocol::action::{Action, Release, Unlock};
use protocol::checkpoint::{Checkpoint, Mark};
use protocol::enrollment::AgentConfig;
use protocol::envelope::Envelope;
use protocol::fixture::{command, device, lock, signing_key, wipe};
use protocol::frame::{AgentFrame, CommandFrame, HubFrame, POLL_PATH};
use protocol::jws::CompactJws;
use protocol::manifest::DeviceTree;
use protocol::receipt::RefusalReason;
use protocol::state::Lane;
use protocol::trust::{CommandKey, SignedTrustRoot, TrustRoot};

use crate::bench::{Bench, confirmed, now, reason, until};
use crate::hostile::{NOTHING, approved, deliver, still_obeys, with_claims};
use crate::server::{HubSide, Server, greeting};

/// What a hub may do to claims that it cannot sign again.
type Alteration = (&'static str, fn(&mut Envelope));

/// The same delivery with altered claims under the old signature.
fn altered(frame: &CommandFrame, alter: impl Fn(&mut Envelope)) -> CommandFrame {
    with_claims(frame, |text| {
        let mut claims = serde_json::from_str(&text).unwrap();
        alter(&mut claims);
        serde_json::to_string(&claims).unwrap()
    })
}

/// The reason of the signed refusal of that delivery, under a name of its own.
pub(crate) async fn refusal(
    bench: &Bench,
    hub: &mut HubSide,
    number: u8,
    frame: CommandFrame,
) -> RefusalReason {
    let command_id = command(number);
    hub.send(HubFrame::Command(CommandFrame { command_id, ..frame })).await;
    reason(&bench.receipt(&hub.receipt_of(command_id).await))
}

/// Gives the device those frames at each exchange on that path until it brings a receipt: an
/// exchange may break off, because the device goes to another rung.
pub(crate) async fn handed(server: &mut Server, on: &str, given: &[HubFrame]) -> AgentFrame {
    loop {
        let (frames, answer) = server.exchange(on).await;
        drop(answer.send([&[greeting()], given].concat()));
        if let Some(receipt) = frames.into_iter().find(is_receipt) {
            return receipt;
        }
    }
}

pub(crate) fn is_receipt(frame: &AgentFrame) -> bool {
    matches!(frame, AgentFrame::Receipt { .. })
}

/// Waits until the device says that of itself.
pub(crate) async fn says(agent: &Agent, what: &str) {
    let said = || agent.status().commands.last_error;
    until(|| said().is_some_and(|said| said.contains(what))).await;
}

/// Has a wipe that two persons approved altered in each of these ways: nothing is done, each is
/// refused by a receipt of its own, and the device still obeys.
async fn alterations_are_refused(alterations: &[Alteration]) {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let frame = deliver(&bench, &approved(&bench));
    for (number, (what, alter)) in (100..).zip(alterations) {
        let reason = refusal(&bench, &mut hub, number, altered(&frame, alter)).await;
        assert_eq!(reason, RefusalReason::BadSignature, "{what}");
    }
    assert_eq!(bench.effects(), NOTHING);
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 1)).await;
    agent.drain().await.unwrap();
}

/// Another order that the same two persons approved.
fn of_another_order() -> Envelope {
    let bench = Bench::new();
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    bench.organisation.approved(bench.envelope(9, wipe(), 9), &approvers)
}

#[tokio::test]
async fn hostile_hub_alters_no_claim_of_an_order() {
    alterations_are_refused(&[
        ("command", |claims| claims.jti = command(3)),
        ("enrollment", |claims| claims.generation = 2),
        ("signed at", |claims| claims.iat = claims.iat.plus(Duration::from_secs(1))),
        ("begin", |claims| claims.nbf = claims.nbf.minus(Duration::from_secs(3600))),
        ("end", |claims| claims.exp = claims.exp.plus(Duration::from_secs(3600))),
        ("lane", |claims| claims.lane = Lane::Bulk),
        ("number", |claims| claims.seq = 7),
        ("script", |claims| claims.script = Some("#!/bin/sh\n".to_owned())),
    ])
    .await;
}

#[tokio::test]
async fn hostile_hub_widens_no_manifest() {
    alterations_are_refused(&[
        ("action", |claims| claims.manifest.action = lock()),
        ("order", |claims| claims.manifest.order_id = of_another_order().manifest.order_id),
        ("end", |claims| {
            claims.manifest.expires_at = claims.manifest.expires_at.plus(Duration::from_secs(9));
        }),
        ("devices", |claims| {
            let devices = DeviceTree::new([device(1), device(2)]).unwrap();
            (claims.manifest.device_root, claims.manifest.device_count) = (devices.root(), 2);
            claims.proof = devices.proof(&device(1)).unwrap();
        }),
        ("count", |claims| claims.manifest.device_count = 2),
        ("undo window", |claims| claims.manifest.undo_secs = Some(0)),
        ("requester", |claims| claims.manifest.requested_by = Some("mallory".parse().unwrap())),
        ("simulated", |claims| claims.manifest.simulated = true),
    ])
    .await;
}

#[tokio::test]
async fn hostile_hub_doubles_strips_and_moves_no_approval() {
    alterations_are_refused(&[
        ("doubled", |claims| claims.approvals[1] = claims.approvals[0].clone()),
        ("tripled", |claims| claims.approvals.push(claims.approvals[0].clone())),
        ("stripped of one", |claims| drop(claims.approvals.pop())),
        ("stripped of all", |claims| claims.approvals.clear()),
        ("changed about", |claims| claims.approvals.reverse()),
        ("of another order", |claims| claims.approvals = of_another_order().approvals),
    ])
    .await;
}

#[tokio::test]
async fn hostile_hub_retargets_no_order_of_another_device_by_claims_or_proof() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let mut theirs = bench.organisation.envelope(1, lock(), device(2), 1);
    (theirs.iat, theirs.nbf, theirs.exp) = (now(), now(), now().plus(Duration::from_secs(60)));
    let theirs = deliver(&bench, &theirs);
    let as_it_is = refusal(&bench, &mut hub, 100, theirs.clone()).await;
    assert_eq!(as_it_is, RefusalReason::WrongAudience);
    let retargets: [fn(&mut Envelope); 2] = [
        |claims| claims.aud = device(1),
        |claims| {
            let devices = DeviceTree::new([device(1)]).unwrap();
            claims.aud = device(1);
            claims.manifest.device_root = devices.root();
            claims.proof = devices.proof(&device(1)).unwrap();
        },
    ];
    for (number, retarget) in (101..).zip(retargets) {
        let reason = refusal(&bench, &mut hub, number, altered(&theirs, retarget)).await;
        assert_eq!(reason, RefusalReason::BadSignature);
    }
    assert_eq!(bench.effects(), NOTHING);
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 1)).await;
    agent.drain().await.unwrap();
}

/// The same delivery under another head, or another signature.
fn with_part(frame: &CommandFrame, at: usize, part: &str) -> CommandFrame {
    let mut parts: Vec<&str> = frame.jws.as_str().split('.').collect();
    parts[at] = part;
    CommandFrame { jws: CompactJws::from_text(parts.join(".")), ..frame.clone() }
}

#[tokio::test]
async fn hostile_hub_finds_no_head_or_signature_that_stands_for_a_key() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = bench.command(1, lock(), 1);
    let head = |alg: &str, typ: &str, kid: &dyn std::fmt::Display| {
        let head = format!(r#"{{"alg":"{alg}","typ":"{typ}","kid":"{kid}"}}"#);
        with_part(&good, 0, &BASE64.encode(head))
    };
    let organisation = &bench.organisation;
    let [command_key, alice, root] =
        [&organisation.command_key, &organisation.alice, &organisation.root_key]
            .map(|key| key.public().id().to_string());
    let typ = protocol::envelope::TYP;
    let unsigned = with_part(&head("none", typ, &command_key), 2, "");
    let cases = [
        ("no algorithm", unsigned, RefusalReason::Malformed),
        ("keyed hash", head("HS256", typ, &command_key), RefusalReason::Malformed),
        ("other algorithm", head("ES256", typ, &command_key), RefusalReason::BadSignature),
        ("other kind", head("EdDSA", "JWT", &command_key), RefusalReason::Malformed),
        ("approver's key", head("EdDSA", typ, &alice), RefusalReason::BadSignature),
        ("root key", head("EdDSA", typ, &root), RefusalReason::BadSignature),
        ("no signature", with_part(&good, 2, ""), RefusalReason::BadSignature),
        ("zeroes", with_part(&good, 2, &BASE64.encode([0; 64])), RefusalReason::BadSignature),
    ];
    for (number, (what, frame, expected)) in (100..).zip(cases) {
        assert_eq!(refusal(&bench, &mut hub, number, frame).await, expected, "{what}");
    }
    assert_eq!(bench.effects(), NOTHING);
    still_obeys(&bench, &mut hub, good).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_passes_nothing_else_that_was_signed_off_as_an_order() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let key = &bench.organisation.command_key;
    let config = AgentConfig { iat: now(), api: Vec::new(), hubs: Vec::new() };
    let head = Mark { seq: 1, hash: "f".repeat(64) };
    let checkpoint = Checkpoint { number: 1, head, at: now(), earlier: Vec::new() };
    hub.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    let AgentFrame::Receipt { jws: receipt, .. } = hub.receipt().await else { unreachable!() };
    let documents = [
        ("configuration", config.sign(key).unwrap()),
        ("checkpoint", checkpoint.sign(key).unwrap()),
        ("approval", approved(&bench).approvals[0].clone()),
        ("receipt", receipt),
    ];
    for (number, (what, jws)) in (100..).zip(documents) {
        let frame = CommandFrame { jws, ..bench.command(2, lock(), 2) };
        let reason = refusal(&bench, &mut hub, number, frame).await;
        assert_eq!(reason, RefusalReason::Malformed, "{what}");
    }
    assert_eq!(bench.effects().len(), 1);
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 2)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_replays_by_long_poll_gets_the_same_receipt() {
    let mut bench = Bench::new();
    bench.config.ladder.attempts = 1;
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(good.clone())).await;
    let first = hub.receipt().await;
    hub.send(confirmed(&first)).await;
    until(|| agent.status().commands.unconfirmed == 0).await;
    server.refuses_sockets.store(true, std::sync::atomic::Ordering::SeqCst);
    drop(hub);
    let replayed = [HubFrame::Command(good.clone()), HubFrame::Command(good)];
    assert_eq!(handed(&mut server, POLL_PATH, &replayed).await, first);
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_replays_what_was_undone_since_undoes_and_redoes_nothing() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let actions = [lock(), Action::Unlock(Unlock {}), lock(), Action::Release(Release {})];
    let mut done = Vec::new();
    for (number, action) in (1..).zip(actions) {
        let frame = bench.command(number, action, number.into());
        hub.send(HubFrame::Command(frame.clone())).await;
        let receipt = hub.receipt_of(frame.command_id).await;
        hub.send(confirmed(&receipt)).await;
        done.push((frame, receipt));
    }
    let effects = bench.effects();
    assert_eq!(effects.len(), done.len());
    until(|| agent.status().commands.unconfirmed == 0).await;
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    // The lock that was undone, the unlock of what is locked again, in whatever order.
    for (frame, receipt) in done.iter().rev().chain(&done) {
        hub.send(HubFrame::Command(frame.clone())).await;
        assert_eq!(hub.receipt_of(frame.command_id).await, *receipt);
    }
    assert_eq!(bench.effects(), effects);
    agent.drain().await.unwrap();
}

/// The next version of the organisation's trust root, signed by its root key.
fn next(bench: &Bench, version: u32, change: impl FnOnce(&mut TrustRoot)) -> HubFrame {
    let mut root = TrustRoot { version, ..bench.organisation.trust.clone() };
    change(&mut root);
    HubFrame::Trust { root: SignedTrustRoot::sign(&root, &[&bench.organisation.root_key]).unwrap() }
}

/// A lock takes an approval.
fn strict(root: &mut TrustRoot) {
    root.approvals.insert("lock".to_owned(), 1);
}

#[tokio::test]
async fn hostile_hub_that_rolls_the_trust_root_back_gets_no_order_of_before_obeyed() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let needs_one = next(&bench, 2, strict);
    hub.send(needs_one).await;
    until(|| agent.status().commands.trust_version == 2).await;
    let before = HubFrame::Trust { root: bench.organisation.signed_trust() };
    hub.send(before.clone()).await;
    let of_before = bench.command(1, lock(), 1);
    assert_eq!(refusal(&bench, &mut hub, 1, of_before).await, RefusalReason::MissingApproval);
    says(&agent, "trust root was not taken").await;
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    assert_eq!(hub.hello.trust_version, 2);
    hub.send(before).await;
    let again = bench.command(2, lock(), 2);
    assert_eq!(refusal(&bench, &mut hub, 2, again).await, RefusalReason::MissingApproval);
    assert_eq!(bench.effects(), NOTHING);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_reorders_trust_roots_skips_none() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let strict = next(&bench, 2, strict);
    let lax = next(&bench, 3, |_| ());
    hub.send(lax.clone()).await;
    hub.send(strict).await;
    until(|| agent.status().commands.trust_version == 2).await;
    says(&agent, "trust root was not taken").await;
    let early = bench.command(1, lock(), 1);
    assert_eq!(refusal(&bench, &mut hub, 1, early).await, RefusalReason::MissingApproval);
    hub.send(lax).await;
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 2)).await;
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_kept_orders_of_a_key_that_was_taken_out_plays_them_in_vain() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let kept = bench.command(1, lock(), 1);
    let other = signing_key(66);
    let key = CommandKey {
        key: other.public().clone(),
        verbs: bench.organisation.trust.command_keys[0].verbs.clone(),
    };
    hub.send(next(&bench, 2, |root| root.command_keys = vec![key])).await;
    assert_eq!(refusal(&bench, &mut hub, 1, kept).await, RefusalReason::BadSignature);
    assert_eq!(bench.effects(), NOTHING);
    bench.organisation.command_key = other;
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 1)).await;
    agent.drain().await.unwrap();
}
