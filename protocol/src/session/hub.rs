//! The hub's end of a session.
//!
//! Owns liveness, the outbox and the rules of the frame order. It does not open envelopes, knows
//! no store, and passes on what agents say without judging it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::flight::Flight;
use super::outbox::Outbox;
use super::{HubOutput, Output, Wake};
use crate::close::CloseCode;
use crate::frame::{AgentFrame, Frame, Hello, HubFrame, Welcome};
use crate::id::{CommandId, SessionId};
use crate::limits;
use crate::state::Lane;
use crate::time::Timestamp;

/// How often a hub pings, and how patient it is. Shorter than the protocol's only in tests.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Interval of pings.
    pub heartbeat: Duration,
    /// Silence after which the agent is dead.
    pub dead_after: Duration,
    /// Interval of the check-ins under a healthy session, told to the agent.
    pub check_in: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heartbeat: limits::HEARTBEAT,
            dead_after: limits::DEAD_AFTER,
            check_in: limits::CHECK_IN_HEALTHY,
        }
    }
}

/// A connection whose agent has not said `hello` yet.
#[derive(Debug)]
pub struct HubHandshake {
    deadline: Instant,
}

impl HubHandshake {
    /// The WebSocket stands since `now`.
    pub fn new(now: Instant) -> Self {
        Self { deadline: now + limits::HELLO_TIMEOUT }
    }

    /// When to give up.
    pub const fn poll_timeout(&self) -> (Instant, Wake) {
        (self.deadline, Wake::Handshake)
    }

    /// The code to close with once `poll_timeout` has passed.
    pub const fn handle_timeout(self) -> CloseCode {
        CloseCode::HelloTimeout
    }

    /// Takes the first text message. The session's first output is the `welcome`.
    pub fn receive(
        self,
        text: &str,
        session_id: SessionId,
        pace: Pace,
        (now, server_time): (Instant, Timestamp),
    ) -> Result<(HubSession, Hello), CloseCode> {
        let AgentFrame::Hello(hello) = AgentFrame::decode(text).map_err(|e| e.close_code())? else {
            return Err(CloseCode::Malformed);
        };
        let mut session = HubSession {
            pace,
            heard_at: now,
            pinged_at: now,
            probe_takes_micros: 0,
            late_micros: 0,
            outbox: Outbox::default(),
            received: VecDeque::new(),
            ping_due: false,
            urgent: VecDeque::new(),
            flight: Flight::new(now),
            close: Closing::Open,
        };
        session.deliver(&HubFrame::Welcome(welcome(session_id, pace, server_time)), now);
        Ok((session, hello))
    }
}

/// The answer to `hello`, the same on every rung.
pub fn welcome(session_id: SessionId, pace: Pace, server_time: Timestamp) -> Welcome {
    let secs = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    Welcome {
        session_id,
        heartbeat_secs: secs(pace.heartbeat),
        checkin_secs: secs(pace.check_in),
        server_time,
    }
}

/// An established session, seen from the hub.
#[derive(Debug)]
pub struct HubSession {
    pace: Pace,
    heard_at: Instant,
    pinged_at: Instant,
    /// How long the last probe takes to arrive, at the most: behind what was sent before it.
    probe_takes_micros: u32,
    /// How long after it was due the last ping left, if the next one is not put off by it.
    late_micros: u32,
    outbox: Outbox,
    received: VecDeque<HubOutput>,
    ping_due: bool,
    /// Urgent commands without an ack, oldest first, with the time of their delivery.
    urgent: VecDeque<(CommandId, Instant)>,
    flight: Flight,
    close: Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Open,
    Due(CloseCode),
    Done,
}

impl HubSession {
    /// Something arrived from the agent, be it a part of a message or a pong.
    pub fn handle_alive(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// A text message arrived.
    pub fn handle_text(&mut self, text: &str, now: Instant) {
        self.heard_at = now;
        match AgentFrame::decode(text) {
            Ok(AgentFrame::Hello(_)) => self.close(CloseCode::Malformed),
            Ok(AgentFrame::Unknown) => self.received.push_back(Output::Ignored),
            Ok(frame) => {
                if let AgentFrame::Ack { command_id } | AgentFrame::Receipt { command_id, .. } =
                    &frame
                {
                    self.urgent.retain(|(waiting, _)| waiting != command_id);
                    self.flight.ack(*command_id, now);
                }
                self.received.push_back(Output::Received(frame));
            }
            Err(error) => self.close(error.close_code()),
        }
    }

    /// Queues a frame for the agent. An agent that does not keep up is closed as `slow`.
    pub fn deliver(&mut self, frame: &HubFrame, now: Instant) {
        let Ok(text) = frame.encode() else {
            // Only a frame of ours can be too big here; the agent will get it by another rung.
            return self.close(CloseCode::Internal);
        };
        let lane = match frame {
            HubFrame::Command(command) => {
                self.flight.send(text.len(), Some(command.command_id), now);
                if command.lane == Lane::Urgent && self.urgent.len() < limits::URGENT_WAITING {
                    self.urgent.push_back((command.command_id, now));
                }
                command.lane
            }
            // What a command may depend on, such as a trust root, never waits behind bulk.
            HubFrame::Welcome(_)
            | HubFrame::Confirmed { .. }
            | HubFrame::Trust { .. }
            | HubFrame::Checkpoint { .. }
            | HubFrame::Mode { .. }
            | HubFrame::Reconnect(_)
            | HubFrame::Unknown => {
                self.flight.send(text.len(), None, now);
                Lane::Urgent
            }
        };
        if self.outbox.push(lane, text).is_err() {
            self.close(CloseCode::Slow);
        }
    }

    /// Ends the session with that code. The first code stands.
    pub fn close(&mut self, code: CloseCode) {
        if self.close == Closing::Open {
            self.close = Closing::Due(code);
        }
    }

    /// Time has passed: call when `poll_timeout` says so, or at any other moment.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.heard_at + self.pace.dead_after {
            return self.close(CloseCode::Dead);
        }
        if let Some((_, delivered_at)) = self.urgent.front().copied() {
            self.probe_urgent(delivered_at, now);
        }
        let due = self.heartbeat_at();
        if now >= due {
            self.ping(now);
            // Counted from when it was due: a hub that wakes a little late, as it does for many
            // sessions at once, keeps the interval that the agent was told.
            let late = now.saturating_duration_since(due);
            if late < self.pace.heartbeat {
                self.late_micros = u32::try_from(late.as_micros()).unwrap_or(0);
            }
        }
    }

    /// When the next heartbeat is due.
    fn heartbeat_at(&self) -> Instant {
        self.pinged_at
            + self.pace.heartbeat.saturating_sub(Duration::from_micros(self.late_micros.into()))
    }

    fn probe_urgent(&mut self, delivered_at: Instant, now: Instant) {
        let probe_at = delivered_at + limits::URGENT_ACK;
        if self.pinged_at < probe_at {
            if now >= probe_at {
                let takes = self.flight.arrives_at().saturating_duration_since(now);
                self.probe_takes_micros = u32::try_from(takes.as_micros()).unwrap_or(u32::MAX);
                self.ping(now);
            }
        } else if self.heard_at > self.pinged_at {
            // It answered the probe: the connection lives, the agent takes its time.
            self.urgent.clear();
        } else if now >= self.urgent_deadline(delivered_at) {
            self.close(CloseCode::Dead);
        }
    }

    /// A probe that left late, because the hub was held up, has its time all the same. So has one
    /// that must travel behind what was sent before it; what is sent after it, as the command once more, puts nothing off.
    fn urgent_deadline(&self, delivered_at: Instant) -> Instant {
        let answer = limits::URGENT_DEAD_AFTER - limits::URGENT_ACK;
        let at_most = self.pinged_at + Duration::from_micros(self.probe_takes_micros.into());
        let probe_arrives_at = self.flight.arrives_at().max(self.pinged_at).min(at_most);
        (delivered_at + limits::URGENT_DEAD_AFTER).max(probe_arrives_at + answer)
    }

    fn ping(&mut self, now: Instant) {
        self.pinged_at = now;
        self.late_micros = 0;
        self.ping_due = true;
    }

    /// What to do next; `None` when there is nothing until the next event.
    pub fn poll_output(&mut self) -> Option<HubOutput> {
        if let Some(output) = self.received.pop_front() {
            if self.received.is_empty() {
                self.received = VecDeque::new();
            }
            return Some(output);
        }
        match self.close {
            Closing::Open => {}
            Closing::Due(code) => {
                self.close = Closing::Done;
                return Some(Output::Close(code));
            }
            Closing::Done => return None,
        }
        if std::mem::take(&mut self.ping_due) {
            return Some(Output::Ping);
        }
        self.outbox.pop().map(Output::Transmit)
    }

    /// The pace that it keeps, as the agent was told.
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// Whether an urgent command was sent that the agent has not acked.
    pub fn awaits_urgent_ack(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// When to call `handle_timeout` next, and why.
    pub fn poll_timeout(&self) -> (Instant, Wake) {
        let heartbeat = (self.heartbeat_at(), Wake::Heartbeat);
        let silence = (self.heard_at + self.pace.dead_after, Wake::Silence);
        let urgent = self.urgent.front().map(|(_, delivered_at)| {
            let probe_at = *delivered_at + limits::URGENT_ACK;
            if self.pinged_at < probe_at {
                (probe_at, Wake::UrgentProbe)
            } else {
                (self.urgent_deadline(*delivered_at), Wake::Silence)
            }
        });
        let earlier = |a: (Instant, Wake), b: (Instant, Wake)| if b.0 < a.0 { b } else { a };
        let first = earlier(heartbeat, silence);
        urgent.map_or(first, |urgent| earlier(first, urgent))
    }
}
