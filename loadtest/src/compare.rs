//! Two runs or more side by side: the same numbers, and their ratios.
//!
//! Pure arithmetic. Says nothing of what is good: for most numbers less is better, for rates more.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::latency::Latency;
use crate::report::{PhaseReport, Report, Stages};
use crate::require::number;

#[cfg(test)]
mod tests;

/// Numbers that are compared beside the latencies, by their path.
const PATHS: [&str; 18] = [
    "hub.kib_per_connection",
    "hub.cpu_us_per_connection_second",
    "hub.cpu_us_per_connect",
    "hub.cpu_us_per_command",
    "platform.cpu_us_per_command",
    "redis.cpu_us_per_command",
    "kernel.socket_kib_per_connection",
    "kernel.slab_kib_per_connection",
    "stalled.hub_kib_each",
    "stalled.others_p99_ms_more",
    "harness.cpu_us_per_message",
    "rates.stored_per_sec",
    "rates.connects_per_sec",
    "rates.back_secs",
    "rates.last_ack_ms",
    "counts.lost",
    "counts.redelivered",
    "sessions.dropped",
];
/// Of each latency.
const QUANTILES: [&str; 3] = ["p50", "p99", "p999"];

/// One number of every run.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its path in the JSON form.
    pub path: String,
    /// Its value in each run; `None` where it was not measured.
    pub values: Vec<Option<f64>>,
}

/// The latencies of a report with their names.
pub fn latencies(report: &Report) -> Vec<(String, &Latency)> {
    let latencies = &report.latency_ms;
    let own = Stages::named(&latencies.unicast).into_iter().map(|(name, it)| (name.to_owned(), it));
    let group =
        Stages::named(&latencies.group).into_iter().map(|(name, it)| (format!("group.{name}"), it));
    let rest = [
        ("connect", &latencies.connect),
        ("reconnect", &latencies.reconnect),
        ("hub_broadcast", &latencies.hub_broadcast),
    ];
    let rest = rest.map(|(name, it)| (name.to_owned(), it));
    let during = Stages::named(&latencies.during)
        .into_iter()
        .map(|(name, it)| (format!("during.{name}"), it));
    own.chain(group).chain(during).chain(rest).collect()
}

/// The latencies from order to ack of each phase, with their paths: of what was ordered in it, and of
/// that part of it in which something went on.
pub fn phase_latencies(report: &Report) -> Vec<(String, &Latency)> {
    report.phases.iter().flat_map(of_phase).collect()
}

fn of_phase(phase: &PhaseReport) -> Vec<(String, &Latency)> {
    let (name, latencies) = (&phase.name, phase.latency_ms.as_ref());
    let own = latencies.map(|own| (format!("phases.{name}.latency_ms.acked"), &own.unicast.acked));
    let group =
        latencies.map(|own| (format!("phases.{name}.latency_ms.group.acked"), &own.group.acked));
    let during = phase.during.as_ref();
    let during =
        during.map(|own| (format!("phases.{name}.during.latency_ms.acked"), &own.latency_ms.acked));
    own.into_iter().chain(group).chain(during).collect()
}

/// How often `first` goes into `other`; `None` without both, or when the first is nothing.
pub fn ratio(first: Option<f64>, other: Option<f64>) -> Option<f64> {
    let (first, other) = (first?, other?);
    (first.abs() > f64::EPSILON).then(|| other / first)
}

/// Every number that at least one of the runs has.
pub fn rows(reports: &[Report]) -> Vec<Row> {
    let documents: Vec<_> =
        reports.iter().map(|report| report.json().unwrap_or_default()).collect();
    let names = reports.first().map(latencies).unwrap_or_default();
    let of_latency = |(name, _)| QUANTILES.map(|quantile| format!("latency_ms.{name}.{quantile}"));
    let phases = reports.first().map(phase_latencies).unwrap_or_default().into_iter();
    let of_phase = |(path, _)| QUANTILES.map(|quantile| format!("{path}.{quantile}"));
    let paths = names.into_iter().flat_map(of_latency).chain(phases.flat_map(of_phase));
    let paths = paths.chain(PATHS.map(str::to_owned));
    let row = |path: String| {
        let values = documents.iter().map(|document| number(document, &path)).collect();
        Row { path, values }
    };
    let has_any = |row: &Row| row.values.iter().any(Option::is_some);
    paths.map(row).filter(has_any).collect()
}

/// The comparison as a table for people.
pub fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<36}", "");
    for (at, report) in reports.iter().enumerate() {
        let _ = write!(text, "{:>16}", report.label);
        if at > 0 {
            let _ = write!(text, "{:>8}", "ratio");
        }
    }
    text.push('\n');
    for Row { path, values } in rows(reports) {
        let _ = write!(text, "{path:<36}");
        for (at, value) in values.iter().enumerate() {
            let value_text = value.map_or("–".to_owned(), |value| format!("{value:.3}"));
            let _ = write!(text, "{value_text:>16}");
            if at > 0 {
                let ratio = ratio(values[0], *value);
                let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(text, "{ratio:>8}");
            }
        }
        text.push('\n');
    }
    text
}

/// What requirements are judged by: the last report, and under `ratio` every number of it divided
/// by that of the first.
pub fn judged(reports: &[Report]) -> Value {
    let last = reports.last().and_then(|report| report.json().ok());
    let Some(Value::Object(mut document)) = last else { return json!({}) };
    let mut ratios = Map::new();
    for Row { path, values } in rows(reports) {
        let last = values.last().copied().flatten();
        if let Some(ratio) = ratio(values.first().copied().flatten(), last) {
            put(&mut ratios, &path, ratio);
        }
    }
    document.insert("ratio".to_owned(), Value::Object(ratios));
    Value::Object(document)
}

fn put(into: &mut Map<String, Value>, path: &str, value: f64) {
    match path.split_once('.') {
        None => {
            into.insert(path.to_owned(), json!(value));
        }
        Some((word, rest)) => {
            let inner = into.entry(word).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
