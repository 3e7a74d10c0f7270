//! The long-poll: holding, answering, and what it shares with sessions over a WebSocket.

use std::time::Duration;

use broker::{Broker as _, Downstream};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, Exchange, HubFrame, POLL_PATH};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::state::Lane;
use push_hub::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::support::{Device, PAUSE, World, command, command_id, config, hello, upstream};

fn body(frames: Vec<AgentFrame>) -> String {
    serde_json::to_string(&Exchange { frames }).unwrap()
}

/// One poll: the status, and the frames if there are any.
async fn poll(device: &Device, frames: Vec<AgentFrame>) -> (String, Vec<HubFrame>) {
    let (head, answer) = device.request("POST", POLL_PATH, &body(frames)).await;
    let exchange = serde_json::from_str::<Exchange<HubFrame>>(&answer);
    (head, exchange.map(|exchange| exchange.frames).unwrap_or_default())
}

/// A poll that goes on in the background.
fn start_poll(device: &Device) -> JoinSet<(String, Vec<HubFrame>)> {
    let device = device.clone();
    let mut held = JoinSet::new();
    held.spawn(async move { poll(&device, vec![hello()]).await });
    held
}

async fn finish(held: &mut JoinSet<(String, Vec<HubFrame>)>) -> (String, Vec<HubFrame>) {
    held.join_next().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_poll_gets_a_command_published_meanwhile() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut held = start_poll(&device);
    let asked = upstream(&mut reader, |message| message.device == device.id).await;
    assert_eq!(asked.frame, hello());
    let urgent = command(2, Lane::Urgent, 50);
    world.deliver(device.id, vec![command(1, Lane::Bulk, 50), urgent]).await;
    let (head, frames) = finish(&mut held).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let [HubFrame::Welcome(welcome), HubFrame::Command(first), HubFrame::Command(second)] =
        frames.as_slice()
    else {
        panic!("{frames:?}");
    };
    assert_eq!(welcome.session_id, asked.session);
    assert_eq!([first.command_id, second.command_id], [command_id(2), command_id(1)]);
    world.sessions(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipt_in_a_poll_goes_upstream() {
    let hold = Config { poll_hold: Duration::from_millis(10), ..config() };
    let world = World::with(hold).await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let receipt = AgentFrame::Receipt {
        command_id: command_id(1),
        jws: CompactJws::from_text("signed".to_owned()),
    };
    let (head, frames) = poll(&device, vec![hello(), receipt.clone(), AgentFrame::Unknown]).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(matches!(frames.as_slice(), [HubFrame::Welcome(_)]), "{frames:?}");
    let heard = upstream(&mut reader, |message| message.frame == receipt).await;
    assert_eq!(heard.device, device.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_over_a_websocket_replaces_a_held_poll() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut held = start_poll(&device);
    upstream(&mut reader, |message| message.device == device.id).await;
    let mut agent = device.connect().await;
    let (head, frames) = finish(&mut held).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(matches!(frames.as_slice(), [HubFrame::Welcome(_)]), "{frames:?}");
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
    assert_eq!(world.hub.sessions(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poll_replaces_a_session_whose_agent_has_given_up() {
    let hold = Config { poll_hold: Duration::from_millis(10), ..config() };
    let world = World::with(hold).await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    poll(&device, vec![hello()]).await;
    assert_eq!(agent.closed().await, Some(CloseCode::Replaced.number()));
    world.sessions(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poll_whose_agent_hangs_up_leaves_nothing_behind() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut held = start_poll(&device);
    upstream(&mut reader, |message| message.device == device.id).await;
    held.shutdown().await;
    world.sessions(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_device_is_refused_in_the_middle_of_a_poll() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut held = start_poll(&device);
    upstream(&mut reader, |message| message.device == device.id).await;
    world.publish(Downstream::Revoke { device: device.id, through_generation: 1 }).await;
    let (head, _) = finish(&mut held).await;
    assert!(head.starts_with("http/1.1 403 ") && head.contains("tocsin-close: 4006"), "{head}");
    let (head, _) = poll(&device, vec![hello()]).await;
    assert!(head.contains("tocsin-close: 4006"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_is_no_exchange_is_refused() {
    let world = World::new().await;
    let device = world.device(1);
    let ack = || AgentFrame::Ack { command_id: command_id(1) };
    let many = std::iter::once(hello()).chain((0..limits::EXCHANGE_FRAMES).map(|_| ack()));
    for (text, status, close) in [
        ("{".to_owned(), "400", "4003"),
        (body(vec![]), "400", "4003"),
        (body(vec![ack()]), "400", "4003"),
        (body(many.collect()), "400", "4003"),
        ("x".repeat(limits::EXCHANGE_BYTES + 1), "413", "1009"),
    ] {
        let (head, _) = device.request("POST", POLL_PATH, &text).await;
        let shown = format!("{text:.40}: {head}");
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{shown}");
        assert!(head.contains(&format!("tocsin-close: {close}")), "{shown}");
    }
    assert_eq!(world.hub.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_poll_after_poll() {
    let hold = Config { poll_hold: Duration::from_millis(10), ..config() };
    let world = World::with(hold).await;
    let device = world.device(1);
    let (mut stream, _) = device.dial(None).await;
    for _ in 0..3 {
        let body = body(vec![hello()]);
        let length = body.len();
        let request = format!(
            "POST {POLL_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"]}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "it stays open");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poll_is_present_while_it_is_held() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut held = start_poll(&device);
    let asked = upstream(&mut reader, |message| message.device == device.id).await;
    let presence = world.broker.locate(&[device.id]).await.unwrap();
    assert_eq!(presence[0].as_ref().map(|here| here.session), Some(asked.session));
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    finish(&mut held).await;
    let gone = async {
        while world.broker.locate(&[device.id]).await.unwrap()[0].is_some() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(crate::support::GUARD, gone).await.expect("the entry goes");
}
