//! Tests of the admin port over a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Admin, Readiness};
use crate::lifecycle::Drain;
use crate::observability::recorder;

async fn fetch(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_survives_into_the_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (readiness, drain) = (Readiness::new(&["broker", "store"]), Drain::new());
    let admin = Admin::start(listener, readiness.clone(), recorder(), drain.clone()).unwrap();

    assert!(fetch(admin.addr(), "/healthz").await.starts_with("HTTP/1.1 200"));
    let answer = fetch(admin.addr(), "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("waiting for broker, store\n"), "{answer}");

    readiness.set("broker", true);
    assert_eq!(readiness.unmet(), ["store"]);
    readiness.set("store", true);
    readiness.ready().await;
    assert!(fetch(admin.addr(), "/readyz").await.starts_with("HTTP/1.1 200"));

    drain.begin(Duration::from_secs(3600));
    let answer = fetch(admin.addr(), "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("draining\n"), "{answer}");
    assert!(fetch(admin.addr(), "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_are_rendered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin::start(listener, Readiness::new(&[]), recorder(), Drain::new()).unwrap();
    metrics::counter!("tocsin_runtime_admin_tests_total").increment(1);
    let answer = fetch(admin.addr(), "/metrics").await;
    assert!(answer.contains("tocsin_runtime_admin_tests_total 1"), "{answer}");
    assert!(fetch(admin.addr(), "/other").await.starts_with("HTTP/1.1 404"));
}

#[test]
fn no_conditions_means_ready() {
    let readiness = Readiness::new(&[]);
    assert!(readiness.is_ready());
    readiness.set("late", false);
    assert!(!readiness.is_ready());
}
