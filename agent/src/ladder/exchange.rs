//! Frames by request and answer: what long-poll and check-in have in common.
//!
//! Frames that were sent are kept until an answer came, so that a broken exchange loses none.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::frame::{AgentFrame, Exchange, Frame as _, FrameError, HubFrame};
use protocol::limits;

use super::{Frames, Shared};
use crate::http::{self, HttpError};

#[cfg(test)]
mod tests;

/// Bytes of frames in one request, `hello` and brackets aside.
const BATCH_BYTES: usize = limits::EXCHANGE_BYTES - 128 * 1024;

/// Why an exchange brought nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// There is no address to try.
    #[error("no address is known")]
    NoAddress,
    /// The request failed.
    #[error("the request failed")]
    Http(#[from] HttpError),
    /// The answer is no exchange of frames.
    #[error("the answer is not understood: {0}")]
    Answer(String),
    /// A frame of the answer breaks a bound.
    #[error("a frame of the answer is not allowed")]
    Frame(#[from] FrameError),
}

impl ExchangeError {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(error) => super::retry_after(error),
            Self::NoAddress | Self::Answer(_) | Self::Frame(_) => None,
        }
    }
}

/// Frames for the other end, those of a broken exchange first.
#[derive(Debug)]
pub(super) struct Outgoing {
    frames: Frames,
    held: VecDeque<AgentFrame>,
    /// How many of them are in the request that is under way.
    sent: usize,
}

impl Outgoing {
    pub(super) const fn new(frames: Frames) -> Self {
        Self { frames, held: VecDeque::new(), sent: 0 }
    }

    /// The frames of the next request. They stay held until [`Outgoing::answered`].
    pub(super) fn batch(&mut self) -> Vec<AgentFrame> {
        while let Ok(frame) = self.frames.try_recv() {
            self.hold(frame);
        }
        let mut bytes = 0;
        let fits = |frame: &&AgentFrame| {
            bytes += frame.encode().map_or(0, |text| text.len());
            bytes <= BATCH_BYTES
        };
        // One place is the greeting's.
        let most = limits::EXCHANGE_FRAMES - 1;
        let batch: Vec<_> = self.held.iter().take(most).take_while(fits).cloned().collect();
        self.sent = batch.len();
        batch
    }

    /// The first `count` held frames have arrived.
    pub(super) fn answered(&mut self, count: usize) {
        self.held.drain(..count.min(self.held.len()));
        self.sent = 0;
    }

    /// Waits for a frame that is worth a request of its own. Never ends when the core is gone.
    pub(super) async fn wanted(&mut self) {
        loop {
            let Some(frame) = self.frames.recv().await else {
                return std::future::pending().await;
            };
            let is_worth = !matches!(frame, AgentFrame::Progress { .. });
            self.hold(frame);
            if is_worth {
                return;
            }
        }
    }

    fn hold(&mut self, frame: AgentFrame) {
        let waiting = self.held.iter_mut().skip(self.sent);
        if let Some(former) = waiting.rev().find(|former| is_newer(&frame, former)) {
            *former = frame;
            return;
        }
        if !self.held.contains(&frame) {
            self.held.push_back(frame);
        }
        if self.held.len() > limits::EXCHANGE_FRAMES {
            // The oldest is on disk, or was only progress.
            self.held.pop_front();
        }
    }
}

/// Whether a frame tells of a stage what another one told before: of how far a stage has come only
/// the newest word counts.
fn is_newer(frame: &AgentFrame, former: &AgentFrame) -> bool {
    match (frame, former) {
        (
            AgentFrame::Progress { command_id, stage, advance: Some(_) },
            AgentFrame::Progress { command_id: of, stage: at, .. },
        ) => command_id == of && stage == at,
        _ => false,
    }
}

/// One request with these frames after `hello`; the frames of its answer.
pub(super) async fn exchange(
    shared: &Shared,
    (address, path): (&str, &str),
    frames: Vec<AgentFrame>,
    timeout: Duration,
) -> Result<Vec<HubFrame>, ExchangeError> {
    let tls = shared.identity.borrow().tls.clone();
    let mut body = Exchange { frames: vec![AgentFrame::Hello(shared.hello())] };
    body.frames.extend(frames);
    let body = serde_json::to_vec(&body).map_err(|e| ExchangeError::Answer(e.to_string()))?;
    let stream = shared.dialer.connect(address, tls, shared.config.connect_timeout).await?;
    let answer = http::post(stream, (address, path), body, timeout).await?;
    let answer: Exchange<HubFrame> =
        serde_json::from_slice(&answer).map_err(|e| ExchangeError::Answer(e.to_string()))?;
    answer.frames.iter().try_for_each(HubFrame::check)?;
    Ok(answer.frames)
}
