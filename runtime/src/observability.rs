//! Logs to standard error and metrics for Prometheus.
//!
//! Owns the process-wide subscriber and recorder; must not declare anybody's metrics: each crate
//! describes its own.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[cfg(feature = "server")]
pub use self::recorder::{PrometheusHandle, recorder};

#[cfg(feature = "server")]
mod recorder;
#[cfg(test)]
mod tests;

/// What to log, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObservabilityConfig {
    /// A level, and levels of single modules, such as `info,push_hub=debug`; `info` by default.
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
    // By module and level only: filters by span fields would bring a regular-expression engine into
    // every agent.
    let filter: Targets = config
        .filter
        .parse()
        .map_err(|source| ObservabilityError::Filter { filter: config.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    let outcome = match config.format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init()
        }
    };
    outcome.map_err(|_| ObservabilityError::AlreadySet)
}
