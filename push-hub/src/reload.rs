//! Settings that are read again while the hub runs.
//!
//! Owns putting them into effect. No session ends by it, and none that stands is given another pace than
//! the one that it was told.

use std::sync::Arc;

use crate::config::{Config, InvalidConfig};
use crate::core::Core;

/// Puts other settings into effect, as far as that takes no restart.
#[derive(Debug, Clone)]
pub struct Reload(Arc<Core>);

impl Reload {
    /// Of that hub.
    pub(crate) const fn new(core: Arc<Core>) -> Self {
        Self(core)
    }

    /// Takes every setting but those that it names: these take a restart, and stay as they were.
    /// What is new counts for the next connection, request or session.
    ///
    /// # Errors
    /// When a setting cannot be meant; nothing changes then.
    pub fn follow(&self, next: &Config) -> Result<Vec<&'static str>, InvalidConfig> {
        next.validate()?;
        let present = self.0.config();
        self.0.admission.follow(&next.admission);
        self.0.config.store(Arc::new(present.followed_by(next)));
        Ok(present.takes_restart(next))
    }
}
