//! Everything before a session: certificates, time-outs, admission, requests.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use protocol::close::CloseCode;
use protocol::frame::SOCKET_PATH;
use protocol::state::Lane;
use push_hub::Config;
use push_hub::config::AdmissionConfig;
use runtime::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    Authority, Device, GUARD, Refused, World, close_header, command, command_id, config, device_id,
    dial, refusal,
};

const SHORT: Duration = Duration::from_millis(200);

/// With TLS 1.3 a client learns of its refusal when it reads.
async fn is_refused_by_tls(world: &World, device: &Device) -> bool {
    match dial(world.addr, device.tls.clone(), None).await {
        Err(_) => true,
        Ok(mut stream) => {
            let mut byte = [0; 1];
            let read = stream.read(&mut byte);
            timeout(GUARD, read).await.expect("an alert comes").is_err()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_without_a_valid_certificate_ends_in_tls() {
    let world = World::new().await;
    let (id, addr) = (device_id(1), world.addr);
    let nameless = Device { id, addr, tls: world.authority.client(None) };
    let expired = world.device_for(1, -60);
    let stranger = Authority::new();
    let uris = [format!("urn:tocsin:device:{id}"), "urn:tocsin:generation:1".to_owned()];
    let foreign = stranger.issue(&uris, 3600);
    let foreign = Device { id, addr, tls: world.authority.client(Some(&foreign)) };
    for (device, who) in [(nameless, "nameless"), (expired, "expired"), (foreign, "foreign")] {
        assert!(is_refused_by_tls(&world, &device).await, "{who}");
    }
    world.device(1).connect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_past_its_end_is_refused_also_when_resumed() {
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis());
    let world = World::with_clock(config(), clock).await;
    let device = world.device(1);
    drop(device.connect().await);
    hand.set_unix_millis(Clock::system().unix_millis() + 2 * 86_400_000);
    let (stream, resumed) = device.dial(None).await;
    assert!(resumed);
    let refused = refusal(stream).await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (403, Some("4007")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_that_names_no_device_is_refused() {
    let world = World::new().await;
    let tls = world.authority.client(Some(&world.authority.issue(&[], 3600)));
    let device = Device { id: device_id(1), addr: world.addr, tls };
    let refused = device.refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (403, Some("1002")));
}

/// A hub that is patient but for what is changed: a test of one time-out has to get as far as there.
async fn impatient(change: impl FnOnce(&mut AdmissionConfig)) -> World {
    let mut admission = config().admission;
    change(&mut admission);
    World::with(Config { admission, ..config() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshake_slow_head_and_slow_hello_are_ended() {
    let mut scrap = Vec::new();
    let world = impatient(|admission| admission.tls_timeout = SHORT).await;
    let mut silent = TcpStream::connect(world.addr).await.unwrap();
    drop(timeout(GUARD, silent.read_to_end(&mut scrap)).await.expect("tls is given up"));

    let world = impatient(|admission| admission.head_timeout = SHORT).await;
    let (mut hesitant, _) = world.device(1).dial(None).await;
    // It may have been given up by now.
    drop(hesitant.write_all(b"GET /agent/v1/socket HTTP/1.1\r\nhost:").await);
    drop(timeout(GUARD, hesitant.read_to_end(&mut scrap)).await.expect("the head is given up"));

    let world = impatient(|admission| admission.hello_timeout = SHORT).await;
    let mut mute = world.device(1).open(None).await.unwrap();
    assert_eq!(mute.closed().await, Some(CloseCode::HelloTimeout.number()));
    assert_eq!(world.hub.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_connections_do_not_hold_up_others_for_longer_than_their_timeout() {
    let world = impatient(|admission| {
        admission.max_handshakes = 2;
        admission.tls_timeout = SHORT;
    })
    .await;
    let _silent = [
        TcpStream::connect(world.addr).await.unwrap(),
        TcpStream::connect(world.addr).await.unwrap(),
    ];
    // Its own handshake may be too slow for that hub, once or twice.
    let device = world.device(1);
    let handshake = async { while dial(device.addr, device.tls.clone(), None).await.is_err() {} };
    timeout(GUARD, handshake).await.expect("the port is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_over_its_rate_is_reset_before_tls() {
    let generous = config().admission;
    let admission = AdmissionConfig { source_burst: 1, source_per_sec: 1, ..generous };
    let (clock, _hand) = Clock::manual();
    let world = World::with_clock(Config { admission, ..config() }, clock).await;
    let mut first = TcpStream::connect(world.addr).await.unwrap();
    // The reset may come before connecting has returned.
    let second = async { TcpStream::connect(world.addr).await?.read(&mut [0; 1]).await };
    let ended = timeout(GUARD, second).await.expect("it ends");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    first.write_all(b"x").await.unwrap();
}

/// So few that a test meets them, on a clock that stands still.
async fn crowded(full: u32, resumed: u32) -> World {
    let admission = AdmissionConfig {
        handshakes_per_sec: 1,
        handshake_burst: full,
        resumptions_per_sec: 1,
        resumption_burst: resumed,
        ..config().admission
    };
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis());
    World::with_clock(Config { admission, ..config() }, clock).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_is_resumed_where_full_handshakes_are_over_their_rate() {
    let world = crowded(1, 1).await;
    let device = world.device(1);
    drop(device.connect().await);
    assert!(is_refused_by_tls(&world, &world.device(2)).await);
    assert!(device.dial(None).await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_that_an_urgent_command_waits_for_is_let_in_over_the_rates() {
    let world = crowded(3, 2).await;
    let (wanted, other) = (world.device(1), world.device(2));
    for device in [&wanted, &other, &wanted, &other] {
        drop(device.connect().await);
    }
    let mut witness = world.device(3).connect().await;
    world.sessions(1).await;
    world.deliver(wanted.id, vec![command(1, Lane::Urgent, 10)]).await;
    world.deliver(other.id, vec![command(2, Lane::Bulk, 10)]).await;
    // Messages to a hub are read in their order: with this one it has read those before.
    world.deliver(device_id(3), vec![command(3, Lane::Bulk, 10)]).await;
    assert_eq!(witness.commands(1).await, [command_id(3)]);
    assert!(is_refused_by_tls(&world, &other).await);
    drop(wanted.connect().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_that_was_cut_off_from_an_urgent_command_comes_back_over_the_rates() {
    let world = crowded(2, 1).await;
    let (cut, other) = (world.device(1), world.device(2));
    drop(other.connect().await);
    drop(other.connect().await);
    let mut agent = cut.connect().await;
    world.deliver(cut.id, vec![command(1, Lane::Urgent, 10)]).await;
    assert_eq!(agent.commands(1).await, [command_id(1)]);
    drop(agent);
    world.sessions(0).await;
    assert!(is_refused_by_tls(&world, &other).await);
    drop(cut.connect().await);
    // It was let in once, and is not owed for ever: its session is what everybody's is.
    world.sessions(0).await;
    assert!(is_refused_by_tls(&world, &cut).await);
}

fn retry_after_secs(refused: &Refused) -> Option<u64> {
    refused.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_after_tls_say_when_to_come_back() {
    let recorder = runtime::observability::recorder();
    let generous = config().admission;
    let admission = AdmissionConfig { max_sessions: 1, ..generous };
    let world = World::with(Config { admission, ..config() }).await;
    let _only = world.device(1).connect().await;
    let refused = world.device(2).refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (503, Some("4009")));
    assert!(retry_after_secs(&refused).is_some_and(|secs| (5..=10).contains(&secs)));

    let others = vec!["https://hub-2.example:7444".to_owned()];
    let admission = AdmissionConfig { max_memory_bytes: 1, ..config().admission };
    let world = World::with(Config { admission, other_hubs: others.clone(), ..config() }).await;
    let refused = world.device(1).refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (503, Some("4009")));
    assert!(retry_after_secs(&refused).is_some());
    assert_eq!(refused.headers().get("tocsin-hubs").unwrap(), others[0].as_str());

    let generous = config().admission;
    let admission = AdmissionConfig { device_burst: 1, device_per_min: 1, ..generous };
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis());
    let world = World::with_clock(Config { admission, ..config() }, clock).await;
    let device = world.device(1);
    let _first = device.connect().await;
    let refused = device.refusal().await;
    assert_eq!((refused.status().as_u16(), close_header(&refused)), (429, Some("4009")));
    assert_eq!(retry_after_secs(&refused), Some(60));
    // Another hub would not know the device's rate, but its trouble is of its own making.
    assert_eq!(refused.headers().get("tocsin-hubs"), None);
    let text = recorder.render();
    for reason in ["full", "device", "memory"] {
        let line = format!("tocsin_push_hub_admission_refusals_total{{reason=\"{reason}\"}}");
        let count = text.lines().find_map(|text| text.strip_prefix(&line));
        assert!(count.is_some_and(|count| count.trim() != "0"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_ask_for_nothing_known_are_answered_so() {
    let world = World::new().await;
    let device = world.device(1);
    for (method, path, status) in [
        ("GET", "/", "404"),
        ("GET", "/agent/v1/poll", "405"),
        ("POST", SOCKET_PATH, "405"),
        ("GET", SOCKET_PATH, "400"),
    ] {
        let (head, _) = device.request(method, path, "").await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{method} {path}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_beyond_its_bound_is_refused() {
    let world = World::new().await;
    let (mut stream, _) = world.device(1).dial(None).await;
    let head = format!("GET {SOCKET_PATH} HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(16 * 1024));
    drop(stream.write_all(head.as_bytes()).await);
    let mut answer = Vec::new();
    drop(timeout(GUARD, stream.read_to_end(&mut answer)).await.expect("it ends"));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_greeting_that_would_cost_later_than_in_its_turn_is_not_answered() {
    let world = World::new().await;
    let uris = [format!("urn:tocsin:device:{}", device_id(1))];
    let identity = world.authority.issue(&uris, 3600);
    let tls = world.authority.misguessing_client(&identity);
    let error = dial(world.addr, tls, None).await.unwrap_err();
    let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(ends.contains(&error.kind()), "{error}");
    // One in two records and many segments is greeted as any: nothing of it is late.
    let whole = world.device(1);
    let mut pieces = (*whole.tls).clone();
    pieces.max_fragment_size = Some(256);
    Device { tls: Arc::new(pieces), ..whole }.connect().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_device_that_is_owed_goes_before_others_only_so_often() {
    let admission = AdmissionConfig {
        resumptions_per_sec: 1,
        resumption_burst: 1,
        device_per_min: 1,
        device_burst: 3,
        ..config().admission
    };
    let (clock, hand) = Clock::manual();
    hand.set_unix_millis(Clock::system().unix_millis());
    let world = World::with_clock(Config { admission, ..config() }, clock).await;
    let device = world.device(1);
    // As many tickets: who resumes uses one up for each that it gets.
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(device.dial(None).await.0);
    }
    for mut stream in streams {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    let mut witness = world.device(2).connect().await;
    world.deliver(device.id, vec![command(1, Lane::Urgent, 10)]).await;
    world.deliver(device_id(2), vec![command(2, Lane::Bulk, 10)]).await;
    assert_eq!(witness.commands(1).await, [command_id(2)]);
    // TLS alone: a session would end it that the device is owed.
    for time in 0..4 {
        assert!(device.dial(None).await.1, "{time}: three times as owed, once as whoever resumes");
    }
    assert!(is_refused_by_tls(&world, &device).await);
}
