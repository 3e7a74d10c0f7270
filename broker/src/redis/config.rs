//! What can be told about the Redis behind the bus: where it is, who we are there, and bounds.
//!
//! Owns the defaults and their validation. Reads no file before a connection needs it.

use std::path::PathBuf;
use std::time::Duration;

use runtime::config::Secret;
use serde::Deserialize;

use super::address::Address;
use crate::BATCH;

#[cfg(test)]
mod tests;

/// The settings of the bus on Redis. Every process of one installation has the same `mode` and
/// `prefix`; a hub has an account of its own (config/redis-acl.conf).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// One server, one that Sentinel moves, or a cluster; `standalone` by default.
    pub mode: RedisMode,
    /// Where the servers are, `redis://host:port` or, with TLS, `rediss://host:port`;
    /// `redis://127.0.0.1:6379` by default. Standalone: the first that is a primary counts.
    /// Cluster: any nodes to begin with. Sentinel: the sentinels. Credentials do not belong here.
    pub urls: Vec<String>,
    /// With Sentinel: the name under which it knows the primary; `tocsin` by default.
    pub primary: String,
    /// The account; none by default, which is the account `default`.
    pub username: Option<String>,
    /// Its password: in place, `file:/path` or `credential:name`; none by default. Read anew for
    /// each connection.
    pub password: Option<Secret>,
    /// With Sentinel: the account at the sentinels; none by default.
    pub sentinel_username: Option<String>,
    /// With Sentinel: the password there; none by default.
    pub sentinel_password: Option<Secret>,
    /// The files of TLS; needed with `rediss`.
    pub tls: Option<RedisTls>,
    /// What every key and channel begins with; `tocsin` by default.
    pub prefix: String,
    /// Entries of hubs that wait in Redis before further ones are refused, of at most 16 KiB where they hold
    /// several messages; 20,000 by default.
    pub upstream: u32,
    /// Bytes that wait for one hub in its own process before its subscription is ended; 16 MiB
    /// by default.
    pub subscription_bytes: u32,
    /// For TCP, TLS and the greeting of one connection; 1 s by default.
    #[serde(with = "runtime::config::duration")]
    pub connect_timeout: Duration,
    /// For one answer; 1 s by default.
    #[serde(with = "runtime::config::duration")]
    pub command_timeout: Duration,
    /// How often the role of the server is looked at, and each subscription sends itself a
    /// message; 1 s by default.
    #[serde(with = "runtime::config::duration")]
    pub probe_every: Duration,
    /// How often Sentinel or the cluster is asked where the primary is; 2 s by default. In doubt
    /// it is asked at once.
    #[serde(with = "runtime::config::duration")]
    pub locate_every: Duration,
    /// After how long another reader takes what one took and did not acknowledge; 30 s by
    /// default. Longer than a commit of the store may take.
    #[serde(with = "runtime::config::duration")]
    pub claim_after: Duration,
}

/// What kind of Redis it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One server, whose addresses are known.
    Standalone,
    /// A primary that Sentinel names.
    Sentinel,
    /// A cluster; sharded pub/sub, so Redis 7 or later.
    Cluster,
}

/// The files of TLS, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisTls {
    /// The authorities that the servers' certificates must come from.
    pub ca: PathBuf,
    /// Our own certificate chain, where the servers ask for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The name that the servers' certificates must carry, when it is not the host of the address:
    /// Sentinel and Cluster tell IP addresses.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::Standalone,
            urls: vec!["redis://127.0.0.1:6379".to_owned()],
            primary: "tocsin".to_owned(),
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: None,
            prefix: "tocsin".to_owned(),
            upstream: 20_000,
            subscription_bytes: 16 * 1024 * 1024,
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(1),
            probe_every: Duration::from_secs(1),
            locate_every: Duration::from_secs(2),
            claim_after: Duration::from_secs(30),
        }
    }
}

/// Why a configuration cannot be used. Names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {rule}")]
pub struct InvalidRedisConfig {
    /// The key.
    pub key: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// The most addresses that are tried.
const MAX_URLS: usize = 64;
/// A wait that is longer than this would outlast a hub's lease.
const MAX_WAIT: Duration = Duration::from_secs(2);

impl RedisConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), InvalidRedisConfig> {
        let second = Duration::from_secs(1);
        let waits = |wait: Duration| !wait.is_zero() && wait <= MAX_WAIT;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let is_prefix = (1..=32).contains(&self.prefix.len()) && self.prefix.bytes().all(is_name);
        let addresses: Vec<_> = self.urls.iter().map(|url| Address::from_url(url)).collect();
        let secure = addresses.iter().filter(|parsed| matches!(parsed, Some((_, true)))).count();
        let tls = self.tls.as_ref();
        let is_pair = tls.is_none_or(|tls| tls.certificate.is_some() == tls.key.is_some());
        let rules = [
            ((1..=MAX_URLS).contains(&addresses.len()), "urls", "must have 1 to 64 entries"),
            (
                addresses.iter().all(Option::is_some),
                "urls",
                "must have the form redis://host:port or rediss://host:port",
            ),
            (
                secure == 0 || secure == addresses.len(),
                "urls",
                "must be all with TLS or all without",
            ),
            ((secure > 0) == tls.is_some(), "tls", "belongs to rediss:// and only to it"),
            (is_pair, "tls.key", "and tls.certificate go together"),
            ((1..=128).contains(&self.primary.len()), "primary", "must have 1 to 128 characters"),
            (is_prefix, "prefix", "must be 1 to 32 letters, digits, dots, colons, dashes"),
            (self.upstream as usize >= BATCH, "upstream", "must be at least 1000"),
            (
                self.subscription_bytes >= 1024 * 1024,
                "subscription_bytes",
                "must be at least 1048576",
            ),
            (waits(self.connect_timeout), "connect_timeout", "must be above 0 and at most 2 s"),
            (waits(self.command_timeout), "command_timeout", "must be above 0 and at most 2 s"),
            (waits(self.probe_every), "probe_every", "must be above 0 and at most 2 s"),
            (
                !self.locate_every.is_zero() && self.locate_every <= 10 * second,
                "locate_every",
                "must be above 0 and at most 10 s",
            ),
            (self.claim_after >= second, "claim_after", "must be at least 1 s"),
        ];
        rules
            .into_iter()
            .find(|(holds, _, _)| !holds)
            .map_or(Ok(()), |(_, key, rule)| Err(InvalidRedisConfig { key, rule }))
    }

    /// The same with waits beyond what a hub may wait.
    #[cfg(feature = "fixture")]
    pub(super) fn patient(self) -> Self {
        let patience = crate::fixture::GUARD / 2;
        Self { connect_timeout: patience, command_timeout: patience, ..self }
    }

    /// The addresses of `urls`.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.urls.iter().filter_map(|url| Address::from_url(url)).map(|(at, _)| at).collect()
    }
}
