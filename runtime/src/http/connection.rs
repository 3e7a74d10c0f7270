//! One HTTP connection from its first request to its end.
//!
//! Owns the watchdogs: silence, age and drain. Must not accept or count slots.

use std::pin::pin;

use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt as _;

use super::body::TimedBody;
use super::watched::Watched;
use super::{ConnectionInfo, HttpLimits, HttpService};
use crate::lifecycle::Drain;

/// The parts into which the idle time-out is divided: silence is noticed at most one part late.
const IDLE_PARTS: u32 = 4;
/// The most header lines of a request.
const MAX_HEADERS: usize = 64;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides were done.
    Finished,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// The peer broke the protocol, exceeded a limit of the head, or vanished.
    Failed,
    /// No byte moved for too long.
    Idle,
    /// It outlived its age.
    Overdue,
}

impl Ended {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Handshake => "handshake",
            Self::Failed => "failed",
            Self::Idle => "idle",
            Self::Overdue => "overdue",
        }
    }
}

/// Counts an open connection for as long as it lives, however its task ends.
pub(super) struct Gauge(metrics::Gauge);

impl Gauge {
    pub(super) fn raise(gauge: metrics::Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Serves requests until the connection ends by itself, by silence, by age or by the drain.
pub(super) async fn drive<IO, F, S>(
    io: IO,
    info: ConnectionInfo,
    limits: &HttpLimits,
    drain: &Drain,
    make_service: &F,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(ConnectionInfo) -> S,
    S: HttpService,
{
    let service = make_service(info.clone());
    let (io, activity) = Watched::new(io);
    let answer = service_fn(move |request| respond(service.clone(), request, info.clone(), limits));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(limits.max_header_bytes)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(io), answer)
    );
    let mut age = pin!(tokio::time::sleep(limits.max_age));
    let (mut closing, mut overdue, mut silent_parts) = (false, false, 0);
    loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                return if outcome.is_ok() { Ended::Finished } else { Ended::Failed };
            }
            () = drain.soft().cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = age.as_mut() => {
                if overdue {
                    return Ended::Overdue;
                }
                (closing, overdue) = (true, true);
                connection.as_mut().graceful_shutdown();
                age.set(tokio::time::sleep(limits.idle_timeout));
            }
            () = tokio::time::sleep(limits.idle_timeout / IDLE_PARTS) => {
                silent_parts = if activity.take() { 0 } else { silent_parts + 1 };
                if silent_parts >= IDLE_PARTS {
                    return Ended::Idle;
                }
            }
        }
    }
}

async fn respond<S: HttpService>(
    service: S,
    request: Request<Incoming>,
    info: ConnectionInfo,
    limits: &HttpLimits,
) -> Result<Response, S::Error> {
    let announced = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limits.max_body_bytes {
        return Ok((limits.too_large)());
    }
    let mut request = request.map(|body| {
        let HttpLimits { max_body_bytes, body_timeout, slowest_link, .. } = *limits;
        Body::new(TimedBody::new(body, max_body_bytes, body_timeout, slowest_link))
    });
    request.extensions_mut().insert(info);
    service.oneshot(request).await
}
