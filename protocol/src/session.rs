//! The two ends of a session as machines without I/O: bytes and time go in, outputs come out.
//!
//! The shell around a machine owns the socket and the clock: it hands in what arrived, performs
//! each [`Output`] in order, and wakes the machine when `poll_timeout` says so. Agent and load
//! harness drive the same agent-side machine.

pub mod agent;
mod flight;
pub mod hub;
mod outbox;

#[cfg(test)]
mod tests;

use crate::close::CloseCode;
use crate::frame::{AgentFrame, HubFrame};

/// What a machine wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<F> {
    /// Send this text message.
    Transmit(String),
    /// Send a WebSocket ping.
    Ping,
    /// The peer said this; the machine has taken its own part out of it.
    Received(F),
    /// The peer sent a frame of an unknown kind: count it.
    Ignored,
    /// Send this close code and drop the connection. Nothing follows.
    Close(CloseCode),
}

/// What the hub's machine wants done.
pub type HubOutput = Output<AgentFrame>;
/// What the agent's machine wants done.
pub type AgentOutput = Output<HubFrame>;

/// Why a machine asks to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The first frame is due.
    Handshake,
    /// It is time for a ping.
    Heartbeat,
    /// An urgent command has no ack: time to look whether the peer is there.
    UrgentProbe,
    /// The peer is dead if nothing was heard by then.
    Silence,
}
