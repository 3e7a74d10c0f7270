//! The audit log reaches a file, a syslog server and a webhook, whatever becomes of them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::StatusCode;
use runtime::tls::pki_types::PrivateKeyDer;
use runtime::tls::{self, ClientAuth, Identity};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::bench::{Bench, GUARD, PAUSE, order_body};

/// A TLS server that tests of sinks answer as they like.
struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    async fn start(folder: &Path) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        tls::write_certificates(&folder.join("sinks.pem"), &[certificate.der().clone()]).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let identity = Identity { chain: vec![certificate.der().clone()], key };
        let config = tls::server_config(&identity, ClientAuth::None, &[b"http/1.1"]).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)) }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Takes one connection: what came over it until `is_whole` says so, and that answer.
    async fn take(&self, is_whole: impl Fn(&str) -> bool, answer: &str) -> String {
        let taking = async {
            loop {
                let (stream, _) = self.listener.accept().await.unwrap();
                let Ok(mut stream) = self.tls.accept(stream).await else { continue };
                let mut text = Vec::new();
                while stream.read_buf(&mut text).await.unwrap_or(0) > 0 {
                    if is_whole(&String::from_utf8_lossy(&text)) {
                        break;
                    }
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                return String::from_utf8(text).unwrap();
            }
        };
        tokio::time::timeout(GUARD, taking).await.expect("the sink connects")
    }

    async fn post(&self, answer: &str) -> String {
        let is_whole = |text: &str| {
            let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_some_and(|length| length.parse() == Ok(body.len()))
        };
        self.take(is_whole, answer).await
    }
}

fn events_of(post: &str) -> Vec<i64> {
    let (_, body) = post.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    body["events"].as_array().unwrap().iter().map(|e| e["seq"].as_i64().unwrap()).collect()
}

fn header<'a>(post: &'a str, name: &str) -> &'a str {
    post.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim_start_matches(": ")
}

async fn with_webhook(bench: Bench, server: &Server) -> Bench {
    let folder = bench.place.folder.path().to_owned();
    std::fs::write(folder.join("secret"), "a secret\n").unwrap();
    let port = server.port();
    bench
        .restart_with(|config| {
            config.sinks.webhook = format!("https://localhost:{port}/in");
            config.sinks.webhook_secret_file = Some(folder.join("secret"));
            config.sinks.ca_file = Some(folder.join("sinks.pem"));
            config.sinks.webhook_allow =
                ["127.0.0.1", "::1"].map(|text| text.parse().unwrap()).into();
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_gets_every_event_signed_in_order_and_again_until_it_takes_them() {
    let bench = Bench::start().await;
    let server = Server::start(bench.place.folder.path()).await;
    let bench = with_webhook(bench, &server).await;
    // Refusals, and a redirect that is not followed, are no word that it has them.
    let refused = server.post("HTTP/1.1 503 busy\r\n\r\n").await;
    let inside = "HTTP/1.1 302 x\r\nlocation: https://localhost/y\r\n\r\n";
    let again = server.post(inside).await;
    assert_eq!(events_of(&refused)[0], 1);
    assert_eq!(events_of(&again)[0], 1);
    let mut seen = Vec::new();
    let taken = server.post("HTTP/1.1 204 ok\r\n\r\n").await;
    seen.extend(events_of(&taken));
    let (at, body) = (header(&taken, "tocsin-timestamp"), taken.split_once("\r\n\r\n").unwrap().1);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret");
    let expected = hmac::sign(&key, format!("{at}.{body}").as_bytes());
    let expected: String = expected.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(header(&taken, "tocsin-signature"), format!("v1={expected}"));

    // What it has taken does not come again.
    bench.agent("a", None).await;
    let next = events_of(&server.post("HTTP/1.1 200 ok\r\n\r\n").await);
    assert_eq!(next[0], seen.len() as i64 + 1);
    seen.extend(next);

    // From there on, also after a restart: at most what was just taken is sent once more.
    let bench = with_webhook(bench, &server).await;
    bench.agent("b", None).await;
    let newest = *bench.api.app().db.events_head().borrow();
    while seen.last() != Some(&newest) {
        seen.extend(events_of(&server.post("HTTP/1.1 200 ok\r\n\r\n").await));
    }
    assert!(seen.windows(2).all(|pair| pair[1] <= pair[0] + 1), "none is left out: {seen:?}");
    assert!(!seen[1..].contains(&1), "it does not begin again: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_sink_that_is_dead_or_silent_holds_no_order_up() {
    let bench = Bench::start().await;
    let server = Server::start(bench.place.folder.path()).await;
    let bench = with_webhook(bench, &server).await;
    // It accepts a connection and says nothing, for ever.
    let _silent = server.listener.accept().await.unwrap();
    let agent = bench.agent("a", None).await;
    for _ in 0..20 {
        let body = order_body("lock", &[agent.id]);
        bench.post("/v1/orders", &body, StatusCode::CREATED).await;
    }
    bench.api.drain(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn file_takes_the_whole_chain_as_it_is_verified() {
    let bench = Bench::start().await;
    let path = bench.place.folder.path().join("events.jsonl");
    let bench = bench.restart_with(|config| config.sinks.file = Some(path.clone())).await;
    let agent = bench.agent("a", None).await;
    bench.order("lock", &[agent.id]).await;
    let newest = *bench.api.app().db.events_head().borrow();
    let whole = async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let marks = api::audit::Marks::new();
            match api::audit::verify_json_lines(text.as_bytes(), &marks) {
                Ok(head) if head.seq >= newest => return,
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::time::timeout(GUARD, whole).await.expect("the file has them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_framed_messages_over_tls() {
    let bench = Bench::start().await;
    let folder = bench.place.folder.path().to_owned();
    let server = Server::start(&folder).await;
    let port = server.port();
    let bench = bench.restart_with(|config| {
        config.sinks.syslog = format!("localhost:{port}");
        config.sinks.ca_file = Some(folder.join("sinks.pem"));
    });
    let _bench = bench.await;
    let mut text = server.take(|_| false, "").await;
    let mut seq = 0;
    while !text.is_empty() {
        let (length, rest) = text.split_once(' ').unwrap();
        let (message, rest) = rest.split_at(length.parse().unwrap());
        seq += 1;
        assert!(message.starts_with("<109>1 20"), "{message}");
        assert!(message.contains(&format!("seq=\"{seq}\"")), "{message}");
        text = rest.to_owned();
    }
    assert!(seq >= 3, "{seq} events of the first start");
}
