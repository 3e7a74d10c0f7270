//! Check-ins of simulated devices with the control plane: the last rung, and the way around a hub
//! whose broker is away.
//!
//! Owns the request and what is in it. Each opens a connection of its own, as a device that is
//! asleep in between does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::frame::{AgentFrame, CHECK_IN_PATH, Exchange, Hello, HubFrame};
use protocol::limits;
use protocol::time::Timestamp;
use runtime::Backoff;

use super::device::Device;
use super::{BACKOFF, Shared, inbox};
use crate::http::{Answer, HttpError, Line, Peer};
use crate::tally::Stage;

/// Why a check-in brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckInError {
    /// There was no answer.
    #[error("check-in without an answer")]
    Http(#[from] HttpError),
    /// Another answer than a success.
    #[error("check-in status {status}")]
    Status {
        /// The status.
        status: u16,
        /// When to come again, if it says so.
        retry_after: Option<Duration>,
    },
    /// The answer is no exchange of frames.
    #[error("check-in answer not understood")]
    Answer(#[from] serde_json::Error),
}

impl CheckInError {
    /// For how long the control plane asks to be left alone.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Http(_) | Self::Answer(_) => None,
        }
    }
}

/// Sends `hello` and those frames, and answers what came back.
pub(super) async fn exchange(
    peer: Peer,
    hello: Hello,
    frames: &[AgentFrame],
) -> Result<Vec<HubFrame>, CheckInError> {
    let mut all = vec![AgentFrame::Hello(hello)];
    all.extend_from_slice(frames);
    let body = serde_json::to_vec(&Exchange { frames: all })?;
    let answer = Line::new(Arc::new(peer)).post(CHECK_IN_PATH, None, body).await?;
    if answer.status != 200 {
        let Answer { status, retry_after, .. } = answer;
        return Err(CheckInError::Status { status, retry_after });
    }
    Ok(serde_json::from_slice::<Exchange<HubFrame>>(&answer.body)?.frames)
}

/// The life of a device without a session.
pub(super) async fn live(device: &mut Device, api: &[Peer], shared: &Shared) {
    let [base, cap] = BACKOFF;
    let mut backoff = Backoff::new(base, cap);
    let (mut outgoing, mut at, mut is_known) = (device.receipts(), 0_usize, false);
    while !shared.stop.is_cancelled() {
        let Some(peer) = at.checked_rem(api.len()).map(|at| api[at].clone()) else { return };
        let began = shared.clock.now();
        match once(device, peer, &mut outgoing, shared).await {
            Ok(()) => {
                backoff.reset();
                if !std::mem::replace(&mut is_known, true) {
                    shared.tally.opened(began, shared.clock.now(), false);
                    shared.connected.send_modify(|connected| *connected += 1);
                }
                if outgoing.is_empty() {
                    rest(shared, shared.interval()).await;
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no check-in");
                shared.tally.error(&error);
                at += 1;
                // Another address was not asked to be left alone.
                if let Some(wait) = error.retry_after().filter(|_| api.len() == 1) {
                    backoff.retry_after(wait);
                }
                rest(shared, backoff.next(shared.entropy.next_u64())).await;
            }
        }
    }
}

/// One check-in. What it sent is gone from `outgoing`, and what follows from the answer is there.
async fn once(
    device: &mut Device,
    peer: Peer,
    outgoing: &mut Vec<AgentFrame>,
    shared: &Shared,
) -> Result<(), CheckInError> {
    let count = outgoing.len().min(limits::EXCHANGE_FRAMES - 1);
    let hello = device.hello(wall(shared));
    let answer = exchange(peer, hello, &outgoing[..count]).await?;
    let answered_at = shared.clock.now();
    shared.tally.checked_in();
    acked(outgoing.drain(..count), answered_at, shared);
    for frame in answer {
        let party = (&mut *device, &*shared.tally);
        let heard = inbox::hear(party, frame, answered_at, wall(shared));
        outgoing.extend(heard.send);
    }
    outgoing.extend(inbox::work((device, &shared.tally), wall(shared)));
    Ok(())
}

/// Acks that an answer has taken over.
pub(super) fn acked(frames: impl IntoIterator<Item = AgentFrame>, at: Instant, shared: &Shared) {
    for frame in frames {
        if let AgentFrame::Ack { command_id } = frame {
            shared.tally.reached(command_id, Stage::Acked, at);
        }
    }
}

async fn rest(shared: &Shared, duration: Duration) {
    let _ = tokio::time::timeout(duration, shared.stop.cancelled()).await;
}

fn wall(shared: &Shared) -> Timestamp {
    Timestamp::from_millis(shared.clock.unix_millis())
}
