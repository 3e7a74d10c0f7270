//! What a hub counts.
//!
//! Owns the names, the help and the handles, made once: looking a metric up by name for every
//! frame would cost more than the frame. Labels are closed enums.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::state::Lane;
use protocol::time::Timestamp;

use crate::admission::Refusal;
use crate::certificate::CertificateError;

/// How a connection ended before it had a session, or that it got one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A WebSocket was opened.
    Upgraded,
    /// Only long-polls or refused requests were made.
    Served,
    /// TLS failed: no certificate, one that is past its end, or not TLS.
    Handshake,
    /// TLS did not finish in time.
    HandshakeTimeout,
    /// The request's head was malformed, too big, or did not come in time.
    Head,
    /// Turned away before TLS.
    Refused,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Upgraded,
        Self::Served,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::Head,
        Self::Refused,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Upgraded => "upgraded",
            Self::Served => "served",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Head => "head",
            Self::Refused => "refused",
        }
    }
}

/// The kinds of frames from agents, as labels.
const AGENT_KINDS: [&str; 9] =
    ["hello", "sync", "ack", "progress", "receipt", "unknown", "notice", "proof", "escrow"];
/// The kinds of frames to agents, as labels.
const HUB_KINDS: [&str; 8] =
    ["welcome", "command", "confirmed", "trust", "mode", "reconnect", "unknown", "checkpoint"];
/// Why a request or connection was turned away, as labels.
const REFUSALS: [&str; 7] =
    ["source", "handshakes", "device", "full", "draining", "memory", "resumptions"];
/// Why a certificate was turned away, as labels.
const CERTIFICATES: [&str; 4] = ["missing", "not_a_device", "expired", "revoked"];

/// The lanes, as labels.
const LANES: [&str; 2] = ["urgent", "bulk"];

/// The handles. Made after the process's recorder was installed; before, they count nothing.
#[derive(Clone)]
pub(crate) struct Metrics {
    connections: [Counter; Outcome::ALL.len()],
    refusals: [Counter; REFUSALS.len()],
    certificates: [Counter; CERTIFICATES.len()],
    frames_in: [Counter; AGENT_KINDS.len()],
    frames_out: [Counter; HUB_KINDS.len()],
    closes: [Counter; CloseCode::ALL.len()],
    /// Live sessions over a WebSocket.
    pub(crate) sockets: Gauge,
    /// Held long-polls.
    pub(crate) polls: Gauge,
    /// From accept to the end of TLS.
    pub(crate) full_handshake: Histogram,
    /// The same, when an earlier session was resumed.
    pub(crate) resumed_handshake: Histogram,
    /// Bytes that wait in sessions' inboxes.
    pub(crate) outbox_bytes: Gauge,
    /// Deliveries for devices that have no session here.
    pub(crate) absent: Counter,
    /// Frames of agents that found the way to the control plane full.
    pub(crate) upstream_dropped: Counter,
    /// Frames that wait for the control plane.
    pub(crate) upstream_waiting: Gauge,
    /// Times that the broker went away.
    pub(crate) broker_losses: Counter,
    /// Whether the broker delivers.
    pub(crate) broker_up: Gauge,
    /// Frames that did not fit into a long-poll's answer.
    pub(crate) poll_overflow: Counter,
    /// Resident memory of the process.
    pub(crate) memory: Gauge,
    /// How old commands are when their session has them from the broker.
    routed_age: [Histogram; 2],
    /// How old they are when the frame has left for the kernel.
    written_age: [Histogram; 2],
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let refusals = "tocsin_push_hub_admission_refusals_total";
        let certificates = "tocsin_push_hub_certificates_refused_total";
        let frames = "tocsin_push_hub_frames_total";
        let handshake = "tocsin_push_hub_handshake_seconds";
        let sessions = "tocsin_push_hub_sessions";
        Self {
            connections: Outcome::ALL.map(|outcome| {
                counter!("tocsin_push_hub_connections_total", "outcome" => outcome.label())
            }),
            refusals: REFUSALS.map(|reason| counter!(refusals, "reason" => reason)),
            certificates: CERTIFICATES.map(|reason| counter!(certificates, "reason" => reason)),
            frames_in: AGENT_KINDS
                .map(|kind| counter!(frames, "direction" => "in", "kind" => kind)),
            frames_out: HUB_KINDS
                .map(|kind| counter!(frames, "direction" => "out", "kind" => kind)),
            closes: CloseCode::ALL.map(|code| {
                counter!("tocsin_push_hub_closes_total", "code" => code.as_str())
            }),
            sockets: gauge!(sessions, "rung" => "push"),
            polls: gauge!(sessions, "rung" => "long_poll"),
            full_handshake: histogram!(handshake, "resumed" => "no"),
            resumed_handshake: histogram!(handshake, "resumed" => "yes"),
            outbox_bytes: gauge!("tocsin_push_hub_outbox_bytes"),
            absent: counter!("tocsin_push_hub_deliveries_absent_total"),
            upstream_dropped: counter!("tocsin_push_hub_upstream_dropped_total"),
            upstream_waiting: gauge!("tocsin_push_hub_upstream_waiting"),
            broker_losses: counter!("tocsin_push_hub_broker_losses_total"),
            broker_up: gauge!("tocsin_push_hub_broker_up"),
            poll_overflow: counter!("tocsin_push_hub_poll_overflow_total"),
            memory: gauge!("tocsin_push_hub_memory_bytes"),
            routed_age: LANES
                .map(|lane| histogram!("tocsin_push_hub_routed_age_seconds", "lane" => lane)),
            written_age: LANES
                .map(|lane| histogram!("tocsin_push_hub_written_age_seconds", "lane" => lane)),
        }
    }

    pub(crate) fn connection(&self, outcome: Outcome) {
        self.connections[outcome as usize].increment(1);
    }

    pub(crate) fn refusal(&self, refusal: Refusal) {
        let index = match refusal {
            Refusal::Source => 0,
            Refusal::Handshakes => 1,
            Refusal::Device(_) => 2,
            Refusal::Full => 3,
            Refusal::Draining => 4,
            Refusal::Memory => 5,
            Refusal::Resumptions => 6,
        };
        self.refusals[index].increment(1);
    }

    pub(crate) fn certificate(&self, error: CertificateError) {
        let index = match error {
            CertificateError::Missing => 0,
            CertificateError::NotADevice => 1,
            CertificateError::Expired => 2,
            CertificateError::Revoked => 3,
        };
        self.certificates[index].increment(1);
    }

    pub(crate) fn frame_in(&self, frame: &AgentFrame) {
        let index = match frame {
            AgentFrame::Hello(_) => 0,
            AgentFrame::Sync { .. } => 1,
            AgentFrame::Ack { .. } => 2,
            AgentFrame::Progress { .. } => 3,
            AgentFrame::Receipt { .. } => 4,
            AgentFrame::Unknown => 5,
            AgentFrame::Notice { .. } => 6,
            AgentFrame::Proof { .. } => 7,
            AgentFrame::Escrow { .. } => 8,
        };
        self.frames_in[index].increment(1);
    }

    pub(crate) fn frame_out(&self, frame: &HubFrame) {
        let index = match frame {
            HubFrame::Welcome(_) => 0,
            HubFrame::Command(_) => 1,
            HubFrame::Confirmed { .. } => 2,
            HubFrame::Trust { .. } => 3,
            HubFrame::Mode { .. } => 4,
            HubFrame::Reconnect(_) => 5,
            HubFrame::Unknown => 6,
            HubFrame::Checkpoint { .. } => 7,
        };
        self.frames_out[index].increment(1);
    }

    /// A session has a command of that age.
    pub(crate) fn routed(&self, command: Aged, now: Timestamp) {
        self.routed_age[command.lane()].record(command.age_secs(now));
    }

    /// A command of that age was flushed.
    pub(crate) fn written(&self, command: Aged, now: Timestamp) {
        self.written_age[command.lane()].record(command.age_secs(now));
    }

    pub(crate) fn close(&self, code: CloseCode) {
        let index = CloseCode::ALL.iter().position(|known| *known == code);
        if let Some(counter) = index.and_then(|index| self.closes.get(index)) {
            counter.increment(1);
        }
    }
}

/// A command on its way through a session, as far as its age is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aged {
    lane: Lane,
    /// When the control plane made it, by its own clock: its id says so.
    made_ms: u64,
}

impl Aged {
    /// Of a frame, if it is a command.
    pub(crate) const fn of(frame: &HubFrame) -> Option<Self> {
        match frame {
            HubFrame::Command(command) => {
                Some(Self { lane: command.lane, made_ms: command.command_id.made_at().as_millis() })
            }
            HubFrame::Welcome(_)
            | HubFrame::Confirmed { .. }
            | HubFrame::Trust { .. }
            | HubFrame::Checkpoint { .. }
            | HubFrame::Mode { .. }
            | HubFrame::Reconnect(_)
            | HubFrame::Unknown => None,
        }
    }

    const fn lane(self) -> usize {
        match self.lane {
            Lane::Urgent => 0,
            Lane::Bulk => 1,
        }
    }

    /// Nothing where the control plane's clock is ahead.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an age are below 2^53")]
    const fn age_secs(self, now: Timestamp) -> f64 {
        now.as_millis().saturating_sub(self.made_ms) as f64 / 1e3
    }
}

/// The end of the hub's own certificate.
#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
pub(crate) fn certificate_end(unix_secs: u64) {
    gauge!("tocsin_push_hub_certificate_end_seconds").set(unix_secs as f64);
}

/// The files of the hub's identity had changed.
pub(crate) fn identity_loaded(is_taken: bool) {
    let outcome = if is_taken { "taken" } else { "refused" };
    counter!("tocsin_push_hub_identities_total", "outcome" => outcome).increment(1);
}

fn describe() {
    describe_counter!(
        "tocsin_push_hub_connections_total",
        "Connections on the agent port, by how they ended before a session or that they got one"
    );
    describe_counter!(
        "tocsin_push_hub_admission_refusals_total",
        "Connections and requests turned away, by reason"
    );
    describe_counter!(
        "tocsin_push_hub_certificates_refused_total",
        "Requests whose certificate does not count although TLS accepted it, by reason"
    );
    describe_counter!(
        "tocsin_push_hub_frames_total",
        "Frames of sessions and long-polls, by direction and kind"
    );
    describe_counter!("tocsin_push_hub_closes_total", "WebSockets closed, by code");
    describe_gauge!("tocsin_push_hub_sessions", "Live sessions, by rung");
    describe_histogram!(
        "tocsin_push_hub_handshake_seconds",
        Unit::Seconds,
        "From accept to the end of TLS, by whether a session was resumed"
    );
    describe_gauge!("tocsin_push_hub_outbox_bytes", Unit::Bytes, "Bytes that wait for sessions");
    describe_counter!(
        "tocsin_push_hub_deliveries_absent_total",
        "Deliveries for devices without a session here"
    );
    describe_counter!(
        "tocsin_push_hub_upstream_dropped_total",
        "Frames of agents that found the way to the control plane full; agents repeat them"
    );
    describe_gauge!("tocsin_push_hub_upstream_waiting", "Frames that wait for the control plane");
    describe_counter!("tocsin_push_hub_broker_losses_total", "Times that the broker went away");
    describe_gauge!("tocsin_push_hub_broker_up", "1 while the broker delivers");
    describe_counter!(
        "tocsin_push_hub_poll_overflow_total",
        "Frames that did not fit into a long-poll's answer; agents ask for them again"
    );
    describe_gauge!(
        "tocsin_push_hub_certificate_end_seconds",
        Unit::Seconds,
        "End of the hub's own certificate, since the Unix epoch"
    );
    describe_counter!(
        "tocsin_push_hub_identities_total",
        "Changes of the files of the hub's identity, by whether they were taken"
    );
    describe_gauge!("tocsin_push_hub_memory_bytes", Unit::Bytes, "Resident memory of the process");
    describe_histogram!(
        "tocsin_push_hub_routed_age_seconds",
        Unit::Seconds,
        "From the making of a command to its session's having it from the broker, by lane"
    );
    describe_histogram!(
        "tocsin_push_hub_written_age_seconds",
        Unit::Seconds,
        "From the making of a command to the flush of its frame, by lane"
    );
}
