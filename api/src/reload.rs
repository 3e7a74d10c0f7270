//! What is read again while the control plane runs: settings and the authority.
//!
//! Owns what of them takes effect. Nobody's connection ends by it.

use std::sync::Arc;

use crate::app::App;
use crate::config::{Config, ConfigError, Policy};
use crate::housekeeping::{ListenerError, Listeners};
use crate::installation::{self, InstallationError};
use crate::pki::{Authority, PkiError};

/// Why the authority stays the one that it was.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its files cannot be used.
    #[error("the authority cannot be loaded")]
    Files(#[from] PkiError),
    /// It is not the one of this store, and does not follow it, or devices would not believe it.
    #[error("the authority is not one for this store")]
    Installation(#[from] InstallationError),
    /// The listeners cannot use it.
    #[error("the listeners cannot use the authority")]
    Listeners(#[from] ListenerError),
}

/// Puts another configuration, or another authority, into effect, as far as that takes no restart.
#[derive(Debug, Clone)]
pub struct Reload {
    app: App,
    listeners: Arc<Listeners>,
}

impl Reload {
    /// Of that control plane.
    pub(crate) const fn new(app: App, listeners: Arc<Listeners>) -> Self {
        Self { app, listeners }
    }

    /// Takes rates, budgets, first waves and what takes a second factor. Names every other setting
    /// that is not as it was at the start: these take a restart, and stay.
    ///
    /// # Errors
    /// When a setting cannot be meant; nothing changes then.
    pub fn follow(&self, next: &Config) -> Result<Vec<&'static str>, ConfigError> {
        next.check()?;
        self.app.limits.follow(next);
        self.app.policy.store(Arc::new(Policy::of(next)));
        Ok(self.app.config.takes_restart(next))
    }

    /// The authority of this moment.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.app.authority()
    }

    /// Reads the authority's files again. Another one than before issues from now on, and new connections
    /// are believed that those which it trusts have vouched for. It has to be the one of the store, or
    /// to follow it as at a start. Whether it is another one.
    ///
    /// # Errors
    /// When it cannot be used; nothing changes then.
    pub async fn follow_authority(&self) -> Result<bool, AuthorityError> {
        let app = &self.app;
        let next = Authority::load(&app.config.data_dir, app.entropy.clone())?;
        if next.is_same(&app.authority()) {
            return Ok(false);
        }
        // Of those that the listeners could not use none is written down.
        self.listeners.try_out(app, &next)?;
        installation::succeed(&app.db, app.now(), &next).await?;
        self.listeners.follow(app, next)?;
        Ok(true)
    }
}
