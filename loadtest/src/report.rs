//! What a run found: as a table for people and as JSON for programs (README.md has the schema).
//!
//! Owns both forms and the thresholds. Judges nothing by itself.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::book::{Counts, Stage};

#[cfg(test)]
mod tests;

/// What the JSON form calls itself.
pub const SCHEMA: &str = "tocsin-loadtest-1";
/// The longest latency that is told apart, in microseconds; longer ones count as this.
const LONGEST_MICROS: u64 = 3_600_000_000;
/// Digits of a latency that are kept (HDR histogram).
const DIGITS: u8 = 3;

/// Latencies in milliseconds; all zero when there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half were no longer.
    pub p50_ms: f64,
    /// Nine of ten were no longer.
    pub p90_ms: f64,
    /// 99 of 100 were no longer.
    pub p99_ms: f64,
    /// 999 of 1,000 were no longer.
    #[serde(rename = "p99.9_ms")]
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latency {
    /// Those of these durations.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, DIGITS)
            .expect("one microsecond to an hour with three digits are sound bounds");
        for duration in durations {
            histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
        }
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(histogram.max()),
        }
    }

    const fn get(&self, quantile: Quantile) -> f64 {
        match quantile {
            Quantile::P50 => self.p50_ms,
            Quantile::P90 => self.p90_ms,
            Quantile::P99 => self.p99_ms,
            Quantile::P999 => self.p999_ms,
            Quantile::Max => self.max_ms,
        }
    }
}

fn millis(micros: u64) -> f64 {
    // An hour has fewer microseconds than 32 bits count.
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

/// A number of a [`Latency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantile {
    P50,
    P90,
    P99,
    P999,
    Max,
}

impl Quantile {
    const ALL: [(Self, &str); 5] = [
        (Self::P50, "p50"),
        (Self::P90, "p90"),
        (Self::P99, "p99"),
        (Self::P999, "p99.9"),
        (Self::Max, "max"),
    ];
}

/// How slow an ack may be: `p50=5,p99=25`, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds(Vec<(Quantile, &'static str, f64)>);

/// A text that is no list of thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not thresholds in milliseconds such as p50=5,p99=25; known are p50 p90 p99 p99.9 max")]
pub struct ParseThresholdsError;

impl FromStr for Thresholds {
    type Err = ParseThresholdsError;

    fn from_str(text: &str) -> Result<Self, ParseThresholdsError> {
        let one = |part: &str| {
            let (name, most) = part.split_once('=')?;
            let known = Quantile::ALL.into_iter().find(|(_, known)| *known == name.trim());
            let most = most.trim().parse().ok().filter(|most: &f64| most.is_finite())?;
            let (quantile, name) = known?;
            Some((quantile, name, most))
        };
        let parts = text.split(',').map(|part| one(part).ok_or(ParseThresholdsError));
        parts.collect::<Result<_, _>>().map(Self)
    }
}

impl Thresholds {
    /// What is beyond them, for a person. Without any latency, every threshold is missed.
    pub fn missed(&self, latency: &Latency) -> Vec<String> {
        let over = |(quantile, name, most): &(Quantile, &str, f64)| {
            let found = latency.get(*quantile);
            if latency.count == 0 {
                Some(format!("{name} was not measured, at most {most} ms are allowed"))
            } else if found > *most {
                Some(format!("{name} is {found:.2} ms, at most {most} ms are allowed"))
            } else {
                None
            }
        };
        self.0.iter().filter_map(over).collect()
    }
}

/// What orders took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Orders {
    /// What was ordered.
    pub verb: &'static str,
    /// The intended rate.
    pub rate_per_sec: f64,
    /// The rate at which orders were answered.
    pub achieved_per_sec: f64,
    /// Connections to the operator's port.
    pub connections: usize,
    /// What came of them.
    pub counts: Counts,
    /// Latencies by stage, from the intended moment.
    pub stages: BTreeMap<Stage, Latency>,
    /// Thresholds that were missed.
    pub missed: Vec<String>,
}

/// What idle connections cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Idle {
    /// How long they were watched, in seconds.
    pub secs: f64,
    /// Sessions that ended meanwhile.
    pub dropped: u64,
    /// The hub's process, if it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<IdleHub>,
}

/// What idle connections cost the hub's process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IdleHub {
    /// Its proportional set size before the swarm came, in KiB.
    pub before_kib: u64,
    /// The same with the swarm.
    pub after_kib: u64,
    /// The difference for each session, in KiB.
    pub kib_per_session: f64,
    /// Processor time for each session and second, in microseconds.
    pub cpu_us_per_session_sec: f64,
}

/// What connecting takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connecting {
    /// All of the swarm once, with full handshakes.
    pub first: Wave,
    /// All again, after every socket was cut at once.
    pub storm: Wave,
    /// Whether agents resumed TLS sessions in the storm.
    pub resumed: bool,
}

/// A wave of connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Wave {
    /// Until all were there, in seconds.
    pub secs: f64,
    /// Connections per second.
    pub per_sec: f64,
    /// Each from its first TCP packet to `welcome`, only those that succeeded.
    pub latency: Latency,
    /// Processor time of the hub's process for each connection, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
}

/// What a scenario found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "scenario", rename_all = "kebab-case")]
pub enum Findings {
    /// See [`Orders`].
    OrderToAck(Orders),
    /// See [`Idle`].
    Idle(Idle),
    /// See [`Connecting`].
    Connect(Connecting),
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The form of this document: [`SCHEMA`].
    pub schema: &'static str,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// Devices in the swarm.
    pub agents: usize,
    /// Whether it ended before its time, by Ctrl-C.
    pub interrupted: bool,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
    /// What went wrong, by kind.
    pub errors: BTreeMap<String, u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.findings {
            Findings::OrderToAck(orders) => orders.write(self.agents, f)?,
            Findings::Idle(idle) => idle.write(self.agents, f)?,
            Findings::Connect(connecting) => connecting.write(self.agents, f)?,
        }
        f.write_str("errors     ")?;
        if self.errors.is_empty() {
            f.write_str("  none")?;
        }
        for (kind, count) in &self.errors {
            write!(f, "  {count} × {kind}")?;
        }
        f.write_char('\n')?;
        if self.interrupted { f.write_str("interrupted before its end\n") } else { Ok(()) }
    }
}

/// The heading of a table of latencies, and its rows.
fn heading(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let titles = ["p50", "p90", "p99", "p99.9", "max"];
    write!(f, "{:<11}{:>8}", "ms", "count")?;
    titles.into_iter().try_for_each(|title| write!(f, "{title:>10}"))?;
    f.write_char('\n')
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    write!(f, "{name:<11}{:>8}", latency.count)?;
    for (quantile, _) in Quantile::ALL {
        write!(f, "{:>10.2}", latency.get(quantile))?;
    }
    f.write_char('\n')
}

impl Orders {
    fn write(&self, agents: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, rate_per_sec, achieved_per_sec, connections, counts, .. } = self;
        writeln!(
            f,
            "order-to-ack: {verb}, {agents} agents, {rate_per_sec:.1} orders/s intended, \
             {achieved_per_sec:.1} answered, {connections} connections"
        )?;
        heading(f)?;
        for (stage, latency) in &self.stages {
            row(f, stage.as_str(), latency)?;
        }
        let Counts { ordered, failed, received, acked, confirmed, .. } = counts;
        let Counts { lost, doubled, redelivered, unanswered, .. } = counts;
        writeln!(
            f,
            "orders       {ordered} ordered, {failed} failed, {received} received, {acked} acked, \
             {confirmed} confirmed"
        )?;
        writeln!(
            f,
            "             {lost} lost, {doubled} doubled, {redelivered} redelivered, \
             {unanswered} unanswered"
        )?;
        self.missed.iter().try_for_each(|missed| writeln!(f, "missed       {missed}"))
    }
}

impl Idle {
    fn write(&self, agents: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secs, dropped, hub } = self;
        writeln!(f, "idle: {agents} agents for {secs:.0} s, {dropped} sessions dropped")?;
        let Some(hub) = hub else { return Ok(()) };
        let IdleHub { before_kib, after_kib, kib_per_session, cpu_us_per_session_sec } = hub;
        writeln!(
            f,
            "memory       {kib_per_session:.1} KiB per session (PSS {before_kib} KiB before, \
             {after_kib} KiB after)"
        )?;
        writeln!(f, "processor    {cpu_us_per_session_sec:.2} µs per session and second")
    }
}

impl Connecting {
    fn write(&self, agents: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.resumed { "tickets allowed" } else { "full handshakes" };
        writeln!(f, "connect: {agents} agents; the storm with {how}")?;
        heading(f)?;
        row(f, "first", &self.first.latency)?;
        row(f, "storm", &self.storm.latency)?;
        for (name, wave) in [("first", &self.first), ("storm", &self.storm)] {
            let Wave { secs, per_sec, cpu_us, .. } = wave;
            write!(f, "{name:<13}all there after {secs:.2} s, {per_sec:.0}/s")?;
            if let Some(cpu_us) = cpu_us {
                write!(f, ", {cpu_us:.0} µs of the hub's processor time each")?;
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}
