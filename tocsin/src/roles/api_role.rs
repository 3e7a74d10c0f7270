//! `tocsin api`: a control plane in a process of its own.
//!
//! Owns its settings and its wiring: the broker, the admin port, and what the first start tells.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use api::config::ConfigError;
use api::{Api, FirstStart};
use clap::Args;
use runtime::admin::{Admin, Readiness};
use runtime::files::{FileError, PUBLIC, write_atomic};
use runtime::lifecycle::{Hangups, TaskError};
use runtime::observability::ObservabilityConfig;
use runtime::{Clock, Drain, Entropy};
use serde::{Deserialize, Serialize};

use super::{
    ADMIN, AUTHORITY, AdminError, BrokerConfig, DRAIN, FirstWords, differing, follow_authority,
    follow_hangups, start_admin,
};
use crate::output::Out;

/// Prefix of the environment variables that override the configuration file.
const ENVIRONMENT: &str = "TOCSIN_API_";
/// The readiness condition of both ports.
const SERVING: &str = "control_plane";

/// Arguments of `tocsin api`.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// How a control plane runs in a process of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What to log.
    pub log: ObservabilityConfig,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, without TLS.
    pub admin_listen: SocketAddr,
    /// From SIGTERM on, requests that are left after this time are cut.
    #[serde(with = "runtime::config::duration")]
    pub drain_deadline: Duration,
    /// The bus to the hubs.
    pub broker: BrokerConfig,
    /// The control plane.
    pub api: api::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: ObservabilityConfig::default(),
            admin_listen: ADMIN,
            drain_deadline: DRAIN,
            broker: BrokerConfig::default(),
            api: api::Config::default(),
        }
    }
}

impl Config {
    /// Judges the whole.
    ///
    /// # Errors
    /// The first thing that cannot be meant.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.api.check()
    }

    /// The keys, beside those of the control plane itself, by which `next` differs.
    fn takes_restart(&self, next: &Self) -> impl Iterator<Item = &'static str> {
        differing([
            ("log", self.log != next.log),
            ("admin_listen", self.admin_listen != next.admin_listen),
            ("drain_deadline", self.drain_deadline != next.drain_deadline),
            ("broker", self.broker != next.broker),
        ])
    }
}

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin port cannot be opened.
    #[error("the admin port is not there")]
    Admin(#[from] AdminError),
    /// The broker's settings cannot be used.
    #[error("the broker cannot be used")]
    Broker(#[from] broker::redis::RedisBrokerError),
    /// The control plane did not start.
    #[error("the control plane did not start")]
    Api(#[from] api::StartError),
    /// The authority's certificate cannot be written for others.
    #[error("the authority's certificate is not there for others")]
    Authority(#[from] FileError),
}

/// A running control plane with its surroundings.
#[derive(Debug)]
pub struct ApiRole {
    /// Where operators connect.
    pub operator_addr: SocketAddr,
    /// Where agents enroll and check in.
    pub agent_addr: SocketAddr,
    /// Where it can be observed.
    pub admin_addr: SocketAddr,
    /// The authority's certificate, for `login --ca`.
    pub authority: PathBuf,
    /// What only the first start knows.
    pub first_start: Option<FirstStart>,
    api: Api,
    _admin: Admin,
}

impl ApiRole {
    /// Starts it. The broker may be away: orders are accepted, and agents get them by check-in.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running then.
    pub async fn start(config: Config, drain: Drain) -> Result<Self, StartError> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let readiness = Readiness::new(&[SERVING]);
        let admin = start_admin(config.admin_listen, &readiness, &drain).await?;
        let authority = config.api.data_dir.join(AUTHORITY);
        let deps = api::Deps {
            broker: config.broker.connect(clock.clone(), entropy.clone())?,
            clock,
            entropy,
            drain: drain.child(),
        };
        let mut api = Api::start(config.api, deps).await?;
        write_atomic(&authority, api.authority().trusted_pem().as_bytes(), PUBLIC)?;
        readiness.set(SERVING, true);
        Ok(Self {
            operator_addr: api.operator_addr,
            agent_addr: api.agent_addr,
            admin_addr: admin.addr(),
            authority,
            first_start: api.first_start.take(),
            api,
            _admin: admin,
        })
    }

    /// Runs until the drain, and then until the last request was answered.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn wait(self) -> Result<(), TaskError> {
        self.api.wait().await
    }
}

/// What there is to know after a start; with `--json` it is printed as one line.
#[derive(Debug, Serialize)]
struct Started<'a> {
    operator_url: String,
    agent_addr: SocketAddr,
    admin_url: String,
    authority: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_start: Option<FirstWords>,
}

/// Starts a control plane, says how to reach it, and runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the configuration is wrong, or the control plane fails.
pub async fn run(args: ApiArgs, out: &Out) -> anyhow::Result<()> {
    let load = || -> Result<Config, _> {
        runtime::config::load(Some(&args.config), std::env::vars(), ENVIRONMENT)
    };
    let config = load()?;
    runtime::observability::init(&config.log)?;
    let drain = Drain::on_signals(config.drain_deadline)?;
    let hangups = Hangups::listen()?;
    let data = config.api.data_dir.clone();
    let mut role = ApiRole::start(config.clone(), drain).await?;
    let first = role.first_start.take();
    let first = first.map(|first| FirstWords::write(&first, &data)).transpose()?;
    let started = Started {
        operator_url: format!("https://{}", role.operator_addr),
        agent_addr: role.agent_addr,
        admin_url: format!("http://{}", role.admin_addr),
        authority: &role.authority,
        first_start: first,
    };
    out.object_line(&started);
    out.line(&format!("operators   {}", started.operator_url));
    out.line(&format!("agents      enrollment and check-in on {}", started.agent_addr));
    out.line(&format!("observe     {}/metrics", started.admin_url));
    if let Some(first) = &started.first_start {
        first
            .lines(&started.operator_url, started.authority)
            .iter()
            .for_each(|line| out.line(line));
    }
    let reload = role.api.reload();
    let follow = async || -> anyhow::Result<_> {
        follow_authority(&reload, &data).await;
        let next = load()?;
        let mut restart = reload.follow(&next.api)?;
        restart.extend(config.takes_restart(&next));
        Ok(restart)
    };
    tokio::select! {
        outcome = role.wait() => outcome.context("the control plane failed"),
        never = follow_hangups(hangups, follow) => match never {},
    }
}
