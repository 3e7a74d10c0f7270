//! Which database holds the store, and how long it may take.
//!
//! Owns the settings' defaults, their judgement, and keeping the password out of every log.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use runtime::config::Secret;
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::DbError;

/// The store's database. Every setting has a default that suits one machine: the SQLite file
/// `tocsin.db` in the data folder. All but `url` concern PostgreSQL alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `postgres://user@host:5432/name`. Empty: the SQLite file in the data folder.
    pub url: DatabaseUrl,
    /// File with the password, in place of one in the URL. Empty: none.
    pub password_file: PathBuf,
    /// Authorities (PEM) of the server's certificate. Empty: those that browsers trust.
    pub ca_file: PathBuf,
    /// The most connections of this node: one writes, one listens, the others read.
    pub max_connections: u32,
    /// How long a connection may take to be made, and a request to get one.
    #[serde(with = "runtime::config::duration")]
    pub connect_timeout: Duration,
    /// How long a statement may take.
    #[serde(with = "runtime::config::duration")]
    pub statement_timeout: Duration,
    /// How long a write may wait for those of other nodes.
    #[serde(with = "runtime::config::duration")]
    pub lock_timeout: Duration,
    /// How long a write may stand still before the server cuts it: what a node that is paused in
    /// the middle of one holds the others up.
    #[serde(with = "runtime::config::duration")]
    pub idle_timeout: Duration,
    /// How often a node looks for events of others without being notified: how long one that a lost
    /// notification told of may be late.
    #[serde(with = "runtime::config::duration")]
    pub look_every: Duration,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::default(),
            password_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            max_connections: 10,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(3),
            look_every: Duration::from_secs(1),
        }
    }
}

/// A database's address, which may hold a password: shown without it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// An address as it is written in a configuration.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names a PostgreSQL server.
    pub fn is_postgres(&self) -> bool {
        ["postgres://", "postgresql://"].iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let rest = rest.split('?').next().unwrap_or(rest);
        // A password may hold any character but, unquoted, the `@` that ends it.
        match rest.rsplit_once('@') {
            Some((account, place)) => {
                let user = account.split(':').next().unwrap_or(account);
                write!(f, "{scheme}://{user}@{place}")
            }
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("\"\"") } else { write!(f, "{self}") }
    }
}

impl DatabaseConfig {
    /// What is wrong with a setting, if anything is: its name, then what.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let least = Duration::from_millis(100);
        let waits = [
            ("database.connect_timeout", self.connect_timeout),
            ("database.statement_timeout", self.statement_timeout),
            ("database.lock_timeout", self.lock_timeout),
            ("database.idle_timeout", self.idle_timeout),
            ("database.look_every", self.look_every),
        ];
        if !self.url.is_empty() && !self.url.is_postgres() {
            return Some(("database.url", "must begin with postgres:// or be empty"));
        }
        if self.max_connections < 3 {
            return Some(("database.max_connections", "must be at least 3"));
        }
        let short = waits.into_iter().find(|(_, wait)| *wait < least);
        short.map(|(name, _)| (name, "must be at least 100 ms"))
    }
}

/// How long a statement of a tool may take, or wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// What to connect with. Whoever leaves the machine is answered by a server whose certificate is
/// checked, unless the URL says otherwise by `sslmode`.
pub(super) fn postgres_options(config: &DatabaseConfig) -> Result<PgConnectOptions, DbError> {
    let waits = [config.statement_timeout, config.lock_timeout, config.idle_timeout];
    Ok(with_waits(address(config)?, waits))
}

/// The same for a tool, which may take its time.
pub(super) fn patient_options(config: &DatabaseConfig) -> Result<PgConnectOptions, DbError> {
    Ok(with_waits(address(config)?, [PATIENCE; 3]))
}

fn with_waits(options: PgConnectOptions, waits: [Duration; 3]) -> PgConnectOptions {
    let [statement, lock, idle] = waits.map(|wait| wait.as_millis().to_string());
    options.options([
        ("statement_timeout", statement),
        ("lock_timeout", lock),
        ("idle_in_transaction_session_timeout", idle),
    ])
}

pub(super) fn address(config: &DatabaseConfig) -> Result<PgConnectOptions, DbError> {
    let mut options = PgConnectOptions::from_str(&config.url.0)?.application_name("tocsin");
    let is_local = options.get_socket().is_some()
        || ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host())
        || options.get_host().starts_with('/');
    if !config.url.0.contains("sslmode=") && !config.url.0.contains("ssl-mode=") && !is_local {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    if !config.ca_file.as_os_str().is_empty() {
        options = options.ssl_root_cert(&config.ca_file);
    }
    if !config.password_file.as_os_str().is_empty() {
        let Ok(secret) = Secret::from_str(&format!("file:{}", config.password_file.display()));
        options = options.password(&secret.read()?);
    }
    Ok(options)
}
