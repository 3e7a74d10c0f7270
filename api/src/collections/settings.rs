//! How much of what devices collect is kept, and for how long.

use std::time::Duration;

use serde::Deserialize;

/// Bounds of what devices collected.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectionConfig {
    /// Bytes in the store, all collections together; a device waits with what does not fit.
    pub total_bytes: u64,
    /// How long one is kept, from its receipt on.
    #[serde(with = "runtime::config::duration")]
    pub kept: Duration,
}

impl Default for CollectionConfig {
    fn default() -> Self {
        Self { total_bytes: 8 * 1024 * 1024 * 1024, kept: Duration::from_secs(30 * 24 * 60 * 60) }
    }
}

impl CollectionConfig {
    /// The setting that cannot be meant, if there is one.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let year = Duration::from_secs(366 * 24 * 60 * 60);
        let lasts = (Duration::from_secs(60)..=year).contains(&self.kept);
        (!lasts).then_some(("collections.kept", "must be one minute to 366 days"))
    }
}
