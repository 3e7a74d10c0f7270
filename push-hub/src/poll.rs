//! The long-poll: a session of one exchange.
//!
//! Owns the holding and what fits into an answer. It goes through the same registry and the same
//! inbox as a WebSocket's session, so nothing behind them knows the difference.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, Exchange, Frame as _, HubFrame};
use protocol::limits;
use protocol::session::hub::welcome;
use protocol::state::Lane;
use tokio::time::timeout;

use crate::admission::Refusal;
use crate::certificate::Identity;
use crate::core::Core;
use crate::door::{Answer, closed, plain, refused};
use crate::handle::{Handle, Rung, weight};
use crate::session;

/// How long the first frame waits for others, so that one answer carries them all.
const GATHER: Duration = Duration::from_millis(20);
/// How long the frames of a request may wait for their way to the control plane.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes the agent's frames, holds, and answers. `accepted` is called once the request is whole.
pub(crate) async fn answer(
    core: &Arc<Core>,
    identity: Identity,
    body: Incoming,
    accepted: impl FnOnce() + Send,
) -> Answer {
    let frames = match receive(core, body).await {
        Ok(frames) => frames,
        Err(refusal) => return refusal,
    };
    accepted();
    let mut frames = frames.into_iter();
    let Some(AgentFrame::Hello(hello)) = frames.next() else {
        return closed(StatusCode::BAD_REQUEST, CloseCode::Malformed, "first frame is no hello");
    };
    let waiting_bytes = core.metrics.outbox_bytes.clone();
    let session_id = core.session_id();
    let handle = Handle::new(identity, session_id, Rung::LongPoll, &hello, waiting_bytes);
    let held = Held::begin(core, Arc::new(handle), AgentFrame::Hello(hello));
    if held.forward(frames).await.is_err() {
        core.metrics.refusal(Refusal::Full);
        return refused(core, Refusal::Full);
    }
    let taken = held.wait().await;
    drop(held);
    if let Some(CloseCode::Revoked) = taken.close {
        return closed(StatusCode::FORBIDDEN, CloseCode::Revoked, "enrollment is revoked");
    }
    let first = HubFrame::Welcome(welcome(session_id, core.config().pace(), core.timestamp()));
    exchange(core, first, taken.frames)
}

/// Reads the body within its limits.
async fn receive(core: &Core, body: Incoming) -> Result<Vec<AgentFrame>, Answer> {
    let whole = Limited::new(body, limits::EXCHANGE_BYTES).collect();
    let patience = core.config().admission.hello_timeout;
    let whole = timeout(patience, whole).await.map_err(|_| {
        closed(StatusCode::REQUEST_TIMEOUT, CloseCode::HelloTimeout, "body took too long")
    })?;
    let bytes = whole
        .map_err(|_| closed(StatusCode::PAYLOAD_TOO_LARGE, CloseCode::TooBig, "body is too big"))?
        .to_bytes();
    let malformed = |text: &str| closed(StatusCode::BAD_REQUEST, CloseCode::Malformed, text);
    let exchange = serde_json::from_slice::<Exchange<AgentFrame>>(&bytes)
        .map_err(|_| malformed("body is no exchange"))?;
    if exchange.frames.len() > limits::EXCHANGE_FRAMES {
        return Err(malformed("too many frames"));
    }
    exchange
        .frames
        .iter()
        .try_for_each(|frame| frame.check())
        .map_err(|error| closed(StatusCode::BAD_REQUEST, error.close_code(), &error.to_string()))?;
    Ok(exchange.frames)
}

/// A registered long-poll. Dropping it takes the session out, also when the agent hangs up.
struct Held<'a> {
    core: &'a Arc<Core>,
    handle: Arc<Handle>,
}

impl<'a> Held<'a> {
    fn begin(core: &'a Arc<Core>, handle: Arc<Handle>, hello: AgentFrame) -> Self {
        core.metrics.polls.increment(1);
        session::begin(core, &handle, hello);
        Self { core, handle }
    }

    /// Passes the frames after `hello` on. Unlike a WebSocket's session this waits a little: a
    /// refusal reaches the agent, which then keeps its frames.
    async fn forward(&self, frames: impl Iterator<Item = AgentFrame>) -> Result<(), Refusal> {
        for frame in frames {
            self.core.metrics.frame_in(&frame);
            if matches!(frame, AgentFrame::Hello(_) | AgentFrame::Unknown) {
                continue;
            }
            self.handle.remember(&frame);
            let sending = self.core.upstream.send(self.core.address(&self.handle, frame));
            let outcome = timeout(FORWARD_TIMEOUT, sending).await;
            if !matches!(outcome, Ok(Ok(()))) {
                return Err(Refusal::Full);
            }
        }
        Ok(())
    }

    /// Waits for a frame, the word to close, the drain or the end of the hold.
    async fn wait(&self) -> crate::handle::Taken {
        let something = async {
            loop {
                let taken = self.handle.take();
                if !taken.frames.is_empty() || taken.close.is_some() {
                    return taken;
                }
                self.handle.woken().await;
            }
        };
        let hold = self.core.config().poll_hold;
        let mut taken = tokio::select! {
            biased;
            () = self.core.drain.hard().cancelled() => self.handle.take(),
            outcome = timeout(hold, something) => match outcome {
                Ok(taken) => taken,
                Err(_) => self.handle.take(),
            },
        };
        if taken.close.is_none() && !taken.frames.is_empty() {
            taken.close = timeout(GATHER, self.handle.closed()).await.ok();
            taken.frames.extend(self.handle.take().frames);
        }
        taken
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        session::end(self.core, &self.handle);
        self.core.metrics.polls.decrement(1);
    }
}

/// Welcome, then what fits: urgent commands and what they depend on before bulk.
fn exchange(core: &Core, first: HubFrame, frames: impl IntoIterator<Item = HubFrame>) -> Answer {
    let is_bulk = |frame: &HubFrame| matches!(frame, HubFrame::Command(command) if command.lane == Lane::Bulk);
    let (bulk, urgent): (Vec<_>, Vec<_>) = frames.into_iter().partition(is_bulk);
    let mut fitting = Exchange { frames: vec![first] };
    let mut bytes = 0;
    for frame in urgent.into_iter().chain(bulk) {
        bytes += weight(&frame);
        if fitting.frames.len() >= limits::EXCHANGE_FRAMES || bytes > limits::EXCHANGE_BYTES / 2 {
            core.metrics.poll_overflow.increment(1);
            // The rest of the lane would come before what is missing; the agent asks for it all.
            break;
        }
        fitting.frames.push(frame);
    }
    let Ok(body) = serde_json::to_vec(&fitting) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "answer cannot be written");
    };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
