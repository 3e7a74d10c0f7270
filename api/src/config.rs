//! The settings of the control plane.
//!
//! Owns their defaults and their judgement. Only `main` reads files and the environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::limits;
use serde::Deserialize;

use crate::auth::StepUp;
use crate::budgets::Budgets;
use crate::collections::CollectionConfig;
use crate::commands::Waves;
use crate::db::DatabaseConfig;
use crate::sign_in::Oidc;
use crate::sinks::Sinks;
use crate::vault::VaultConfig;

/// How the control plane runs. Every setting has a default that suits one machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the store, the authority and the keys; made with mode 0700.
    pub data_dir: PathBuf,
    /// Where operators connect: HTTPS with a bearer token.
    pub operator_listen: SocketAddr,
    /// Where agents enroll, renew and check in: TLS 1.3, client certificate optional.
    pub agent_listen: SocketAddr,
    /// Names and addresses that the server certificate is made for.
    pub server_names: Vec<String>,
    /// Addresses of the agent port that are handed out to agents, such as
    /// `https://tocsin.example:7443`. Empty: the first server name with the bound port.
    pub agent_urls: Vec<String>,
    /// Addresses of hubs that are handed out to agents, such as `https://hub1.example:7444`.
    pub hub_urls: Vec<String>,
    /// How long a device certificate lasts; agents renew at two thirds.
    #[serde(with = "runtime::config::duration")]
    pub device_certificate: Duration,
    /// For how long past its end a device certificate may still be renewed; 0: not at all.
    #[serde(with = "runtime::config::duration")]
    pub renewal_grace: Duration,
    /// The most connections on the operator port.
    pub operator_connections: usize,
    /// The most connections on the agent port.
    pub agent_connections: usize,
    /// Check-ins per device and minute; 0: no limit.
    pub check_ins_per_min: u32,
    /// Check-ins that a device may make at once.
    pub check_in_burst: u32,
    /// Enrollments per source address and minute; 0: no limit.
    pub enrolls_per_min: u32,
    /// Enrollments that a source address may make at once.
    pub enroll_burst: u32,
    /// Sign-ins per source address and minute; 0: no limit.
    pub sign_ins_per_min: u32,
    /// Devices of an order that are written in one transaction; a larger one is written in several,
    /// and whatever is urgent waits for one of them at most.
    pub order_piece: usize,
    /// How often jobs look for work.
    #[serde(with = "runtime::config::duration")]
    pub job_period: Duration,
    /// How often the head of the audit log is signed, if it has moved.
    #[serde(with = "runtime::config::duration")]
    pub checkpoint_every: Duration,
    /// Name of this node, different from those of other nodes on the same store. Empty: the
    /// machine's name.
    pub node: String,
    /// The store's database.
    pub database: DatabaseConfig,
    /// How many devices orders may reach within a while.
    pub budgets: Budgets,
    /// Which orders have some devices go first.
    pub first_wave: Waves,
    /// What a person's second factor is asked for.
    pub step_up: StepUp,
    /// How much of what devices collect is kept.
    pub collections: CollectionConfig,
    /// Where the audit log goes on to.
    pub sinks: Sinks,
    /// By whom people sign in.
    pub oidc: Oidc,
    /// How secrets in the store are kept.
    pub vault: VaultConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/tocsin"),
            operator_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7442)),
            agent_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7443)),
            server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()],
            agent_urls: Vec::new(),
            hub_urls: Vec::new(),
            device_certificate: Duration::from_secs(7 * 24 * 60 * 60),
            renewal_grace: Duration::from_secs(30 * 24 * 60 * 60),
            operator_connections: 1024,
            agent_connections: 4096,
            check_ins_per_min: 30,
            check_in_burst: 10,
            enrolls_per_min: 1200,
            enroll_burst: 2000,
            sign_ins_per_min: 60,
            order_piece: 250,
            job_period: Duration::from_secs(1),
            checkpoint_every: Duration::from_secs(60),
            node: String::new(),
            database: DatabaseConfig::default(),
            budgets: Budgets::default(),
            first_wave: Waves::default(),
            step_up: StepUp::default(),
            collections: CollectionConfig::default(),
            sinks: Sinks::default(),
            oidc: Oidc::default(),
            vault: VaultConfig::default(),
        }
    }
}

/// Settings that take effect when the file is read again, beside the rates of [`crate::limits::Limits`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many devices orders may reach within a while.
    pub budgets: Budgets,
    /// Which orders have some devices go first.
    pub first_wave: Waves,
    /// What a person's second factor is asked for.
    pub step_up: StepUp,
}

impl Policy {
    /// What a configuration says of it.
    pub fn of(config: &Config) -> Self {
        let Config { budgets, first_wave, step_up, .. } = config.clone();
        Self { budgets, first_wave, step_up }
    }
}

impl Config {
    /// The keys by which `next` differs from what a control plane of these settings can follow.
    #[must_use]
    pub fn takes_restart(&self, next: &Self) -> Vec<&'static str> {
        // Whoever adds a setting says here which kind it is.
        let Self {
            data_dir,
            operator_listen,
            agent_listen,
            server_names,
            agent_urls,
            hub_urls,
            device_certificate,
            renewal_grace,
            operator_connections,
            agent_connections,
            order_piece,
            job_period,
            checkpoint_every,
            node,
            database,
            collections,
            sinks,
            oidc,
            vault,
            check_ins_per_min: _,
            check_in_burst: _,
            enrolls_per_min: _,
            enroll_burst: _,
            sign_ins_per_min: _,
            budgets: _,
            first_wave: _,
            step_up: _,
        } = self;
        [
            ("api.data_dir", *data_dir != next.data_dir),
            ("api.operator_listen", *operator_listen != next.operator_listen),
            ("api.agent_listen", *agent_listen != next.agent_listen),
            ("api.server_names", *server_names != next.server_names),
            ("api.agent_urls", *agent_urls != next.agent_urls),
            ("api.hub_urls", *hub_urls != next.hub_urls),
            ("api.device_certificate", *device_certificate != next.device_certificate),
            ("api.renewal_grace", *renewal_grace != next.renewal_grace),
            ("api.operator_connections", *operator_connections != next.operator_connections),
            ("api.agent_connections", *agent_connections != next.agent_connections),
            ("api.order_piece", *order_piece != next.order_piece),
            ("api.job_period", *job_period != next.job_period),
            ("api.checkpoint_every", *checkpoint_every != next.checkpoint_every),
            ("api.node", *node != next.node),
            ("api.database", *database != next.database),
            ("api.collections", *collections != next.collections),
            ("api.sinks", *sinks != next.sinks),
            ("api.oidc", *oidc != next.oidc),
            ("api.vault", *vault != next.vault),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// A setting that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {key}: {problem}")]
pub struct ConfigError {
    key: &'static str,
    problem: &'static str,
}

impl Config {
    /// Checks what the types alone cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let ensure = |holds: bool, key, problem| {
            if holds { Ok(()) } else { Err(ConfigError { key, problem }) }
        };
        ensure(!self.server_names.is_empty(), "server_names", "at least one name is needed")?;
        let hour = Duration::from_secs(3600);
        let month = hour * 24 * 31;
        let lasts = (hour..=month).contains(&self.device_certificate);
        ensure(lasts, "device_certificate", "must be one hour to 31 days")?;
        let year = hour * 24 * 366;
        ensure(self.renewal_grace <= year, "renewal_grace", "must be at most 366 days")?;
        let is_piece = (1..=2000).contains(&self.order_piece);
        ensure(is_piece, "order_piece", "must be 1 to 2000")?;
        ensure(!self.job_period.is_zero(), "job_period", "must not be zero")?;
        ensure(!self.checkpoint_every.is_zero(), "checkpoint_every", "must not be zero")?;
        let are_urls = |urls: &[String]| urls.iter().all(|url| url.starts_with("https://"));
        ensure(are_urls(&self.agent_urls), "agent_urls", "addresses begin with https://")?;
        ensure(are_urls(&self.hub_urls), "hub_urls", "addresses begin with https://")?;
        let within = (Duration::from_secs(60)..=hour * 24 * 31).contains(&self.budgets.within);
        ensure(within, "budgets.within", "must be one minute to 31 days")?;
        ensure(self.budgets.brake_times > 0, "budgets.brake_times", "must be at least 1")?;
        let wave = self.first_wave.problem();
        wave.map_or(Ok(()), |(key, problem)| Err(ConfigError { key, problem }))?;
        let longest = limits::FREEZE.saturating_sub(limits::CLOCK_SKEW);
        let freezes = self.budgets.brake_freeze <= longest;
        ensure(freezes, "budgets.brake_freeze", "must be just below a day at most")?;
        let lasts = (Duration::from_secs(30)..=hour).contains(&self.step_up.lasts);
        ensure(lasts, "step_up.lasts", "must be 30 s to one hour")?;
        let rotates = self.vault.rotate_every >= Duration::from_secs(60);
        ensure(rotates, "vault.rotate_every", "must be at least one minute")?;
        let collections = self.collections.problem();
        collections.map_or(Ok(()), |(key, problem)| Err(ConfigError { key, problem }))?;
        let oidc = self.oidc.problem();
        oidc.map_or(Ok(()), |(key, problem)| Err(ConfigError { key, problem }))?;
        let sinks = self.sinks.problem();
        sinks.map_or(Ok(()), |(key, problem)| Err(ConfigError { key, problem }))?;
        self.database.problem().map_or(Ok(()), |(key, problem)| Err(ConfigError { key, problem }))
    }
}
