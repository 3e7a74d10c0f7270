//! What is read again while the platform runs, of both roles.
//!
//! Owns that a configuration is taken for all of them or for none. No session and no connection ends by it.

use std::sync::Arc;

use api::config::ConfigError;
use push_hub::config::InvalidConfig;

use super::{Config, HubCertificates};
use crate::roles::{differing, follow_authority};

/// Why a configuration changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The control plane's part cannot be meant.
    #[error("the configuration of the control plane is not sound")]
    Api(#[from] ConfigError),
    /// The hub's part cannot be meant.
    #[error("the configuration of the hub is not sound")]
    Hub(#[from] InvalidConfig),
}

/// Puts another configuration, or another authority, into effect, as far as that takes no restart.
#[derive(Debug, Clone)]
pub struct Reload {
    start: Config,
    api: api::Reload,
    hub: push_hub::Reload,
    certificates: Arc<HubCertificates>,
}

impl Reload {
    /// Of a platform that was started with that configuration.
    pub(super) fn new(
        start: Config,
        (api, hub): (api::Reload, push_hub::Reload),
        certificates: Arc<HubCertificates>,
    ) -> Self {
        Self { start, api, hub, certificates }
    }

    /// Takes it, and names what differs and takes a restart.
    ///
    /// # Errors
    /// When a setting cannot be meant; nothing changes then.
    pub fn follow(&self, next: &Config) -> Result<Vec<&'static str>, ReloadError> {
        next.hub.validate()?;
        let mut restart = self.api.follow(&next.api)?;
        restart.extend(self.hub.follow(&next.hub)?);
        restart.extend(differing([
            ("log", self.start.log != next.log),
            ("admin_listen", self.start.admin_listen != next.admin_listen),
        ]));
        Ok(restart)
    }

    /// Reads the authority's files again; it vouches for the hub anew. One that cannot be used changes
    /// nothing, and the log says why.
    pub async fn follow_authority(&self) {
        let folder = &self.start.api.data_dir;
        if follow_authority(&self.api, folder).await
            && let Err(error) = self.certificates.replace()
        {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(error, "hub has no certificate of the authority, the former one stays");
        }
    }
}
