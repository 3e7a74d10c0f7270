//! The requests on the agent port: the upgrade and the long-poll.
//!
//! Owns routing and the refusals. Everything here is behind mutual TLS, and the certificate is
//! judged again for every request: a resumed handshake has not looked at it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use protocol::close::CloseCode;
use protocol::frame::{POLL_PATH, SOCKET_PATH, SUBPROTOCOL};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use crate::admission::Refusal;
use crate::certificate::{CertificateError, Identity};
use crate::core::Core;
use crate::poll;

/// An answer to an agent.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The header that tells an agent with which code its session would have been closed.
const CLOSE_HEADER: &str = "tocsin-close";
/// The header that lists other hubs to an agent that finds no room here.
const HUBS_HEADER: &str = "tocsin-hubs";

/// Why a request is turned away before it is looked at.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Certificate(CertificateError),
    Admission(Refusal),
}

impl From<CertificateError> for Reason {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Admission(refusal)
    }
}

/// One connection's requests.
#[derive(Debug)]
pub(crate) struct Door {
    core: Arc<Core>,
    identity: Result<Identity, CertificateError>,
    /// Held until the first request is past the refusals.
    slot: Mutex<Option<OwnedSemaphorePermit>>,
    upgrade: Mutex<Option<OnUpgrade>>,
    has_served: AtomicBool,
}

impl Door {
    pub(crate) fn new(
        core: Arc<Core>,
        identity: Result<Identity, CertificateError>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            core,
            identity,
            slot: Mutex::new(Some(slot)),
            upgrade: Mutex::new(None),
            has_served: AtomicBool::new(false),
        }
    }

    /// Whether a request's head was ever read.
    pub(crate) fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    /// What the session's task needs, after an upgrade was granted.
    pub(crate) fn upgraded(&self) -> Option<(OnUpgrade, Identity, OwnedSemaphorePermit)> {
        let upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some((upgrade, self.identity.ok()?, self.take_slot()?))
    }

    fn take_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Answers one request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Answer, Infallible> {
        self.has_served.store(true, Ordering::Relaxed);
        let identity = match self.admit() {
            Ok(identity) => identity,
            Err(reason) => return Ok(self.turn_away(reason)),
        };
        let answer = match (request.method(), request.uri().path()) {
            (_, SOCKET_PATH) if !self.core.config().websocket => {
                plain(StatusCode::NOT_FOUND, "no websockets here")
            }
            (&Method::GET, SOCKET_PATH) => self.upgrade(request),
            (&Method::POST, POLL_PATH) => {
                let held = poll::answer(&self.core, identity, request.into_body(), || {
                    drop(self.take_slot());
                });
                held.await
            }
            (_, SOCKET_PATH | POLL_PATH) => plain(StatusCode::METHOD_NOT_ALLOWED, "other method"),
            (_, _) => plain(StatusCode::NOT_FOUND, "no such path"),
        };
        Ok(answer)
    }

    /// The certificate, the device's rate, and whether there is room.
    fn admit(&self) -> Result<Identity, Reason> {
        let core = &self.core;
        let identity = self.identity?;
        identity.check(core.clock.unix_secs(), &core.revocations)?;
        core.admission.check_device(identity.device)?;
        core.room()?;
        Ok(identity)
    }

    fn turn_away(&self, reason: Reason) -> Answer {
        match reason {
            Reason::Certificate(error) => {
                self.core.metrics.certificate(error);
                let identity = self.identity.ok();
                let device = identity.map(|identity| tracing::field::display(identity.device));
                tracing::debug!(device.id = device, reason = %error, "certificate refused");
                closed(StatusCode::FORBIDDEN, error.close_code(), &error.to_string())
            }
            Reason::Admission(refusal) => {
                self.core.metrics.refusal(refusal);
                refused(&self.core, refusal)
            }
        }
    }

    fn upgrade(&self, mut request: Request<Incoming>) -> Answer {
        let upgrade = hyper::upgrade::on(&mut request);
        if !offers_subprotocol(request.headers()) {
            return plain(StatusCode::BAD_REQUEST, "subprotocol tocsin.v1 is not offered");
        }
        if self.slot.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return plain(StatusCode::BAD_REQUEST, "upgrade on a connection of its own");
        }
        let (parts, _) = request.into_parts();
        let Ok(granted) = create_response(&Request::from_parts(parts, ())) else {
            return plain(StatusCode::BAD_REQUEST, "not a websocket upgrade");
        };
        let mut granted = granted.map(|()| Full::default());
        granted.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
        granted
    }
}

fn offers_subprotocol(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == SUBPROTOCOL)
}

/// A short text for a person.
pub(crate) fn plain(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// A refusal with the close code that says what to do about it.
pub(crate) fn closed(status: StatusCode, code: CloseCode, text: &str) -> Answer {
    let mut answer = plain(status, text);
    answer.headers_mut().insert(CLOSE_HEADER, HeaderValue::from(code.number()));
    answer
}

/// Turned away for now, with the time to stay away and the other hubs.
pub(crate) fn refused(core: &Core, refusal: Refusal) -> Answer {
    let (status, code, text) = match refusal {
        Refusal::Device(_) => {
            (StatusCode::TOO_MANY_REQUESTS, CloseCode::Overloaded, "too many requests")
        }
        Refusal::Source
        | Refusal::Handshakes
        | Refusal::Resumptions
        | Refusal::Full
        | Refusal::Memory => (StatusCode::SERVICE_UNAVAILABLE, CloseCode::Overloaded, "no room"),
        Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, CloseCode::Drain, "draining"),
    };
    let mut answer = closed(status, code, text);
    let wait = refusal.retry_after(&core.entropy);
    let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(secs.max(1)));
    if core.drain.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let hubs = core.other_hubs().join(", ");
    if refusal.is_of_the_hub()
        && !hubs.is_empty()
        && let Ok(hubs) = HeaderValue::try_from(hubs)
    {
        headers.insert(HUBS_HEADER, hubs);
    }
    answer
}
