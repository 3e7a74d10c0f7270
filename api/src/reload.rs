//! Settings that are read again while the control plane runs.
//!
//! Owns which those are. Nobody's connection ends by it.

use std::sync::Arc;

use crate::app::App;
use crate::config::{Config, ConfigError, Policy};

/// Puts another configuration into effect, as far as that takes no restart.
#[derive(Debug, Clone)]
pub struct Reload(App);

impl Reload {
    /// Of that control plane.
    pub(crate) const fn new(app: App) -> Self {
        Self(app)
    }

    /// Rates, budgets, first waves and what takes a second factor. Whether everything else is as it was
    /// at the start: what is not takes a restart.
    ///
    /// # Errors
    /// When a setting cannot be meant; nothing changes then.
    pub fn follow(&self, next: &Config) -> Result<bool, ConfigError> {
        next.check()?;
        self.0.limits.follow(next);
        self.0.policy.store(Arc::new(Policy::of(next)));
        Ok(self.0.config.followed_by(next) == *next)
    }
}
