//! Logs to standard error and metrics for Prometheus.
//!
//! Owns the process-wide subscriber and recorder; must not declare anybody's metrics: each crate
//! describes its own.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

pub use metrics_exporter_prometheus::PrometheusHandle;

#[cfg(test)]
mod tests;

/// Upper bounds of the buckets of every histogram named `…_seconds`: from a push on a local
/// network to the slowest rung of the ladder.
const SECONDS_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// What to log, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObservabilityConfig {
    /// Directives as `tracing_subscriber::EnvFilter` takes them; `info` by default.
    pub filter: String,
    /// One line of text for people (default) or one JSON object for machines.
    pub format: LogFormat,
}

impl Default for ObservabilityConfig {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ObservabilityError {
    /// The filter does not parse.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// What was configured.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else has already set the process's subscriber.
    #[error("logging is already set up")]
    AlreadySet,
}

/// Sends the process's logs to standard error. Once per process, from `main`.
///
/// # Errors
/// See [`ObservabilityError`].
pub fn init(config: &ObservabilityConfig) -> Result<(), ObservabilityError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| ObservabilityError::Filter { filter: config.filter.clone(), source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let outcome = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|_| ObservabilityError::AlreadySet)
}

/// Installs the process's metrics recorder on the first call, and answers the handle that renders
/// it on every call. Whoever renders must run its upkeep too; [`crate::admin::Admin`] does both.
#[must_use]
pub fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .expect("the bucket list is not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another metrics recorder is installed, ours stays empty");
    }
    crate::metrics::describe();
    handle
}
