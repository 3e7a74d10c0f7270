//! The metrics of this crate, with their help texts.
//!
//! Owns names and descriptions; must not declare those of other crates.

use metrics::{describe_counter, describe_gauge};

/// Open connections, by `listener`.
pub(crate) const CONNECTIONS: &str = "tocsin_runtime_connections";
/// Ended connections, by `listener` and `reason`.
pub(crate) const CONNECTIONS_CLOSED: &str = "tocsin_runtime_connections_closed_total";

/// Gives the installed recorder the help texts.
pub(crate) fn describe() {
    describe_gauge!(CONNECTIONS, "Open connections, handshakes included");
    describe_counter!(CONNECTIONS_CLOSED, "Connections that ended, by reason");
}
