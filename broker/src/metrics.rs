//! What the bus counts.
//!
//! Owns the names, the help and the handles, made once. Labels are closed enums. The bus inside
//! one process counts nothing: there is nothing between it and whoever uses it.

use std::fmt;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its connection is gone, or the server was abandoned.
    Lost,
    /// A newer one has taken its place.
    Replaced,
    /// Its reader did not keep up.
    Slow,
    /// What it sent itself did not come.
    Silent,
}

impl End {
    const ALL: [Self; 4] = [Self::Lost, Self::Replaced, Self::Slow, Self::Silent];

    /// As the metric and the log spell it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Replaced => "replaced",
            Self::Slow => "slow",
            Self::Silent => "silent",
        }
    }
}

/// What was read and not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A message to a hub.
    Downstream,
    /// A message from a hub.
    Upstream,
    /// An entry of presence.
    Presence,
}

impl Refused {
    const ALL: [Self; 3] = [Self::Downstream, Self::Upstream, Self::Presence];

    const fn label(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Presence => "presence",
        }
    }
}

/// The handles. Made after the process's recorder was installed; before, they count nothing.
pub(crate) struct Metrics {
    /// Whether the servers are found and are primaries.
    pub(crate) up: Gauge,
    /// Times that the servers were found.
    pub(crate) found: Counter,
    /// Times that they were not, or were abandoned.
    pub(crate) failures: Counter,
    /// Live subscriptions.
    pub(crate) subscriptions: Gauge,
    /// From a subscription's message to itself to its arrival.
    pub(crate) probe: Histogram,
    /// Messages that another reader had taken and not acknowledged.
    pub(crate) claimed: Counter,
    ended: [Counter; End::ALL.len()],
    refused: [Counter; Refused::ALL.len()],
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let connections = "tocsin_broker_connections_total";
        let ended = "tocsin_broker_subscriptions_ended_total";
        let refused = "tocsin_broker_messages_refused_total";
        Self {
            up: gauge!("tocsin_broker_up"),
            found: counter!(connections, "outcome" => "found"),
            failures: counter!(connections, "outcome" => "failed"),
            subscriptions: gauge!("tocsin_broker_subscriptions"),
            probe: histogram!("tocsin_broker_probe_seconds"),
            claimed: counter!("tocsin_broker_claimed_total"),
            ended: End::ALL.map(|end| counter!(ended, "reason" => end.label())),
            refused: Refused::ALL.map(|kind| counter!(refused, "kind" => kind.label())),
        }
    }

    pub(crate) fn ended(&self, end: End) {
        let at = End::ALL.iter().position(|known| *known == end).unwrap_or_default();
        self.ended[at].increment(1);
    }

    pub(crate) fn refused(&self, kind: Refused) {
        let at = Refused::ALL.iter().position(|known| *known == kind).unwrap_or_default();
        self.refused[at].increment(1);
    }
}

fn describe() {
    describe_gauge!("tocsin_broker_up", "1 while the servers are found and are primaries.");
    describe_counter!(
        "tocsin_broker_connections_total",
        "Times that the servers were looked for, or abandoned, by outcome."
    );
    describe_gauge!("tocsin_broker_subscriptions", "Live subscriptions of this process.");
    describe_counter!(
        "tocsin_broker_subscriptions_ended_total",
        "Subscriptions that ended by themselves, by reason."
    );
    describe_histogram!(
        "tocsin_broker_probe_seconds",
        Unit::Seconds,
        "From a subscription's message to itself to its arrival."
    );
    describe_counter!(
        "tocsin_broker_claimed_total",
        "Messages that another reader had taken and not acknowledged."
    );
    describe_counter!(
        "tocsin_broker_messages_refused_total",
        "What was read and is not ours, or beyond its bound, by kind."
    );
}
