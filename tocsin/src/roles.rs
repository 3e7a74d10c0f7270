//! The roles as processes of their own: hub and api, with the broker between them.
//!
//! Owns what they share: the broker's settings, the admin port and the words of a start. Each role
//! itself is a value of its own crate, and does not know in what process it runs.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{FirstStart, Reload};
use broker::redis::RedisBrokerError;
use broker::{Broker, RedisBroker, RedisConfig};
use runtime::admin::{Admin, Readiness};
use runtime::files::{FileError, PRIVATE, PUBLIC, write_atomic};
use runtime::lifecycle::Hangups;
use runtime::observability::recorder;
use runtime::{Clock, Drain, Entropy};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub mod api_role;
pub mod authority;
pub mod command_key;
pub mod hub_role;
pub mod issue_hub;

/// How long the tasks of a process may take to end when one of them failed.
pub(crate) const FAILURE_GRACE: Duration = Duration::from_secs(5);
/// How long a drain may take unless it is configured; longer than the hub's spread of reconnects.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Name of the first operator's token in the data folder. An argument of a command would be
/// visible to everybody on the machine.
const OWNER_TOKEN: &str = "owner.token";
/// Name of the authority's certificate in the data folder, for operators, hubs and their tools.
pub(crate) const AUTHORITY: &str = "authority.pem";
/// Where the admin port is unless it is configured.
pub(crate) const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7440);

/// The bus between processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Redis, with Sentinel or Cluster or alone.
    pub redis: RedisConfig,
}

impl BrokerConfig {
    /// The bus. It needs no server to be there: it supervises its connections by itself.
    pub(crate) fn connect(
        self,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Arc<dyn Broker>, RedisBrokerError> {
        Ok(Arc::new(RedisBroker::connect(self.redis, clock, entropy)?))
    }
}

/// Reads the configuration again at each SIGHUP. One that cannot be meant changes nothing. `follow` puts it
/// into effect, and names what differs and takes a restart.
pub(crate) async fn follow_hangups(
    mut hangups: Hangups,
    follow: impl AsyncFn() -> anyhow::Result<Vec<&'static str>>,
) -> Infallible {
    loop {
        hangups.next().await;
        match follow().await {
            Ok(restart) if restart.is_empty() => tracing::info!("configuration read again"),
            Ok(restart) => tracing::warn!(
                settings = restart.join(", "),
                "configuration read again; settings that differ take a restart and stay as they were"
            ),
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = error.as_ref();
                tracing::error!(error, "configuration not taken, the former one stays");
            }
        }
    }
}

/// Names those of some settings that differ.
pub(crate) fn differing<const N: usize>(
    settings: [(&'static str, bool); N],
) -> impl Iterator<Item = &'static str> {
    settings.into_iter().filter_map(|(key, differs)| differs.then_some(key))
}

/// Reads the authority of a control plane again, and writes it down for operators and hubs, also when that
/// failed the last time. Whether it stands as its files say. One that cannot be used changes nothing.
pub(crate) async fn follow_authority(reload: &Reload, data: &Path) -> bool {
    match reload.follow_authority().await {
        Ok(is_other) => {
            let trusted = reload.authority().trusted_pem();
            if let Err(error) = write_atomic(&data.join(AUTHORITY), trusted.as_bytes(), PUBLIC) {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, "authority cannot be written for others");
            }
            if is_other {
                tracing::info!(pin = %reload.authority().pin(), "authority read again");
            }
            true
        }
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(error, "authority not taken, the former one stays");
            false
        }
    }
}

/// Why an admin port was not opened.
#[derive(Debug, thiserror::Error)]
#[error("admin port {address} cannot be bound")]
pub struct AdminError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens the admin port; it installs the recorder of metrics, so that it comes before the roles.
pub(crate) async fn start_admin(
    address: SocketAddr,
    readiness: &Readiness,
    drain: &Drain,
) -> Result<Admin, AdminError> {
    let failed = |source| AdminError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Admin::start(listener, readiness.clone(), recorder(), drain.clone()).map_err(failed)
}

/// What the first start of a control plane tells, once. The token itself is only in the file, and in
/// what a program reads with `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct FirstWords {
    token: String,
    token_file: PathBuf,
    root_key: PathBuf,
}

impl FirstWords {
    /// Writes the token into the data folder, for its owner alone.
    pub(crate) fn write(first: &FirstStart, data: &Path) -> Result<Self, FileError> {
        let token_file = data.join(OWNER_TOKEN);
        write_atomic(&token_file, first.token.expose().as_bytes(), PRIVATE)?;
        let token = first.token.expose().to_owned();
        Ok(Self { token, token_file, root_key: first.root_key.clone() })
    }

    /// For the person who reads it.
    pub(crate) fn lines(&self, operator_url: &str, authority: &Path) -> Vec<String> {
        vec![
            String::new(),
            "This is the first start. Log in with the operator's token:".into(),
            String::new(),
            format!(
                "  tocsin login --url {operator_url} --ca {} --token-file {}",
                authority.display(),
                self.token_file.display()
            ),
            String::new(),
            "Then delete that file: whoever reads it may order everything.".into(),
            format!("Move {} to an offline place:", self.root_key.display()),
            "whoever has it decides whom every device trusts.".into(),
        ]
    }
}
