//! `tocsin hub`: a push hub in a process of its own.
//!
//! Owns its settings and its wiring: the identity from files, the broker, the admin port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use push_hub::config::InvalidConfig;
use push_hub::identity::{IdentityError, IdentityFiles, Watch};
use push_hub::{Hub, Reload};
use runtime::admin::{Admin, Readiness};
use runtime::lifecycle::{Hangups, TaskError, Tasks};
use runtime::observability::ObservabilityConfig;
use runtime::tls::Tickets;
use runtime::{Clock, Drain, Entropy};
use serde::{Deserialize, Serialize};

use super::{
    ADMIN, AdminError, BrokerConfig, DRAIN, FAILURE_GRACE, differing, follow_hangups, start_admin,
};
use crate::output::Out;

/// Prefix of the environment variables that override the configuration file.
const ENVIRONMENT: &str = "TOCSIN_HUB_";

/// Arguments of `tocsin hub`.
#[derive(Debug, Clone, Args)]
pub struct HubArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// How a hub runs in a process of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What to log.
    pub log: ObservabilityConfig,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, without TLS.
    pub admin_listen: SocketAddr,
    /// From SIGTERM on, sessions that are left after this time are closed.
    #[serde(with = "runtime::config::duration")]
    pub drain_deadline: Duration,
    /// The hub's identity.
    pub tls: IdentityFiles,
    /// The bus to the control plane.
    pub broker: BrokerConfig,
    /// The hub.
    pub hub: push_hub::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: ObservabilityConfig::default(),
            admin_listen: ADMIN,
            drain_deadline: DRAIN,
            tls: IdentityFiles::default(),
            broker: BrokerConfig::default(),
            hub: push_hub::Config::default(),
        }
    }
}

impl Config {
    /// Judges the whole.
    ///
    /// # Errors
    /// The first thing that cannot be meant.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.hub.validate()?;
        let rule = |holds, key, rule| if holds { Ok(()) } else { Err(InvalidConfig { key, rule }) };
        let has_time = self.hub.drain_spread < self.drain_deadline;
        rule(has_time, "drain_deadline", "must be longer than hub.drain_spread")?;
        rule(!self.tls.reload_every.is_zero(), "tls.reload_every", "must be above 0")
    }

    /// Puts `next` into effect, as far as that takes no restart; names what does.
    ///
    /// # Errors
    /// When it cannot be meant together with what stays; nothing changes then.
    fn follow(&self, next: Self, reload: &Reload) -> Result<Vec<&'static str>, InvalidConfig> {
        next.check()?;
        let own = differing([
            ("log", self.log != next.log),
            ("admin_listen", self.admin_listen != next.admin_listen),
            ("drain_deadline", self.drain_deadline != next.drain_deadline),
            ("tls", self.tls != next.tls),
            ("broker", self.broker != next.broker),
        ]);
        let drain_deadline = self.drain_deadline;
        let next = Self { drain_deadline, ..next };
        next.check()?;
        Ok(reload.follow(&next.hub)?.into_iter().chain(own).collect())
    }
}

/// Why a hub did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be meant.
    #[error("the configuration is not sound")]
    Config(#[from] InvalidConfig),
    /// The admin port cannot be opened.
    #[error("the admin port is not there")]
    Admin(#[from] AdminError),
    /// Its files hold no identity.
    #[error("the hub has no identity")]
    Identity(#[from] IdentityError),
    /// The broker's settings cannot be used.
    #[error("the broker cannot be used")]
    Broker(#[from] broker::redis::RedisBrokerError),
    /// The hub did not start.
    #[error("the hub did not start")]
    Hub(#[from] push_hub::StartError),
}

/// A running hub with its surroundings.
#[derive(Debug)]
pub struct HubRole {
    /// Where agents hold their sessions.
    pub agent_addr: SocketAddr,
    /// Where it can be observed.
    pub admin_addr: SocketAddr,
    reload: Reload,
    tasks: Tasks,
    _admin: Admin,
}

impl HubRole {
    /// Starts it. The broker may be away: agents are told to poll meanwhile.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing keeps running then.
    pub async fn start(config: Config, drain: Drain) -> Result<Self, StartError> {
        config.check()?;
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let readiness = Readiness::new(&[]);
        let admin = start_admin(config.admin_listen, &readiness, &drain).await?;
        let tickets = Tickets::new(config.hub.tickets.clone(), clock.clone(), entropy.clone());
        let identity = Watch::start(config.tls, tickets, clock.clone())?;
        let deps = push_hub::Deps {
            broker: config.broker.connect(clock.clone(), entropy.clone())?,
            clock,
            entropy,
            tls: identity.tls(),
            readiness,
            drain: drain.child(),
        };
        let hub = Hub::start(config.hub, deps).await?;
        let (agent_addr, admin_addr, reload) = (hub.agent_addr(), admin.addr(), hub.reload());
        let mut tasks = Tasks::new(drain.clone(), FAILURE_GRACE);
        tasks.spawn("identity", identity.run(drain));
        tasks.spawn("hub", async move {
            hub.finished().await;
            Ok::<(), Infallible>(())
        });
        Ok(Self { agent_addr, admin_addr, reload, tasks, _admin: admin })
    }

    /// Runs until the drain, and then until the last session has gone.
    ///
    /// # Errors
    /// The first failure of a task.
    pub async fn wait(self) -> Result<(), TaskError> {
        self.tasks.wait().await
    }
}

/// What there is to know after a start; with `--json` it is printed as one line.
#[derive(Debug, Serialize)]
struct Started {
    hub: String,
    hub_addr: SocketAddr,
    admin_url: String,
}

/// Starts a hub, says where it is, and runs until SIGTERM or Ctrl-C has drained it.
///
/// # Errors
/// When the configuration is wrong, or the hub fails.
pub async fn run(args: HubArgs, out: &Out) -> anyhow::Result<()> {
    let load = || -> Result<Config, _> {
        runtime::config::load(Some(&args.config), std::env::vars(), ENVIRONMENT)
    };
    let config = load()?;
    runtime::observability::init(&config.log)?;
    let name = config.hub.name.to_string();
    let drain = Drain::on_signals(config.drain_deadline)?;
    let hangups = Hangups::listen()?;
    let role = HubRole::start(config.clone(), drain).await?;
    let admin_url = format!("http://{}", role.admin_addr);
    let started = Started { hub: name, hub_addr: role.agent_addr, admin_url };
    out.object_line(&started);
    out.line(&format!("hub         {}", started.hub));
    out.line(&format!("agents      sessions on {}", started.hub_addr));
    out.line(&format!("observe     {}/metrics", started.admin_url));
    let reload = role.reload.clone();
    let follow = async || -> anyhow::Result<_> { Ok(config.follow(load()?, &reload)?) };
    tokio::select! {
        outcome = role.wait() => outcome.context("the hub failed"),
        never = follow_hangups(hangups, follow) => match never {},
    }
}
