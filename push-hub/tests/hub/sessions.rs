//! Sessions over a WebSocket: order, replacement, slowness, death, revocation.

use std::time::Duration;

use broker::{Broker as _, Downstream};
use futures_util::StreamExt as _;
use protocol::close::CloseCode;
use protocol::frame::AgentFrame;
use protocol::state::Lane;
use push_hub::Config;
use push_hub::socket::SocketConfig;
use runtime::Clock;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    GUARD, PAUSE, World, close_header, command, command_id, config, is_counted, refusal, until,
    upstream,
};

/// Devices whose numbers differ by this have their arrivals and departures told in one order.
const NEWS_LANES: u128 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_goes_upstream_after_the_arrival_was_written() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut agent = device.open(None).await.unwrap();
    agent.say(&crate::support::hello()).await;
    let welcome = agent.welcome().await;
    let hello = upstream(&mut reader, |_| true).await;
    assert_eq!((hello.device, hello.generation), (device.id, 1));
    assert_eq!((hello.session, hello.frame), (welcome.session_id, crate::support::hello()));
    let presence = world.broker.locate(&[device.id]).await.unwrap();
    assert_eq!(presence[0].as_ref().map(|here| here.session), Some(welcome.session_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_session_replaces_older_and_keeps_its_place() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut older = device.connect().await;
    let mut newer = device.open(None).await.unwrap();
    newer.say(&crate::support::hello()).await;
    let welcome = newer.welcome().await;
    assert_eq!(older.closed().await, Some(CloseCode::Replaced.number()));
    // The older session was taken out before it was closed. Whatever that told the broker is done
    // when the hello of a device whose news take the same lane has passed.
    let neighbour = world.device(1 + NEWS_LANES);
    let _third = neighbour.connect().await;
    upstream(&mut reader, |message| message.device == neighbour.id).await;
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(newer.commands(1).await, [command_id(1)]);
    assert_eq!(world.hub.sessions(), 2);
    let presence = world.broker.locate(&[device.id]).await.unwrap();
    let here = presence[0].as_ref().map(|here| here.session);
    assert_eq!(here, Some(welcome.session_id), "the newer one's entry stays");
}

/// Other tests of this process count too: it is at least those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_is_counted_when_it_is_routed_and_when_it_is_written() {
    let world = World::new().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    let recorder = runtime::observability::recorder();
    let counted = |step: &str| {
        let line = format!("tocsin_push_hub_{step}_age_seconds_count{{lane=\"urgent\"}} ");
        let text = recorder.render();
        let count = text.lines().find_map(|text| text.strip_prefix(&line));
        count.map_or(0, |count| count.trim().parse::<u64>().expect("a count"))
    };
    let before = ["routed", "written"].map(counted);
    world
        .deliver(device.id, vec![command(1, Lane::Urgent, 10), command(2, Lane::Urgent, 10)])
        .await;
    assert_eq!(agent.commands(2).await, [command_id(1), command_id(2)]);
    until("both are counted as routed", || counted("routed") >= before[0] + 2).await;
    until("both are counted as written", || counted("written") >= before[1] + 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn departure_is_told_to_the_broker() {
    let world = World::new().await;
    let device = world.device(1);
    let mut reader = world.reader().await;
    let mut agent = device.connect().await;
    upstream(&mut reader, |message| message.device == device.id).await;
    agent.send(Message::Close(None)).await;
    world.sessions(0).await;
    let gone = async {
        while world.broker.locate(&[device.id]).await.unwrap()[0].is_some() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(GUARD, gone).await.expect("the entry goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_commands_overtake_bulk_that_waits() {
    let world = World::new().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    let mut frames = (1..=9).map(|n| command(n, Lane::Bulk, 20_000)).collect::<Vec<_>>();
    frames.push(command(10, Lane::Urgent, 100));
    world.deliver(device.id, frames).await;
    let ids = agent.commands(10).await;
    let expected = std::iter::once(10).chain(1..=9).map(command_id).collect::<Vec<_>>();
    assert_eq!(ids, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_agent_is_closed_and_others_do_not_notice() {
    let world = World::new().await;
    let (slow, other) = (world.device(1), world.device(2));
    let mut stalled = slow.open(Some(4096)).await.unwrap();
    stalled.say(&crate::support::hello()).await;
    stalled.welcome().await;
    let mut agent = other.connect().await;
    let mut number = 0;
    while world.hub.sessions() == 2 {
        number += 1;
        world.deliver(slow.id, vec![command(number, Lane::Bulk, 40_000)]).await;
        world.deliver(other.id, vec![command(number, Lane::Urgent, 40)]).await;
        assert_eq!(agent.commands(1).await, [command_id(number)]);
        assert!(number < 1000, "the slow agent is never noticed");
    }
    let code = stalled.closed().await;
    assert!(code.is_none_or(|code| code == CloseCode::Slow.number()), "{code:?}");
    is_counted(CloseCode::Slow).await;
    world.deliver(other.id, vec![command(0, Lane::Urgent, 40)]).await;
    assert_eq!(agent.commands(1).await, [command_id(0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_stalls_ends_the_session() {
    let socket =
        SocketConfig { write_stall: Duration::from_millis(100), ..SocketConfig::default() };
    let world = World::with(Config { socket, ..config() }).await;
    let device = world.device(1);
    let mut agent = device.open(Some(4096)).await.unwrap();
    agent.say(&crate::support::hello()).await;
    agent.welcome().await;
    // Less than an inbox holds, more than the sockets' buffers do.
    let frames = (1..=5).map(|n| command(n, Lane::Bulk, 48_000)).collect();
    world.deliver(device.id, frames).await;
    world.sessions(0).await;
    let code = agent.closed().await;
    assert!(code.is_none_or(|code| code == CloseCode::Slow.number()), "{code:?}");
    is_counted(CloseCode::Slow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_agent_is_dead_and_answering_one_is_not() {
    let pace = Config {
        heartbeat: Duration::from_secs(1),
        // On a busy machine the lively one needs its time as well.
        dead_after: Duration::from_secs(10),
        socket: SocketConfig { controls_per_sec: 1000, ..SocketConfig::default() },
        ..config()
    };
    let world = World::with(pace).await;
    let mut silent = world.device(1).connect().await;
    let mut lively = world.device(2).connect().await;
    let mut pings = 0;
    while world.hub.sessions() == 2 {
        // Reading answers the ping.
        let message = lively.socket.next().await.unwrap().unwrap();
        pings += u32::from(matches!(message, Message::Ping(_)));
    }
    assert!(pings > 0);
    assert_eq!(silent.closed().await, Some(CloseCode::Dead.number()));
    assert_eq!(world.hub.sessions(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_device_is_closed_and_refused_even_when_it_resumes() {
    let world = World::new().await;
    let (device, other) = (world.device(1), world.device(2));
    let mut agent = device.connect().await;
    let mut untouched = other.connect().await;
    world.publish(Downstream::Revoke { device: device.id, through_generation: 1 }).await;
    assert_eq!(agent.closed().await, Some(CloseCode::Revoked.number()));
    world.sessions(1).await;

    let (stream, resumed) = device.dial(None).await;
    assert!(resumed, "the second handshake is a resumed one, and succeeds");
    let refused = refusal(stream).await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (403, Some("4006")));
    // A full handshake ends the same way.
    let (stream, resumed) = world.device(1).dial(None).await;
    assert!(!resumed);
    assert_eq!(close_header(&refusal(stream).await), Some("4006"));

    world.deliver(other.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(untouched.commands(1).await, [command_id(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_generation_is_revoked_and_the_newer_enrollment_is_not() {
    let world = World::new().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    world.publish(Downstream::Revoke { device: device.id, through_generation: 0 }).await;
    world.deliver(device.id, vec![command(1, Lane::Bulk, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_ends_with_its_certificate() {
    // Its last seconds, which are over when the test says so.
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis() + 3_598_000);
    let world = World::with_clock(config(), clock).await;
    let mut agent = world.device_for(1, 3600).connect().await;
    hand.advance(Duration::from_secs(30));
    assert_eq!(agent.closed().await, Some(CloseCode::CertificateExpired.number()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_receipts_and_syncs_go_upstream_in_order() {
    let world = World::new().await;
    let mut reader = world.reader().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    let said = (1..=20).map(|n| AgentFrame::Ack { command_id: command_id(n) }).collect::<Vec<_>>();
    for frame in &said {
        agent.say(frame).await;
    }
    let mut heard = Vec::new();
    while heard.len() < said.len() {
        let batch = reader.next().await.unwrap();
        let acks = batch.into_iter().map(|message| message.frame);
        heard.extend(acks.filter(|frame| matches!(frame, AgentFrame::Ack { .. })));
    }
    assert_eq!(heard, said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_for_an_absent_device_harms_nobody() {
    let world = World::new().await;
    let device = world.device(1);
    let mut agent = device.connect().await;
    let absent = crate::support::device_id(99);
    world.deliver(absent, vec![command(1, Lane::Urgent, 10)]).await;
    world.deliver(device.id, vec![command(2, Lane::Urgent, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(2)]);
    until("one session", || world.hub.sessions() == 1).await;
}

/// The bounds are what they take today, and a little: whoever has to raise one raises the memory of
/// every hub by that much for each of its sessions (docs/BENCHMARKS.md).
#[test]
fn idle_session_takes_what_is_known_and_no_more() {
    let bounds = [("task", 1536), ("socket", 1792), ("handle", 256)];
    let taken = push_hub::simulation::idle_session_bytes();
    for ((part, bytes), (name, bound)) in taken.into_iter().zip(bounds) {
        assert_eq!(part, name);
        assert!(bytes <= bound, "{part} takes more than {bound}: {taken:?}");
    }
}
