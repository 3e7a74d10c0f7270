//! The agent's end of a session.
//!
//! Owns liveness and the rules of the frame order. It believes no frame: what arrives goes on to
//! the ledger, which verifies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::{AgentOutput, Output, Wake};
use crate::close::CloseCode;
use crate::frame::{AgentFrame, Frame, FrameError, Hello, HubFrame, Welcome};
use crate::limits;
use crate::state::Lane;

/// A connection whose hub has not said `welcome` yet.
#[derive(Debug)]
pub struct AgentHandshake {
    deadline: Instant,
}

impl AgentHandshake {
    /// Starts a session: the text is the first message to send.
    pub fn start(hello: Hello, now: Instant) -> Result<(Self, String), FrameError> {
        let text = AgentFrame::Hello(hello).encode()?;
        Ok((Self { deadline: now + limits::HELLO_TIMEOUT }, text))
    }

    /// When to give up.
    pub const fn poll_timeout(&self) -> (Instant, Wake) {
        (self.deadline, Wake::Handshake)
    }

    /// Takes the first text message of the hub.
    pub fn receive(self, text: &str, now: Instant) -> Result<AgentSession, CloseCode> {
        let HubFrame::Welcome(welcome) = HubFrame::decode(text).map_err(|e| e.close_code())? else {
            return Err(CloseCode::Malformed);
        };
        // A hub that pings more rarely is given as many missed pings as by default.
        let heartbeat = Duration::from_secs(u64::from(welcome.heartbeat_secs.min(3600)));
        let dead_after = limits::DEAD_AFTER.max(heartbeat * 9 / 5);
        Ok(AgentSession {
            welcome,
            dead_after,
            heard_at: now,
            outbox: Outbox::default(),
            received: VecDeque::new(),
            close: None,
            is_closed: false,
        })
    }
}

/// An established session, seen from the agent.
#[derive(Debug)]
pub struct AgentSession {
    welcome: Welcome,
    dead_after: Duration,
    heard_at: Instant,
    outbox: Outbox,
    received: VecDeque<AgentOutput>,
    close: Option<CloseCode>,
    is_closed: bool,
}

impl AgentSession {
    /// What the hub answered to `hello`.
    pub const fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Something arrived from the hub, be it a part of a message or a ping.
    pub fn handle_alive(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// A text message arrived.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        self.heard_at = now;
        match HubFrame::decode(text) {
            Ok(HubFrame::Welcome(_)) => self.close(CloseCode::Malformed),
            Ok(HubFrame::Unknown) => self.received.push_back(Output::Ignored),
            Ok(frame) => self.received.push_back(Output::Received(frame)),
            Err(error) => self.close(error.close_code()),
        }
    }

    /// Queues a frame for the hub. `Err` says it can never be sent on any session.
    pub fn send(&mut self, frame: &AgentFrame) -> Result<(), FrameError> {
        let text = frame.encode()?;
        // A hub that does not read is as good as dead; the frames are on disk and go out again.
        if self.outbox.push(Lane::Urgent, text).is_err() {
            self.close(CloseCode::Slow);
        }
        Ok(())
    }

    /// Ends the session with that code. The first code stands.
    pub fn close(&mut self, code: CloseCode) {
        self.close.get_or_insert(code);
    }

    /// Time has passed: call when `poll_timeout` says so, or at any other moment.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.poll_timeout().0 {
            self.close(CloseCode::Dead);
        }
    }

    /// What to do next; `None` when there is nothing until the next event.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        if let Some(output) = self.received.pop_front() {
            return Some(output);
        }
        match self.close {
            Some(_) if self.is_closed => None,
            Some(code) => {
                self.is_closed = true;
                Some(Output::Close(code))
            }
            None => self.outbox.pop().map(Output::Transmit),
        }
    }

    /// When to call `handle_timeout` next, and why.
    pub fn poll_timeout(&self) -> (Instant, Wake) {
        (self.heard_at + self.dead_after, Wake::Silence)
    }
}
