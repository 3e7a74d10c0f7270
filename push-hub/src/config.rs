//! What a hub can be told: names, addresses, limits.
//!
//! Owns the defaults and their validation. Must not read files or the environment: whoever
//! composes the process does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use protocol::id::HubId;
use protocol::limits;
use protocol::session::hub::Pace;
use runtime::tls::TicketConfig;
use serde::Deserialize;

use crate::socket::SocketConfig;

#[cfg(test)]
mod tests;

/// The settings of one hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The hub's name, unique among the hubs of one broker; `hub` by default.
    pub name: HubId,
    /// Where agents connect; port 7444 of every address by default. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether WebSockets are offered; yes by default. Without them agents long-poll, which is for
    /// sites whose middleboxes break upgraded connections.
    pub websocket: bool,
    /// Interval of WebSocket pings; 25 s by default, since common proxies cut at 60 s.
    #[serde(with = "runtime::config::duration")]
    pub heartbeat: Duration,
    /// Silence after which an agent is dead; 45 s by default.
    #[serde(with = "runtime::config::duration")]
    pub dead_after: Duration,
    /// Interval of check-ins under a healthy session, told to the agents; 15 min by default.
    #[serde(with = "runtime::config::duration")]
    pub check_in: Duration,
    /// How long a long-poll is held when there is nothing to say; 50 s by default.
    #[serde(with = "runtime::config::duration")]
    pub poll_hold: Duration,
    /// How often the broker is probed; 1 s by default.
    #[serde(with = "runtime::config::duration")]
    pub probe_every: Duration,
    /// How often the presence of every session is written again, in case an entry was lost; 1 min
    /// by default.
    #[serde(with = "runtime::config::duration")]
    pub reassert_every: Duration,
    /// When the hub drains, agents are told to leave within so much time, each at a moment of its
    /// own; 20 s by default. Few sessions take less: see `Core::spread`. Shorter than the grace of
    /// the drain.
    #[serde(with = "runtime::config::duration")]
    pub drain_spread: Duration,
    /// Other hubs, such as `https://hub2.example:7444`, to name to agents when this one drains or
    /// has no room; none by default. Agents follow only to hubs that their signed configuration
    /// names as well.
    pub other_hubs: Vec<String>,
    /// How agents that come back are spared half of the handshake.
    pub tickets: TicketConfig,
    /// Who is let in, and how fast.
    pub admission: AdmissionConfig,
    /// The limits of one WebSocket.
    pub socket: SocketConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "hub".parse().expect("three letters are a name"),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7444)),
            websocket: true,
            heartbeat: limits::HEARTBEAT,
            dead_after: limits::DEAD_AFTER,
            check_in: limits::CHECK_IN_HEALTHY,
            poll_hold: limits::LONG_POLL_HOLD,
            probe_every: Duration::from_secs(1),
            reassert_every: Duration::from_secs(60),
            drain_spread: Duration::from_secs(20),
            other_hubs: Vec::new(),
            tickets: TicketConfig::default(),
            admission: AdmissionConfig::default(),
            socket: SocketConfig::default(),
        }
    }
}

/// Who is let in. A rate of 0 means: no limit of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Connections between accept and hello at a time; further ones wait in the kernel's
    /// backlog. 4096 by default: who is to go before others must have been accepted.
    pub max_handshakes: u32,
    /// Sessions at a time; 100,000 by default. Beyond, agents are sent away with `Retry-After`.
    pub max_sessions: u32,
    /// Resident memory of the process, beyond which no further session is let in: bytes; 0, no
    /// limit, by default.
    pub max_memory_bytes: u64,
    /// Full TLS handshakes per second; 1000 by default.
    pub handshakes_per_sec: u32,
    /// Full TLS handshakes at once; 2000 by default.
    pub handshake_burst: u32,
    /// Resumed TLS handshakes per second, which cost half; 2000 by default.
    pub resumptions_per_sec: u32,
    /// Resumed TLS handshakes at once; 4000 by default.
    pub resumption_burst: u32,
    /// Connections per second from one address (IPv6: one /64); 100 by default, since many
    /// devices may share one address.
    pub source_per_sec: u32,
    /// Connections at once from one address; 500 by default.
    pub source_burst: u32,
    /// Requests per minute of one device; 60 by default: a long-poll is one request per answer.
    pub device_per_min: u32,
    /// Requests at once of one device; 20 by default.
    pub device_burst: u32,
    /// Frames per second of one session; 50 by default.
    pub frames_per_sec: u32,
    /// Frames at once of one session; 600 by default.
    pub frame_burst: u32,
    /// For the TLS handshake; 5 s by default.
    #[serde(with = "runtime::config::duration")]
    pub tls_timeout: Duration,
    /// For a request's head; 3 s by default.
    #[serde(with = "runtime::config::duration")]
    pub head_timeout: Duration,
    /// For `hello` on a WebSocket, and for the body of a long-poll; 5 s by default.
    #[serde(with = "runtime::config::duration")]
    pub hello_timeout: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            max_handshakes: 4096,
            max_sessions: 100_000,
            max_memory_bytes: 0,
            handshakes_per_sec: 1000,
            handshake_burst: 2000,
            resumptions_per_sec: 2000,
            resumption_burst: 4000,
            source_per_sec: 100,
            source_burst: 500,
            device_per_min: 60,
            device_burst: 20,
            frames_per_sec: 50,
            frame_burst: 600,
            tls_timeout: limits::TLS_TIMEOUT,
            head_timeout: limits::UPGRADE_TIMEOUT,
            hello_timeout: limits::HELLO_TIMEOUT,
        }
    }
}

/// Why a configuration cannot be used. Names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {rule}")]
pub struct InvalidConfig {
    /// The key, with its table.
    pub key: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let (socket, admission) = (&self.socket, &self.admission);
        let second = Duration::from_secs(1);
        let rules = [
            (self.heartbeat >= second / 100, "heartbeat", "must be at least 10 ms"),
            (self.heartbeat < self.dead_after, "dead_after", "must be longer than heartbeat"),
            (self.poll_hold <= limits::LONG_POLL_HOLD, "poll_hold", "must be at most 50 s"),
            (!self.probe_every.is_zero(), "probe_every", "must be above 0"),
            (self.probe_every <= 5 * second, "probe_every", "must be at most 5 s"),
            (!self.reassert_every.is_zero(), "reassert_every", "must be above 0"),
            (self.other_hubs.len() <= limits::LIST_ENTRIES, "other_hubs", "has too many entries"),
            (
                self.other_hubs.iter().all(|hub| is_address(hub)),
                "other_hubs",
                "must be addresses such as https://hub2.example:7444",
            ),
            (
                (TicketConfig::SHORTEST..=TicketConfig::LONGEST)
                    .contains(&self.tickets.rotate_every),
                "tickets.rotate_every",
                "must be 1 min to 1 day",
            ),
            (
                (1024..=limits::FRAME_BYTES).contains(&socket.max_message_bytes),
                "socket.max_message_bytes",
                "must be 1024 to 65536",
            ),
            (
                (256..=16 * 1024).contains(&socket.read_buffer_bytes),
                "socket.read_buffer_bytes",
                "must be 256 to 16384",
            ),
            (
                socket.write_buffer_bytes <= limits::FRAME_BYTES,
                "socket.write_buffer_bytes",
                "must be at most 65536",
            ),
            (socket.burst_bytes >= 4096, "socket.burst_bytes", "must be at least 4096"),
            (socket.bytes_per_sec >= 1024, "socket.bytes_per_sec", "must be at least 1024"),
            (socket.burst_controls > 0, "socket.burst_controls", "must be above 0"),
            (socket.controls_per_sec > 0, "socket.controls_per_sec", "must be above 0"),
            (!socket.write_stall.is_zero(), "socket.write_stall", "must be above 0"),
            (admission.max_handshakes > 0, "admission.max_handshakes", "must be above 0"),
            (admission.max_sessions > 0, "admission.max_sessions", "must be above 0"),
            (admission.frame_burst > 0, "admission.frame_burst", "must be above 0"),
            (admission.frames_per_sec > 0, "admission.frames_per_sec", "must be above 0"),
            (!admission.tls_timeout.is_zero(), "admission.tls_timeout", "must be above 0"),
            (!admission.head_timeout.is_zero(), "admission.head_timeout", "must be above 0"),
            (!admission.hello_timeout.is_zero(), "admission.hello_timeout", "must be above 0"),
        ];
        rules
            .into_iter()
            .find(|(holds, _, _)| !holds)
            .map_or(Ok(()), |(_, key, rule)| Err(InvalidConfig { key, rule }))
    }

    /// This one with everything of `next` that takes effect while the hub runs.
    #[must_use]
    pub fn followed_by(&self, next: &Self) -> Self {
        let Self { name, listen, tickets, .. } = self.clone();
        Self { name, listen, tickets, ..next.clone() }
    }

    /// The keys by which `next` differs from what a hub of these settings can follow.
    #[must_use]
    pub fn takes_restart(&self, next: &Self) -> Vec<&'static str> {
        [
            // The rest is what `followed_by` takes over.
            ("hub.name", self.name != next.name),
            ("hub.listen", self.listen != next.listen),
            ("hub.tickets", self.tickets != next.tickets),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace { heartbeat: self.heartbeat, dead_after: self.dead_after, check_in: self.check_in }
    }
}

/// Whether agents can read it out of a header that lists addresses.
fn is_address(text: &str) -> bool {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    let port = text.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/').parse::<u16>());
    text.len() <= limits::ADDRESS_BYTES
        && text.bytes().all(is_visible)
        && matches!(port, Some(Ok(_)))
}
