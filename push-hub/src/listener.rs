//! The agent port, from `accept` to the end of a connection's requests.
//!
//! Owns accepting, refusing before TLS, the order and the performing of TLS handshakes, and the HTTP
//! connection. A session runs in a second task, so that its memory is not that of the handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::limits;
use runtime::tls::{self, IdleStream, Peer, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use crate::certificate::{CertificateError, Identity};
use crate::core::Core;
use crate::door::Door;
use crate::greeting::{self, Claim, Replay};
use crate::metrics::Outcome;
use crate::port::Port;
use crate::session;
use crate::socket::Socket;
use crate::turns::Rank;

/// Bytes that HTTP reads ahead; the smallest that hyper takes for the limit of a head.
const HTTP_BUFFER_BYTES: usize = 8 * 1024;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// How long accepting rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accepted connections between two rounds of tidying the limits' tables.
const TIDY_EVERY: u32 = 16 * 1024;

/// Accepts until the port closes. During a drain that is not its beginning: agents that come back
/// meanwhile are told where to go.
pub(crate) async fn run<P: Port>(core: Arc<Core>, port: P) {
    let mut accepted = 0_u32;
    loop {
        let next = async {
            // The slot first: who finds none waits in the backlog, not in our memory.
            let slot = core.admission.slot().await;
            (slot, port.accept().await)
        };
        let (slot, connection) = tokio::select! {
            biased;
            () = core.port.cancelled() => return,
            next = next => next,
        };
        match connection {
            Ok((stream, source)) => {
                accepted = accepted.wrapping_add(1);
                if accepted.is_multiple_of(TIDY_EVERY) {
                    core.admission.tidy();
                }
                admit::<P>(&core, (stream, source), slot);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "accepting failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Refuses with a reset, or starts the connection's task.
fn admit<P: Port>(
    core: &Arc<Core>,
    (stream, source): (P::Stream, SocketAddr),
    slot: OwnedSemaphorePermit,
) {
    if let Err(refusal) = core.admission.check_source(source.ip()) {
        core.metrics.refusal(refusal);
        core.metrics.connection(Outcome::Refused);
        P::refuse(stream);
        return;
    }
    let core = core.clone();
    let tracker = core.tracker.clone();
    tracker.spawn(async move {
        let outcome = serve::<P>(&core, stream, slot).await;
        core.metrics.connection(outcome);
    });
}

async fn serve<P: Port>(
    core: &Arc<Core>,
    stream: P::Stream,
    slot: OwnedSemaphorePermit,
) -> Outcome {
    P::hurry(&stream);
    let accepted_at = core.clock.now();
    let limit = core.config().admission.tls_timeout;
    #[cfg(feature = "planted-bugs")]
    let limit = protocol::planted::limit(protocol::planted::Bug::EndlessHandshake, limit);
    let shaken = tokio::select! {
        biased;
        () = core.drain.hard().cancelled() => return Outcome::Refused,
        shaken = Box::pin(shake::<P>(core, stream, limit)) => shaken,
    };
    let (stream, peer) = match shaken {
        Ok(shaken) => shaken,
        Err(outcome) => return outcome,
    };
    note_handshake(core, accepted_at, peer.resumed);
    let identity = match &peer.certificate {
        Some(certificate) => Identity::read(certificate),
        None => Err(CertificateError::Missing),
    };
    #[cfg(feature = "planted-bugs")]
    let identity = identity.map(|identity| planted::resumed(identity, peer.resumed));
    drop(peer);
    let door = Arc::new(Door::new(core.clone(), identity, slot));
    Box::pin(converse(core, stream, door)).await
}

/// Reads the greeting, waits for its turn, and performs the handshake.
async fn shake<P: Port>(
    core: &Core,
    stream: P::Stream,
    limit: Duration,
) -> Result<(IdleStream<Replay<P::Stream>>, Peer), Outcome> {
    let config = core.tls.load_full();
    let greeting = tokio::time::timeout(limit, greeting::read(stream));
    let stream =
        greeting.await.map_err(|_| Outcome::HandshakeTimeout)?.map_err(|_| Outcome::Handshake)?;
    let rank = rank(core, stream.claim(&config));
    let turn = match core.admission.check_handshake(rank) {
        Ok(()) => tokio::time::timeout(limit, core.turns.wait(rank)).await.ok(),
        Err(refusal) => {
            core.metrics.refusal(refusal);
            None
        }
    };
    let Some(turn) = turn else {
        P::refuse(stream.into_inner());
        return Err(Outcome::Refused);
    };
    let answered = stream.answered();
    let mut handshake = Box::pin(tls::accept_idle(stream, config, limit));
    // The greeting is here, so this is the costly half of it; then everybody else who can go on
    // does, before the next turn is given.
    let shaken = match (&mut handshake).now_or_never() {
        Some(shaken) => shaken,
        // What has cost nothing in its turn would cost it later, without one.
        None if !answered.load(Ordering::Relaxed) => return Err(Outcome::Handshake),
        None => {
            tokio::task::yield_now().await;
            drop(turn);
            handshake.await
        }
    };
    shaken.map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, "handshake failed");
        match error {
            TlsError::TimedOut(_) => Outcome::HandshakeTimeout,
            TlsError::Settings(_)
            | TlsError::Roots(_)
            | TlsError::Unbelieved(_)
            | TlsError::Tickets(_)
            | TlsError::Handshake(_) => Outcome::Handshake,
        }
    })
}

/// Who goes when. Being owed counts only so often.
fn rank(core: &Core, claim: Claim) -> Rank {
    match claim {
        Claim::Resuming(Some(device))
            if core.owed.is_owed(device, core.clock.now()) && core.admission.favours(device) =>
        {
            Rank::Owed
        }
        Claim::Resuming(_) => Rank::Resuming,
        Claim::Full => Rank::Full,
    }
}

fn note_handshake(core: &Core, accepted_at: Instant, resumed: bool) {
    let metrics = &core.metrics;
    let histogram = if resumed { &metrics.resumed_handshake } else { &metrics.full_handshake };
    histogram.record(core.clock.now().saturating_duration_since(accepted_at));
}

/// Serves requests; after an upgrade it starts the session's task.
async fn converse<IO>(core: &Arc<Core>, stream: IdleStream<IO>, door: Arc<Door>) -> Outcome
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answering = door.clone();
    let head_timeout = core.config().admission.head_timeout;
    let service = service_fn(move |request| answering.clone().answer(request));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_header_size(limits::UPGRADE_HEADER_BYTES)
            .max_headers(MAX_HEADERS)
            .max_buf_size(HTTP_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let mut is_draining = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => break outcome,
            () = core.drain.hard().cancelled() => return Outcome::Served,
            () = core.drain.soft().cancelled(), if !is_draining => {
                is_draining = true;
                // Before its first request this would end it without an answer.
                if door.has_served() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if let Err(error) = &outcome {
        tracing::debug!(error = error as &dyn std::error::Error, "connection failed");
    }
    let Some((upgrade, identity, slot)) = door.upgraded() else {
        return if door.has_served() { Outcome::Served } else { Outcome::Head };
    };
    let Ok(upgraded) = upgrade.await else { return Outcome::Served };
    let Ok(parts) = upgraded.downcast::<TokioIo<IdleStream<IO>>>() else {
        return Outcome::Served;
    };
    let (io, early) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let limits = core.config().socket;
    let socket = Socket::new(io, early, &limits, core.clock.clone()).await;
    core.tracker.spawn(session::run(core.clone(), Box::new(socket), identity, slot));
    Outcome::Upgraded
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use protocol::planted::{Bug, has};

    use crate::certificate::Identity;

    /// The identity, of a generation beyond all revocations where that bug is planted.
    pub(super) fn resumed(identity: Identity, is_resumed: bool) -> Identity {
        let is_unchecked = is_resumed && has(Bug::ResumedUnchecked);
        let generation = if is_unchecked { u32::MAX } else { identity.generation };
        Identity { generation, ..identity }
    }
}
