//! Moving a session to another hub: the new one stands before the old one goes, and no hub leads a
//! device where its configuration does not.

use agent::Agent;
use agent::status::Rung;
use protocol::fixture::lock;
use protocol::frame::{HubFrame, Reconnect};

use crate::bench::{Bench, GUARD};
use crate::server::{HubSide, Room, Server};

/// A device with two hubs in its configuration, and a session with one of them.
struct Pair {
    agent: Agent,
    old: HubSide,
    /// The hub that has the session.
    here: Server,
    /// The other one.
    there: Server,
}

impl Pair {
    async fn new(bench: &mut Bench) -> Self {
        let mut one = bench.server().await;
        let mut two = bench.server_at("127.0.0.1:0".parse().unwrap()).await;
        bench.config.addresses.hubs.push(two.address.to_string());
        let agent = bench.start();
        let (old, is_one) = tokio::select! {
            session = one.session() => (session, true),
            session = two.session() => (session, false),
        };
        let (here, there) = if is_one { (one, two) } else { (two, one) };
        Self { agent, old, here, there }
    }
}

fn reconnect(hubs: Vec<String>) -> HubFrame {
    HubFrame::Reconnect(Reconnect { after_ms: 0, hubs, reason: "drain".to_owned() })
}

#[tokio::test]
async fn new_session_opens_before_the_old_one_closes() {
    let mut bench = Bench::new();
    let Pair { agent, mut old, mut there, .. } = Pair::new(&mut bench).await;
    old.send(reconnect(vec![there.address.to_string()])).await;
    let mut new = there.session().await;
    new.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    new.receipt().await;
    while old.next().await.is_some() {}
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hub_that_names_nobody_is_left_for_another_all_the_same() {
    let mut bench = Bench::new();
    let Pair { agent, mut old, mut there, .. } = Pair::new(&mut bench).await;
    old.send(reconnect(Vec::new())).await;
    let _new = there.session().await;
    while old.next().await.is_some() {}
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn command_on_both_sessions_of_a_move_takes_effect_once() {
    let mut bench = Bench::new();
    let Pair { agent, mut old, mut there, .. } = Pair::new(&mut bench).await;
    let (first, second) = (bench.command(1, lock(), 1), bench.command(2, lock(), 2));
    old.send(reconnect(vec![there.address.to_string()])).await;
    old.send(HubFrame::Command(first.clone())).await;
    let mut new = there.session().await;
    for hub in [&mut new, &mut old] {
        hub.send(HubFrame::Command(first.clone())).await;
        hub.send(HubFrame::Command(second.clone())).await;
    }
    new.receipt_of(first.command_id).await;
    new.receipt_of(second.command_id).await;
    while old.next().await.is_some() {}
    let once = [first, second].map(|command| format!("lock {}", command.command_id));
    assert_eq!(bench.effects(), once);
    agent.drain().await.unwrap();
    assert_eq!(bench.effects(), once);
}

#[tokio::test]
async fn old_session_serves_while_the_new_one_does_not_come_to_stand() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    // It takes the connection, and never says a word. The device begins with either.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.config.addresses.hubs.push(mute.local_addr().unwrap().to_string());
    bench.config.ladder.connect_timeout = std::time::Duration::from_millis(100);
    let agent = bench.start();
    let mut old = server.session().await;
    while let Ok(accepted) = tokio::time::timeout(std::time::Duration::ZERO, mute.accept()).await {
        drop(accepted);
    }
    old.send(reconnect(Vec::new())).await;
    let _dialled = tokio::time::timeout(GUARD, mute.accept()).await.unwrap().unwrap();
    old.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    let receipt = bench.receipt(&old.receipt().await);
    assert_eq!(receipt.outcome.state().as_str(), "succeeded");
    assert_eq!(agent.status().ladder.rung, Rung::Push);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hub_without_room_sends_a_device_to_one_that_has_some() {
    let mut bench = Bench::new();
    let Pair { agent, mut old, here, mut there } = Pair::new(&mut bench).await;
    // It asks to be left alone for longer than this test waits for anything.
    let room = Room { retry_after_secs: 600, other: there.address };
    here.says.lock().unwrap().room = Some(room);
    old.send(HubFrame::Command(bench.command(1, lock(), 1))).await;
    old.receipt().await;
    drop(old);
    let mut new = there.session().await;
    new.send(HubFrame::Command(bench.command(2, lock(), 2))).await;
    new.receipt().await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn hostile_hub_without_room_leads_no_device_to_a_stranger() {
    let mut bench = Bench::new();
    let foreign = Bench::new();
    let mut trap = foreign.server_at("127.0.0.1:0".parse().unwrap()).await;
    let mut server = bench.server().await;
    let room = Room { retry_after_secs: 0, other: trap.address };
    server.says.lock().unwrap().room = Some(room);
    let agent = bench.start();
    // Refused as often as it takes to fall to the last rung, it has not gone where it was led.
    let (_, answer) = server.exchange(protocol::frame::CHECK_IN_PATH).await;
    drop(answer.send(vec![crate::server::greeting()]));
    assert!(trap.is_untouched());
    server.says.lock().unwrap().room = None;
    let _session = server.session().await;
    agent.drain().await.unwrap();
}
