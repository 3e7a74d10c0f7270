//! Logs to standard error and metrics for Prometheus.
//!
//! Owns the process-wide subscriber and recorder; must not declare anybody's metrics: each crate
//! describes its own.

use std::io::IsTerminal as _;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

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
