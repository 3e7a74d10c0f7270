//! The one table of close codes. Each says whether the agent comes back, and how.

use serde::{Deserialize, Serialize};

/// Why a WebSocket was closed. Codes below 4000 are those of RFC 6455 (7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseCode {
    /// The peer is done.
    Normal,
    /// The hub or the agent stops.
    GoingAway,
    /// A WebSocket protocol error.
    Protocol,
    /// A binary message: frames are text.
    Unsupported,
    /// Text that is not UTF-8.
    NotUtf8,
    /// Too many bytes, too many frames, or bytes that never make a message.
    Flood,
    /// A message beyond its bound.
    TooBig,
    /// The hub's own fault.
    Internal,
    /// A newer session of the same device took over.
    Replaced,
    /// The agent does not read what is sent to it.
    Slow,
    /// Text that is no frame, or a frame that does not belong here.
    Malformed,
    /// No `hello` in time.
    HelloTimeout,
    /// Silence for too long.
    Dead,
    /// The device's enrollment was revoked.
    Revoked,
    /// The device's certificate is past its end.
    CertificateExpired,
    /// The hub drains: go to another.
    Drain,
    /// The hub is over its budget: come back later.
    Overloaded,
}

/// What an agent does after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Connects again after its back-off.
    Reconnect,
    /// Connects elsewhere, or here after its back-off.
    ReconnectElsewhere,
    /// Renews its certificate, then connects again.
    Renew,
    /// Does not come back by itself, but for slow check-ins.
    Stop,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 17] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::NotUtf8,
        Self::Flood,
        Self::TooBig,
        Self::Internal,
        Self::Replaced,
        Self::Slow,
        Self::Malformed,
        Self::HelloTimeout,
        Self::Dead,
        Self::Revoked,
        Self::CertificateExpired,
        Self::Drain,
        Self::Overloaded,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::NotUtf8 => 1007,
            Self::Flood => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Replaced => 4001,
            Self::Slow => 4002,
            Self::Malformed => 4003,
            Self::HelloTimeout => 4004,
            Self::Dead => 4005,
            Self::Revoked => 4006,
            Self::CertificateExpired => 4007,
            Self::Drain => 4008,
            Self::Overloaded => 4009,
        }
    }

    /// The code of that number; `None` for one this version does not know.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// The reason as the wire, the log and the metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going_away",
            Self::Protocol => "protocol",
            Self::Unsupported => "unsupported",
            Self::NotUtf8 => "not_utf8",
            Self::Flood => "flood",
            Self::TooBig => "too_big",
            Self::Internal => "internal",
            Self::Replaced => "replaced",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::HelloTimeout => "hello_timeout",
            Self::Dead => "dead",
            Self::Revoked => "revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::Drain => "drain",
            Self::Overloaded => "overloaded",
        }
    }

    /// What an agent does after it.
    pub const fn advice(self) -> Advice {
        match self {
            Self::Normal
            | Self::Protocol
            | Self::Unsupported
            | Self::NotUtf8
            | Self::Flood
            | Self::TooBig
            | Self::Internal
            | Self::Replaced
            | Self::Slow
            | Self::Malformed
            | Self::HelloTimeout
            | Self::Dead => Advice::Reconnect,
            Self::GoingAway | Self::Drain | Self::Overloaded => Advice::ReconnectElsewhere,
            Self::CertificateExpired => Advice::Renew,
            Self::Revoked => Advice::Stop,
        }
    }
}
