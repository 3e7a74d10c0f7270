//! Tests of the listener over real sockets: what it serves, and whom it lets go.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::routing::{get, post};
use axum::{Extension, Router};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{ConnectionInfo, HttpLimits, serve_plain, serve_tls};
use crate::lifecycle::Drain;
use crate::tls::tests::Authority;
use crate::tls::{ClientAuth, client_config, server_config};

/// For limits that are to strike before anything happens.
const SHORT: Duration = Duration::from_millis(50);
/// For limits that are to strike after an answer, which a busy machine may take a while to give.
const ROOMY: Duration = Duration::from_secs(2);
/// When a server that should have closed has not.
const GUARD: Duration = Duration::from_secs(240);
const LONG: Duration = Duration::from_secs(3600);

/// Limits that no test reaches unless it lowers one.
fn patient() -> HttpLimits {
    HttpLimits {
        handshake_timeout: LONG,
        header_timeout: LONG,
        body_timeout: LONG,
        idle_timeout: LONG,
        max_age: LONG,
        ..HttpLimits::default()
    }
}

struct Plain {
    addr: std::net::SocketAddr,
    drain: Drain,
    tasks: JoinSet<()>,
}

async fn plain(limits: HttpLimits, router: Router) -> Plain {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, drain) = (listener.local_addr().unwrap(), Drain::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_plain(listener, limits, drain.clone(), move |_| router.clone()));
    Plain { addr, drain, tasks }
}

impl Plain {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

fn echo() -> Router {
    Router::new()
        .route("/", get(|| std::future::ready("hello")))
        .route("/", post(|body: Bytes| std::future::ready(body.len().to_string())))
}

/// Everything until the server closes, or breaks off.
async fn rest(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(GUARD, stream.read_to_end(&mut bytes));
    drop(reading.await.expect("the server closes long before the guard"));
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn handlers_see_the_certificate_the_address_and_a_resumption() {
    let authority = Authority::new();
    let required = ClientAuth::Required(vec![authority.certificate()]);
    let server = server_config(&authority.issue("localhost"), required, &[b"http/1.1"]).unwrap();
    let device = authority.issue("device");
    let roots = [authority.certificate()];
    let client = client_config(&roots, Some(&device), &[b"http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let expected = device.chain[0].clone();
    let router = Router::new().route(
        "/",
        get(move |Extension(info): Extension<ConnectionInfo>| {
            let same = info.peer_certificate.as_ref() == Some(&expected);
            std::future::ready(format!("{} {same} {}", info.peer_addr, info.resumed))
        }),
    );
    let tls = Arc::new(ArcSwap::from_pointee(server));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_tls(listener, tls, patient(), Drain::new(), move |_| router.clone()));

    let connector = TlsConnector::from(Arc::new(client));
    for resumed in [false, true] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let local = stream.local_addr().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let answer = rest(stream).await;
        assert!(answer.ends_with(&format!("{local} true {resumed}")), "{answer}");
    }
}

#[tokio::test]
async fn silent_handshake_gives_its_slot_back() {
    let identity = Authority::new().issue("localhost");
    let server = server_config(&identity, ClientAuth::None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let tls = Arc::new(ArcSwap::from_pointee(server));
    let limits = HttpLimits { handshake_timeout: SHORT, max_connections: 1, ..patient() };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_tls(listener, tls, limits, Drain::new(), move |_| echo()));
    let first = TcpStream::connect(addr).await.unwrap();
    let second = TcpStream::connect(addr).await.unwrap();
    assert_eq!(rest(first).await, "");
    assert_eq!(rest(second).await, "");
}

#[tokio::test]
async fn slow_head_is_closed() {
    let limits = HttpLimits { header_timeout: SHORT, ..patient() };
    let server = plain(limits, echo()).await;
    let stream = server.send("GET / HTTP/1.1\r\nhost: a\r\n").await;
    let answer = rest(stream).await;
    assert!(answer.is_empty() || answer.contains("408"), "{answer}");
}

#[tokio::test]
async fn connection_that_never_speaks_is_closed() {
    let limits = HttpLimits { header_timeout: SHORT, ..patient() };
    let server = plain(limits, echo()).await;
    rest(server.send("").await).await;
}

#[tokio::test]
async fn kept_alive_connection_is_closed_when_it_rests_too_long() {
    let limits = HttpLimits { header_timeout: ROOMY, ..patient() };
    let server = plain(limits, echo()).await;
    let answer = rest(server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await).await;
    assert!(answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn silent_body_is_closed_by_the_idle_watchdog() {
    let limits = HttpLimits { idle_timeout: SHORT, ..patient() };
    let server = plain(limits, echo()).await;
    rest(server.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc").await).await;
}

#[tokio::test]
async fn dripping_body_meets_its_deadline() {
    let limits = HttpLimits { body_timeout: SHORT, ..patient() };
    let server = plain(limits, echo()).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\na";
    let answer = rest(server.send(head).await).await;
    assert!(answer.contains("400 Bad Request"), "{answer}");
}

#[tokio::test]
async fn unread_answer_is_cut_by_the_idle_watchdog() {
    let limits = HttpLimits { idle_timeout: ROOMY, ..patient() };
    let big = Bytes::from(vec![b'x'; 64 * 1024 * 1024]);
    let router = Router::new().route("/", get(move || std::future::ready(big.clone())));
    let mut server = plain(limits, router).await;
    let never_read = server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut first = [0; 1];
    never_read.peek(&mut first).await.unwrap();
    server.drain.begin(LONG);
    let ended = tokio::time::timeout(GUARD, server.tasks.join_next()).await;
    ended.expect("the watchdog strikes long before the guard").unwrap().unwrap();
}

#[tokio::test]
async fn old_connection_is_asked_to_end_and_then_cut() {
    let limits = HttpLimits { max_age: ROOMY, ..patient() };
    let server = plain(limits, echo()).await;
    let answer = rest(server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await).await;
    assert!(answer.contains("200 OK"), "{answer}");

    let router = Router::new().route("/", get(std::future::pending::<&'static str>));
    let limits = HttpLimits { max_age: SHORT, idle_timeout: SHORT, ..patient() };
    let server = plain(limits, router).await;
    assert_eq!(rest(server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await).await, "");
}

#[tokio::test]
async fn oversized_head_is_refused() {
    let server = plain(patient(), echo()).await;
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(9 * 1024));
    let answer = rest(server.send(&head).await).await;
    assert!(answer.contains("431"), "{answer}");
}

#[tokio::test]
async fn oversized_body_is_refused_announced_or_not() {
    let limits = HttpLimits { max_body_bytes: 8, ..patient() };
    let server = plain(limits, echo()).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    for body in [
        "content-length: 9\r\n\r\n123456789",
        "transfer-encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n",
    ] {
        let answer = rest(server.send(&format!("{head}{body}")).await).await;
        assert!(answer.contains("413 Payload Too Large"), "{answer}");
    }
    let answer = rest(server.send(&format!("{head}content-length: 8\r\n\r\n12345678")).await).await;
    assert!(answer.ends_with("\r\n8"), "{answer}");
}

/// A handler that says when it has begun, and answers when it is told to.
fn gated() -> (Router, Arc<Notify>, Arc<Notify>) {
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let shared = (begun.clone(), gate.clone());
    let handler = move || {
        let (begun, gate) = shared.clone();
        async move {
            begun.notify_one();
            gate.notified().await;
            "done"
        }
    };
    (Router::new().route("/", get(handler)), begun, gate)
}

#[tokio::test]
async fn drain_lets_the_running_request_finish() {
    let (router, begun, gate) = gated();
    let mut server = plain(patient(), router).await;
    let idle = server.send("").await;
    let busy = server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    begun.notified().await;
    server.drain.begin(LONG);
    assert_eq!(rest(idle).await, "");
    gate.notify_one();
    let answer = rest(busy).await;
    assert!(answer.ends_with("done"), "{answer}");
    server.tasks.join_next().await.unwrap().unwrap();
    TcpStream::connect(server.addr).await.unwrap_err();
}

#[tokio::test]
async fn hard_token_cuts_the_running_request() {
    let (router, begun, _gate) = gated();
    let mut server = plain(patient(), router).await;
    let busy = server.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    begun.notified().await;
    server.drain.abort();
    assert_eq!(rest(busy).await, "");
    server.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn further_connections_wait_for_a_slot() {
    let (router, begun, gate) = gated();
    let server = plain(HttpLimits { max_connections: 1, ..patient() }, router).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let first = server.send(request).await;
    begun.notified().await;
    let second = server.send(request).await;
    gate.notify_one();
    assert!(rest(first).await.ends_with("done"));
    begun.notified().await;
    gate.notify_one();
    assert!(rest(second).await.ends_with("done"));
}
