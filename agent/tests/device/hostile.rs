//! A hub, or a whole control plane, that is somebody else's: whatever it sends, nothing happens
//! that people's keys did not sign, and where a refusal is due it is signed and says why.

use std::time::Duration;

use agent::journal::Journal;
use protocol::action::{Action, Wipe, WipeLevel};
use protocol::envelope::Envelope;
use protocol::fixture::{command, device, lock, signing_key, wipe};
use protocol::frame::{AgentFrame, CHECK_IN_PATH, CommandFrame, Frame as _, HubFrame, Reconnect};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::manifest::DeviceTree;
use protocol::receipt::{Outcome, RefusalReason};
use protocol::session::hub::Pace;
use protocol::time::Timestamp;
use protocol::trust::{CommandKey, RootKeys, SignedTrustRoot, TrustRoot};

use crate::bench::{Bench, confirmed, now, reason, until};
use crate::server::{HubSide, greeting};

pub(crate) const NOTHING: [String; 0] = [];

/// A wipe that two persons approved.
pub(crate) fn approved(bench: &Bench) -> Envelope {
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    bench.organisation.approved(bench.envelope(1, wipe(), 1), &approvers)
}

pub(crate) fn deliver(bench: &Bench, envelope: &Envelope) -> CommandFrame {
    bench.organisation.deliver(envelope, 0)
}

/// Sends a good command and waits for its effect: whatever came before it has been judged.
pub(crate) async fn still_obeys(bench: &Bench, hub: &mut HubSide, good: CommandFrame) {
    let (command_id, sha256) = (good.command_id, good.jws.sha256());
    hub.send(HubFrame::Command(good)).await;
    let receipt = loop {
        let receipt = bench.receipt(&hub.receipt_of(command_id).await);
        // Garbage may have borrowed the name of this command.
        if receipt.envelope_sha256 == sha256 {
            break receipt;
        }
    };
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    let line = format!("lock {command_id}");
    assert_eq!(bench.effects().iter().filter(|effect| **effect == line).count(), 1);
}

#[tokio::test]
async fn hostile_replay_has_no_second_effect_and_gets_no_other_outcome() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(good.clone())).await;
    let first = hub.receipt().await;
    hub.send(confirmed(&first)).await;
    until(|| agent.status().commands.unconfirmed == 0).await;
    // Under another name, it could come back as a signed refusal of what was carried out.
    let mislabelled = CommandFrame { command_id: command(7), ..good.clone() };
    hub.send(HubFrame::Command(mislabelled)).await;
    hub.send(HubFrame::Command(good.clone())).await;
    assert_eq!(hub.receipt().await, first);
    bench.kill(agent).await;
    drop(hub);
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(good.clone())).await;
    assert_eq!(hub.receipt().await, first);
    let refused = deliver(&bench, &bench.envelope(2, lock(), 1));
    hub.send(HubFrame::Command(refused.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(refused.command_id).await);
    assert_eq!(reason(&receipt), RefusalReason::Replayed);
    assert_eq!(bench.effects(), [format!("lock {}", good.command_id)]);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_reorder_costs_the_earlier_command_visibly() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let (first, second) = (bench.command(1, lock(), 1), bench.command(2, lock(), 2));
    still_obeys(&bench, &mut hub, second.clone()).await;
    hub.send(HubFrame::Command(first.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(first.command_id).await);
    assert_eq!(reason(&receipt), RefusalReason::Replayed);
    assert_eq!(bench.effects(), [format!("lock {}", second.command_id)]);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_retarget_to_this_device_is_refused() {
    // As it was signed for another device, and as if it had been signed for this one.
    let mut bench = Bench::new();
    let mut other = bench.organisation.envelope(1, lock(), device(2), 1);
    (other.iat, other.nbf, other.exp) = (now(), now(), now().plus(Duration::from_secs(60)));
    let frame = deliver(&bench, &other);
    assert_eq!(bench.refusal(frame.clone()).await, RefusalReason::WrongAudience);
    let altered = with_claims(&frame, |claims| {
        claims.replace(&device(2).to_string(), &device(1).to_string())
    });
    assert_eq!(Bench::new().refusal(altered).await, RefusalReason::BadSignature);
}

/// The same delivery with other claims under the old signature.
pub(crate) fn with_claims(frame: &CommandFrame, alter: impl Fn(String) -> String) -> CommandFrame {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let parts: Vec<&str> = frame.jws.as_str().split('.').collect();
    let claims = String::from_utf8(BASE64.decode(parts[1]).unwrap()).unwrap();
    let altered = alter(claims.clone());
    assert_ne!(altered, claims);
    let text = format!("{}.{}.{}", parts[0], BASE64.encode(altered), parts[2]);
    CommandFrame { jws: CompactJws::from_text(text), ..frame.clone() }
}

#[tokio::test]
async fn hostile_command_of_an_old_enrollment_is_refused() {
    let mut bench = Bench::new();
    let old = Envelope { generation: 0, ..bench.envelope(1, lock(), 1) };
    let frame = deliver(&bench, &old);
    assert_eq!(bench.refusal(frame).await, RefusalReason::WrongAudience);
}

#[tokio::test]
async fn hostile_stripping_of_approvals_is_refused() {
    // By a hub, which cannot sign, and by a control plane, which can.
    let mut bench = Bench::new();
    let both = approved(&bench);
    let one = Envelope { approvals: both.approvals[..1].to_vec(), ..both.clone() };
    let stripped = with_claims(&deliver(&bench, &both), |_| serde_json::to_string(&one).unwrap());
    assert_eq!(bench.refusal(stripped).await, RefusalReason::BadSignature);
    let mut bench = Bench::new();
    let none = Envelope { approvals: Vec::new(), ..both };
    for (envelope, seq) in [(one, 1), (none, 2)] {
        let frame = deliver(&bench, &Envelope { seq, jti: command(seq as u8), ..envelope });
        assert_eq!(bench.refusal(frame).await, RefusalReason::MissingApproval);
    }
}

#[tokio::test]
async fn hostile_doubling_of_approvals_is_refused() {
    let mut bench = Bench::new();
    let mut doubled = approved(&bench);
    doubled.approvals[1] = doubled.approvals[0].clone();
    let frame = deliver(&bench, &doubled);
    assert_eq!(bench.refusal(frame).await, RefusalReason::DoubledApproval);
}

#[tokio::test]
async fn hostile_widening_of_a_manifest_is_refused() {
    let data = Action::Wipe(Wipe { level: WipeLevel::Data, power_off: true });
    let widenings: [&dyn Fn(&mut Envelope); 3] = [
        &|wide| wide.manifest.action = data.clone(),
        &|wide| wide.manifest.expires_at = wide.manifest.expires_at.plus(Duration::from_secs(9)),
        &|wide| {
            let devices = DeviceTree::new([device(1), device(2), device(3)]).unwrap();
            (wide.manifest.device_root, wide.manifest.device_count) = (devices.root(), 3);
            wide.proof = devices.proof(&device(1)).unwrap();
        },
    ];
    for widen in widenings {
        let mut bench = Bench::new();
        let mut wide = approved(&bench);
        widen(&mut wide);
        let frame = deliver(&bench, &wide);
        assert_eq!(bench.refusal(frame).await, RefusalReason::WidenedManifest);
    }
}

#[tokio::test]
async fn hostile_approvals_of_another_device_are_refused() {
    let mut bench = Bench::new();
    let mut lifted = approved(&bench);
    let theirs = bench.organisation.envelope(1, wipe(), device(2), 1);
    (lifted.manifest, lifted.proof) = (theirs.manifest, theirs.proof);
    lifted.manifest.expires_at = lifted.exp;
    let frame = deliver(&bench, &lifted);
    assert_eq!(bench.refusal(frame).await, RefusalReason::WidenedManifest);
}

#[tokio::test]
async fn hostile_confirmation_keeps_no_outcome_from_the_store() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    // Of receipts that were never written: nothing is kept of them.
    let before = bench.journal();
    let invented = (0..limits::CONFIRMED_RECEIPTS).map(|number| format!("{number:043}"));
    hub.send(HubFrame::Confirmed { receipts: invented.collect() }).await;
    let good = bench.command(1, lock(), 1);
    hub.send(HubFrame::Command(good.clone())).await;
    let first = hub.receipt().await;
    assert!(bench.journal().starts_with(&before));
    assert!(!bench.journal().contains("confirmed"));
    // Of a receipt that never reached the store: whoever asks for it gets it, on any rung.
    hub.send(confirmed(&first)).await;
    until(|| agent.status().commands.unconfirmed == 0).await;
    drop(hub);
    bench.kill(agent).await;
    let agent = bench.start();
    let mut honest = server.session().await;
    honest.send(HubFrame::Command(good)).await;
    assert_eq!(honest.receipt().await, first);
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_trust_root_is_not_taken() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let stranger = signing_key(66);
    let keys = RootKeys { keys: vec![stranger.public().clone()], threshold: 1 };
    let mine = CommandKey {
        key: stranger.public().clone(),
        verbs: ["lock".to_owned(), "wipe".to_owned()].into(),
    };
    let good = &bench.organisation.trust;
    let forged = TrustRoot { version: 2, command_keys: vec![mine], ..good.clone() };
    let taken_over = TrustRoot { root: keys, ..forged.clone() };
    let skipping = TrustRoot { version: 7, ..good.clone() };
    for (root, key) in
        [(forged, &stranger), (taken_over, &stranger), (skipping, &bench.organisation.root_key)]
    {
        let root = SignedTrustRoot::sign(&root, &[key]).unwrap();
        hub.send(HubFrame::Trust { root }).await;
    }
    let claims = bench.envelope(1, lock(), 1);
    let jws = protocol::envelope::sign(&claims, &stranger).unwrap();
    hub.send(HubFrame::Command(CommandFrame { jws, ..bench.command(1, lock(), 1) })).await;
    let receipt = bench.receipt(&hub.receipt().await);
    assert_eq!(reason(&receipt), RefusalReason::BadSignature);
    assert_eq!(bench.effects(), NOTHING);
    assert_eq!(agent.status().commands.trust_version, 1);
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 1)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_flood_of_garbage_is_bounded_and_keeps_nothing_out() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = bench.command(1, lock(), 1);
    let garbage = |number: usize| {
        let jws = match number % 3 {
            0 => format!("{number}"),
            1 => format!("e30.e30.{number:04}"),
            _ => format!("{}.{number}", good.jws.as_str()),
        };
        let frame = CommandFrame { jws: CompactJws::from_text(jws), ..good.clone() };
        HubFrame::Command(frame).encode().unwrap()
    };
    for number in 0..3_000 {
        hub.send_text(garbage(number)).await;
    }
    still_obeys(&bench, &mut hub, good.clone()).await;
    assert_eq!(bench.effects().len(), 1);
    let unconfirmed = agent.status().commands.unconfirmed;
    assert_eq!(unconfirmed, limits::LEDGER_STRANGERS + 1);
    assert!(agent.status().commands.journal_records < limits::LEDGER_STRANGERS + 10);
    agent.drain().await.unwrap();
    let opened = Journal::open(&bench.journal_path()).unwrap();
    assert_eq!(opened.damage, None);
}

#[tokio::test]
async fn hostile_bytes_end_the_session_and_nothing_else() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let texts = [
        "{".to_owned(),
        r#"{"kind":"command"}"#.to_owned(),
        r#"{"kind":"welcome","session_id":"x"}"#.to_owned(),
        format!(r#"{{"kind":"confirmed","receipts":[{}"a"]}}"#, r#""a","#.repeat(300)),
        "[".repeat(30_000),
        "x".repeat(limits::FRAME_BYTES + 1),
    ];
    for text in texts {
        let mut hub = server.session().await;
        hub.send_text(text).await;
        while hub.next().await.is_some() {}
    }
    let mut hub = server.session().await;
    hub.send_text(r#"{"kind":"of_tomorrow","with":[1,2]}"#.to_owned()).await;
    assert_eq!(bench.effects(), NOTHING);
    still_obeys(&bench, &mut hub, bench.command(1, lock(), 1)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_heartbeat_does_not_silence_the_device() {
    let mut bench = Bench::new();
    bench.config.ladder.check_in_healthy = Duration::from_millis(100);
    let mut server = bench.server().await;
    let longest = Duration::from_secs(u64::from(u32::MAX));
    let pace = Pace { heartbeat: longest, check_in: longest, ..Pace::default() };
    server.says.lock().unwrap().pace = pace;
    let agent = bench.start();
    // This hub says that it is never heard of again, and it is not: another rung brings commands.
    let _mute = server.session().await;
    let (_, answer) = server.exchange(CHECK_IN_PATH).await;
    let good = bench.command(1, lock(), 1);
    drop(answer.send(vec![greeting(), HubFrame::Command(good)]));
    until(|| bench.effects().len() == 1).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_server_time_does_not_make_good_commands_expire() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    server.says.lock().unwrap().server_time = Some(Timestamp::from_millis(u64::MAX));
    let agent = bench.start();
    let mut hub = server.session().await;
    still_obeys(&bench, &mut hub, bench.command(1, lock(), 1)).await;
    drop(hub);
    bench.kill(agent).await;
    let agent = bench.start();
    let mut hub = server.session().await;
    still_obeys(&bench, &mut hub, bench.command(2, lock(), 2)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_reconnect_does_not_lead_the_device_away() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    // Same protocol, another authority: the device shows it nothing.
    let foreign = Bench::new();
    let mut trap = foreign.server_at("127.0.0.1:0".parse().unwrap()).await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let elsewhere = |after_ms, hubs| {
        HubFrame::Reconnect(Reconnect { after_ms, hubs, reason: "drain".to_owned() })
    };
    let odd = ["", ":", "[::1", "127.0.0.1:99999", "../etc:1", "a b:1"].map(str::to_owned);
    hub.send(elsewhere(u64::MAX, odd.to_vec())).await;
    still_obeys(&bench, &mut hub, bench.command(1, lock(), 1)).await;
    hub.send(elsewhere(0, [vec![trap.address.to_string()], odd.to_vec()].concat())).await;
    let mut moved = server.session().await;
    still_obeys(&bench, &mut moved, bench.command(2, lock(), 2)).await;
    assert!(trap.is_untouched());
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_acks_are_for_the_command_that_is_on_disk() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let good = bench.command(1, lock(), 1);
    let mislabelled = CommandFrame { command_id: command(7), ..good.clone() };
    hub.send(HubFrame::Command(mislabelled)).await;
    assert_eq!(hub.ack().await, AgentFrame::Ack { command_id: good.command_id });
    let receipt = bench.receipt(&hub.receipt().await);
    assert_eq!(receipt.command_id, good.command_id);
    agent.drain().await.unwrap();
}
