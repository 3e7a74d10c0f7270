//! An echo server over the hub's WebSocket layer, for the Autobahn test suite.
//!
//! Same library settings, byte meter and close codes as the hub's sessions; no TLS, and it echoes
//! binary messages too. Arguments: the address to listen on (port 0 takes a free one; the choice
//! is printed), and optionally the bytes of the longest message, with budgets to match, for the
//! cases that send megabytes.
#![expect(clippy::print_stdout, reason = "the address is its output")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, body};
use hyper_util::rt::TokioIo;
use push_hub::socket::{Incoming, Socket, SocketConfig, SocketError};
use runtime::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("first argument: the address to listen on")?;
    let config = config(arguments.next().map(|bytes| bytes.parse()).transpose()?);
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        connections.spawn(serve(stream, config));
        while connections.try_join_next().is_some() {}
    }
}

fn config(message_bytes: Option<u32>) -> SocketConfig {
    let config = SocketConfig::default();
    let Some(bytes) = message_bytes else { return config };
    SocketConfig {
        max_message_bytes: usize::try_from(bytes).unwrap_or(config.max_message_bytes),
        burst_bytes: bytes.saturating_mul(4),
        bytes_per_sec: bytes.saturating_mul(4),
        ..config
    }
}

async fn serve(stream: TcpStream, config: SocketConfig) {
    let upgrade: Arc<Mutex<Option<OnUpgrade>>> = Arc::default();
    let kept = upgrade.clone();
    let service = service_fn(move |mut request: Request<body::Incoming>| {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let answer = match create_response(&Request::from_parts(parts, ())) {
            Ok(granted) => {
                *kept.lock().expect("no holder panics") = Some(on_upgrade);
                granted.map(|()| Empty::<Bytes>::new())
            }
            Err(_) => {
                let mut refused = Response::new(Empty::new());
                *refused.status_mut() = StatusCode::BAD_REQUEST;
                refused
            }
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if connection.with_upgrades().await.is_err() {
        return;
    }
    let Some(upgrade) = upgrade.lock().expect("no holder panics").take() else { return };
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
    let (io, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    echo(Socket::new(io, early, &config, Clock::system()).await).await;
}

async fn echo(mut socket: Socket<TcpStream>) {
    let error = loop {
        let outcome = match socket.next().await {
            Ok(Incoming::Text(text)) => socket.feed_text(text.as_str().to_owned()).await,
            Ok(Incoming::Binary(bytes)) => socket.feed_binary(bytes).await,
            Ok(Incoming::Control) => Ok(()),
            Err(error) => break error,
        };
        let flushed = match outcome {
            Ok(()) => socket.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = flushed {
            break error;
        }
    };
    match error {
        SocketError::Violation(code) => socket.close(code).await,
        SocketError::Closed(_) => socket.finish().await,
        SocketError::Stalled | SocketError::Lost => {}
    }
}
