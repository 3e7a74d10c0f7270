//! Serving a tower service over TLS (or plainly, on loopback) with a limit for everything.
//!
//! Owns accepting, time-outs, slots and draining. Must not route, authenticate or log requests:
//! that is the service's. HTTP/1.1 only, without upgrades.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::Request;
use metrics::{counter, gauge};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::Service;

use crate::lifecycle::Drain;
use crate::metrics as names;
use crate::tls;

use self::connection::Ended;

mod body;
mod connection;
#[cfg(test)]
mod tests;
mod watched;

/// How long accepting rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits of one listener.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// The listener's name in metrics, such as `operator`.
    pub name: &'static str,
    /// Connections at a time, handshakes included. Further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For a request's head, from the first moment it may come: also the longest a kept-alive
    /// connection may rest between requests.
    pub header_timeout: Duration,
    /// For a request's whole body, from the end of its head.
    pub body_timeout: Duration,
    /// Bytes that the slowest link carries in a second: what arrives of a body gives it the time that it
    /// takes there, beside `body_timeout`. None: no such time.
    pub slowest_link: Option<NonZeroU32>,
    /// Without a byte in either direction, the connection is closed. Must be longer than the
    /// longest hold of a long-poll.
    pub idle_timeout: Duration,
    /// After this a connection is asked to end with its current request, and is cut one
    /// `idle_timeout` later: nobody holds a slot for ever by moving one byte at a time.
    pub max_age: Duration,
    /// A request's head, in bytes; at least 1024.
    pub max_header_bytes: usize,
    /// A request's body, in bytes.
    pub max_body_bytes: usize,
    /// What is answered to a request that announces a larger one.
    pub too_large: fn() -> Response,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            name: "http",
            max_connections: 1024,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            slowest_link: None,
            idle_timeout: Duration::from_secs(75),
            max_age: Duration::from_secs(3600),
            max_header_bytes: 8 * 1024,
            max_body_bytes: 1024 * 1024,
            too_large: || StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        }
    }
}

/// What is known of a connection before its first request. Every request carries it as an
/// extension, so `axum::Extension<ConnectionInfo>` extracts it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The other end of the TCP connection: never taken from a header.
    pub peer_addr: SocketAddr,
    /// The client's leaf certificate. On a resumed session nobody has looked at it since the
    /// original handshake: check revocation and expiry.
    pub peer_certificate: Option<CertificateDer<'static>>,
    /// Whether an earlier TLS session was resumed, so that no verifier was asked.
    pub resumed: bool,
}

/// Serves until `drain`: at its soft token nothing more is accepted and connections end with
/// their current request; at its hard token they are cut. Dropping the future cuts them too.
///
/// `make_service` is called once per connection, after its handshake. Replacing the content of
/// `tls` takes effect for new connections.
pub async fn serve_tls<F, S>(
    listener: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    limits: HttpLimits,
    drain: Drain,
    make_service: F,
) where
    F: Fn(ConnectionInfo) -> S + Send + Sync + 'static,
    S: HttpService,
{
    serve(listener, Endpoint { tls: Some(tls), limits, make_service }, drain).await;
}

/// As [`serve_tls`], without TLS: for loopback only.
pub async fn serve_plain<F, S>(
    listener: TcpListener,
    limits: HttpLimits,
    drain: Drain,
    make_service: F,
) where
    F: Fn(ConnectionInfo) -> S + Send + Sync + 'static,
    S: HttpService,
{
    serve(listener, Endpoint { tls: None, limits, make_service }, drain).await;
}

/// A service that can be served here, such as `axum::Router`. Implemented by everything that
/// fits.
pub trait HttpService:
    Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> HttpService for S where
    S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

struct Endpoint<F> {
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    limits: HttpLimits,
    make_service: F,
}

async fn serve<F, S>(listener: TcpListener, endpoint: Endpoint<F>, drain: Drain)
where
    F: Fn(ConnectionInfo) -> S + Send + Sync + 'static,
    S: HttpService,
{
    let slots = Arc::new(Semaphore::new(endpoint.limits.max_connections));
    let endpoint = Arc::new(endpoint);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = drain.soft().cancelled() => break,
            Some(_) = connections.join_next() => {}
            (slot, stream, peer_addr) = admit(&listener, &slots) => {
                let connection = endpoint.clone().run(stream, peer_addr, drain.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
        }
    }
    drop(listener);
    loop {
        tokio::select! {
            biased;
            () = drain.hard().cancelled() => return connections.shutdown().await,
            ended = connections.join_next() => if ended.is_none() { return },
        }
    }
}

/// The next connection, once there is a slot for it.
async fn admit(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let slot =
        slots.clone().acquire_owned().await.expect("the semaphore of the slots is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer_addr)) => return (slot, stream, peer_addr),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accepting failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl<F, S> Endpoint<F>
where
    F: Fn(ConnectionInfo) -> S + Send + Sync + 'static,
    S: HttpService,
{
    async fn run(self: Arc<Self>, stream: TcpStream, peer_addr: SocketAddr, drain: Drain) {
        let open = gauge!(names::CONNECTIONS, "listener" => self.limits.name);
        let _open = connection::Gauge::raise(open);
        // Answers are small and wanted now; a socket that refuses the option works all the same.
        drop(stream.set_nodelay(true));
        let ended = match &self.tls {
            None => {
                let info = ConnectionInfo { peer_addr, peer_certificate: None, resumed: false };
                connection::drive(stream, info, &self.limits, &drain, &self.make_service).await
            }
            Some(config) => {
                let timeout = self.limits.handshake_timeout;
                match tls::accept(stream, config.load_full(), timeout).await {
                    Ok((stream, peer)) => {
                        let info = ConnectionInfo {
                            peer_addr,
                            peer_certificate: peer.certificate,
                            resumed: peer.resumed,
                        };
                        let make_service = &self.make_service;
                        connection::drive(stream, info, &self.limits, &drain, make_service).await
                    }
                    Err(error) => {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "handshake failed"
                        );
                        Ended::Handshake
                    }
                }
            }
        };
        counter!(
            names::CONNECTIONS_CLOSED,
            "listener" => self.limits.name,
            "reason" => ended.label(),
        )
        .increment(1);
    }
}
