//! The ladder: down by itself when a rung fails, and up again by itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use agent::status::Rung;
use protocol::close::CloseCode;
use protocol::fixture::lock;
use protocol::frame::{AgentFrame, CHECK_IN_PATH, HubFrame, Mode, POLL_PATH};

use crate::bench::{Bench, until};
use crate::ports::Held;
use crate::server::{Room, greeting};

#[tokio::test]
async fn long_poll_delivers_when_the_websocket_is_refused() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    server.refuses_sockets.store(true, Ordering::SeqCst);
    let agent = bench.start();
    let (_, answer) = server.exchange(POLL_PATH).await;
    let command = HubFrame::Command(bench.command(1, lock(), 1));
    drop(answer.send(vec![greeting(), command]));
    let receipt = server.receipt(POLL_PATH).await;
    assert_eq!(bench.receipt(&receipt).outcome.state().as_str(), "succeeded");
    assert_eq!(agent.status().ladder.rung, Rung::LongPoll);
    server.refuses_sockets.store(false, Ordering::SeqCst);
    let _hub = server.session().await;
    until(|| agent.status().ladder.rung == Rung::Push).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hub_that_asks_to_be_left_alone_does_not_hold_up_a_long_poll_at_another() {
    let mut bench = Bench::new();
    let full = bench.server().await;
    let mut free = bench.server_at("127.0.0.1:0".parse().unwrap()).await;
    for hub in [&full, &free] {
        hub.refuses_sockets.store(true, Ordering::SeqCst);
    }
    let room = Room { retry_after_secs: 3600, other: full.address };
    full.says.lock().unwrap().room = Some(room);
    bench.config.addresses.hubs = [full.address, free.address].map(|a| a.to_string()).into();
    // Agents begin somewhere: until one has begun at the hub that has no room.
    while full.says.lock().unwrap().turned_away == 0 {
        let agent = bench.start();
        drop(free.exchange(POLL_PATH).await);
        agent.drain().await.unwrap();
    }
}

#[tokio::test]
async fn check_in_delivers_when_the_hub_is_gone_and_the_socket_returns_by_itself() {
    let mut bench = Bench::new();
    let mut api = bench.server().await;
    // Nobody listens there yet.
    let hub = Held::new();
    bench.config.addresses.hubs = vec![hub.addr().to_string()];
    let agent = bench.start();
    let (_, answer) = api.exchange(CHECK_IN_PATH).await;
    let command = HubFrame::Command(bench.command(1, lock(), 1));
    drop(answer.send(vec![greeting(), command]));
    let receipt = api.receipt(CHECK_IN_PATH).await;
    assert_eq!(bench.receipt(&receipt).outcome.state().as_str(), "succeeded");
    assert_eq!(agent.status().ladder.rung, Rung::CheckIn);
    let mut back = bench.server_at(hub.addr()).await;
    let mut hub = back.session().await;
    assert!(hub.hello.degraded_since.is_some());
    assert_eq!(hub.receipt().await, receipt);
    until(|| agent.status().ladder.rung == Rung::Push).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn replaced_session_comes_back_with_a_later_epoch() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let replaced = server.session().await;
    let epoch = replaced.hello.epoch;
    replaced.close(CloseCode::Replaced).await;
    let again = server.session().await;
    assert!(again.hello.epoch > epoch, "{} after {epoch}", again.hello.epoch);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn revoked_device_only_checks_in_slowly() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    server.session().await.close(CloseCode::Revoked).await;
    // Its next word is a check-in, and until that is answered it tries no session.
    let (frames, answer) = server.exchange(CHECK_IN_PATH).await;
    assert!(matches!(frames.first(), Some(AgentFrame::Hello(_))));
    drop(answer.send(vec![greeting()]));
    let _after_a_check_in_was_answered = server.session().await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn poll_mode_keeps_the_session_and_checks_in() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let mode = |mode| HubFrame::Mode { mode, reason: "broker".to_owned() };
    hub.send(mode(Mode::Poll)).await;
    let (_, answer) = server.exchange(CHECK_IN_PATH).await;
    let command = HubFrame::Command(bench.command(1, lock(), 1));
    drop(answer.send(vec![greeting(), command]));
    let receipt = server.receipt(CHECK_IN_PATH).await;
    hub.send(mode(Mode::Push)).await;
    assert_eq!(hub.receipt().await, receipt);
    assert_eq!(agent.status().ladder.rung, Rung::Push);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn slow_check_in_finds_what_a_healthy_session_missed() {
    let mut bench = Bench::new();
    bench.config.ladder.check_in_healthy = Duration::from_millis(50);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let (_, answer) = server.exchange(CHECK_IN_PATH).await;
    drop(answer.send(vec![greeting(), HubFrame::Command(bench.command(1, lock(), 1))]));
    let receipt = bench.receipt(&hub.receipt().await);
    assert_eq!(receipt.outcome.state().as_str(), "succeeded");
    assert_eq!(agent.status().ladder.rung, Rung::Push);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hub_that_welcomes_and_closes_does_not_keep_an_agent_from_the_lower_rungs() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    // Until then the server drops each session the moment it stands.
    let (_, answer) = server.exchange(CHECK_IN_PATH).await;
    let command = HubFrame::Command(bench.command(1, lock(), 1));
    drop(answer.send(vec![greeting(), command]));
    let receipt = server.receipt(CHECK_IN_PATH).await;
    assert_eq!(bench.receipt(&receipt).outcome.state().as_str(), "succeeded");
    agent.drain().await.unwrap();
}
