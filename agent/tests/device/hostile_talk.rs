//! What somebody else's hub says of itself, of its device and of time: by none of it does it keep an
//! order from the device, move one, or lead the device anywhere.

use std::time::Duration;

use protocol::action::{Action, Refresh};
use protocol::checkpoint::{Checkpoint, Mark};
use protocol::close::CloseCode;
use protocol::fixture::{lock, signing_key};
use protocol::frame::{
    AgentFrame, CHECK_IN_PATH, CommandFrame, Frame as _, HubFrame, Mode, POLL_PATH,
};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::receipt::{Outcome, RefusalReason};
use protocol::state::{Lane, PerLane};

use crate::bench::{Bench, now, until};
use crate::hostile::{NOTHING, still_obeys};
use crate::hostile_hub::{handed, is_receipt, refusal, says};
use crate::server::{Call, greeting};

#[tokio::test]
async fn hostile_hub_that_calls_a_device_revoked_keeps_no_order_from_it() {
    let mut bench = Bench::new();
    bench.config.ladder.check_in_healthy = Duration::from_millis(100);
    let mut server = bench.server().await;
    let agent = bench.start();
    let hub = server.session().await;
    hub.close(CloseCode::Revoked).await;
    let good = bench.command(1, lock(), 1);
    let answer = loop {
        let (frames, answer) = server.exchange(CHECK_IN_PATH).await;
        let Some(AgentFrame::Hello(hello)) = frames.first() else { panic!("{frames:?}") };
        if hello.degraded_since.is_some() {
            break answer;
        }
        drop(answer.send(vec![greeting()]));
    };
    // The control plane is told, and answers.
    drop(answer.send(vec![greeting()]));
    handed(&mut server, CHECK_IN_PATH, &[HubFrame::Command(good)]).await;
    assert_eq!(bench.effects().len(), 1);
    // Whom the control plane answers is not revoked: it comes back by itself.
    let _again = server.session().await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_asks_for_polling_and_is_silent_keeps_no_order_from_the_device() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Mode { mode: Mode::Poll, reason: "broker".to_owned() }).await;
    let good = bench.command(1, lock(), 1);
    bench.receipt(&handed(&mut server, CHECK_IN_PATH, &[HubFrame::Command(good)]).await);
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_says_another_lane_moves_no_order() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let urgent = CommandFrame { lane: Lane::Bulk, ..bench.command(1, lock(), 3) };
    still_obeys(&bench, &mut hub, urgent).await;
    let stands_at = |urgent, bulk| agent.status().commands.last_seq == PerLane { urgent, bulk };
    until(|| stands_at(3, 0)).await;
    // What is late in its own lane is late, whatever the hub calls it.
    let late = CommandFrame { lane: Lane::Bulk, ..bench.command(2, lock(), 2) };
    assert_eq!(refusal(&bench, &mut hub, 2, late).await, RefusalReason::Replayed);
    let bulk = bench.command(3, Action::Refresh(Refresh {}), 1);
    let bulk = CommandFrame { lane: Lane::Urgent, ..bulk };
    hub.send(HubFrame::Command(bulk.clone())).await;
    let receipt = bench.receipt(&hub.receipt_of(bulk.command_id).await);
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
    until(|| stands_at(3, 1)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_lies_about_what_came_before_holds_nothing_back() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    // Something earlier is said to be missing: the device asks for it, whoever it asks.
    let good = bench.command(1, lock(), 9);
    hub.send(HubFrame::Command(CommandFrame { after_seq: 8, ..good.clone() })).await;
    let asked = hub.wait_for(|frame| matches!(frame, AgentFrame::Sync { .. })).await;
    assert_eq!(asked, AgentFrame::Sync { last_seq: PerLane::default() });
    assert_eq!(bench.effects(), NOTHING);
    // What cannot be is no reason to wait.
    still_obeys(&bench, &mut hub, CommandFrame { after_seq: u64::MAX, ..good }).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_forges_a_checkpoint_makes_the_device_remember_nothing() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let head = Mark { seq: 1_000, hash: "e".repeat(64) };
    let forged = Checkpoint { number: 100, head, at: now(), earlier: Vec::new() };
    let jws = forged.sign(&signing_key(66)).unwrap();
    hub.send(HubFrame::Checkpoint { jws }).await;
    still_obeys(&bench, &mut hub, bench.command(1, lock(), 1)).await;
    assert!(!bench.config.state_dir.join("checkpoint.json").exists());
    says(&agent, "checkpoint was not taken").await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_welcomes_again_with_another_time_is_left() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send_text(greeting().encode().unwrap()).await;
    while hub.next().await.is_some() {}
    let mut hub = server.session().await;
    assert!(agent.status().ladder.last_error.is_some());
    still_obeys(&bench, &mut hub, bench.command(1, lock(), 1)).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_answers_a_long_poll_without_end_is_read_no_further() {
    let mut bench = Bench::new();
    bench.config.ladder.attempts = 1;
    let mut server = bench.server().await;
    server.refuses_sockets.store(true, std::sync::atomic::Ordering::SeqCst);
    let agent = bench.start();
    let good = bench.command(1, lock(), 1);
    let jws = CompactJws::from_text("x".repeat(limits::ENVELOPE_BYTES));
    let long = HubFrame::Command(CommandFrame { jws, ..bench.command(2, lock(), 2) });
    let frames = vec![long; limits::EXCHANGE_BYTES / limits::ENVELOPE_BYTES + 1];
    let endless = [vec![greeting(), HubFrame::Command(good.clone())], frames].concat();
    // It goes to somebody else in the end, and has taken nothing of it before.
    let mut is_taken = false;
    loop {
        let Call::Exchange { path, frames, answer } = server.call().await else { continue };
        if frames.iter().any(is_receipt) {
            break;
        }
        if path == POLL_PATH {
            drop(answer.send(endless.clone()));
            continue;
        }
        assert!(is_taken || bench.effects() == NOTHING);
        is_taken = true;
        drop(answer.send(vec![greeting(), HubFrame::Command(good.clone())]));
    }
    assert_eq!(bench.effects().len(), 1);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_that_redirects_leads_nobody_anywhere() {
    let mut bench = Bench::new();
    let foreign = Bench::new();
    let mut trap = foreign.server_at("127.0.0.1:0".parse().unwrap()).await;
    let mut server = bench.server().await;
    server.says.lock().unwrap().redirects_to = Some(trap.address);
    let agent = bench.start();
    let good = bench.command(1, lock(), 1);
    handed(&mut server, CHECK_IN_PATH, &[HubFrame::Command(good)]).await;
    assert_eq!(bench.effects().len(), 1);
    assert!(trap.is_untouched());
    assert!(agent.status().ladder.degraded_since.is_some());
    agent.drain().await.unwrap();
}
