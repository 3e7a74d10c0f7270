//! The command line of `tocsin-loadtest`.
//!
//! Owns the options and their defaults. Carries nothing out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::operator::Ordered;
use crate::rate::Rate;
use crate::report::Thresholds;

#[cfg(test)]
mod tests;

const AFTER: &str = "\
Exit codes: 0 good; 1 orders were lost, doubled or failed, sessions dropped, or a threshold was \
missed; 2 wrong usage; 3 the run could not be made.

Every latency is counted from the moment at which an order was meant to leave, not from when it \
did. The swarm enrolls into a group of its own, answers without acting, and is revoked in the \
end. The hub's limits per address apply: raise [hub.admission] for more than a few hundred agents \
from one machine.";

/// Measures a Tocsin platform with a swarm of simulated devices.
#[derive(Debug, Parser)]
#[command(name = "tocsin-loadtest", version, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Order at a constant rate, and time each order until its ack and its confirmed receipt
    OrderToAck(OrderArgs),
    /// Hold idle sessions, and see what they cost the hub
    Idle(IdleArgs),
    /// Connect everybody, then cut all sockets at once and time until all are back
    Connect(ConnectArgs),
}

/// Options of every scenario.
#[derive(Clone, Args)]
pub struct Common {
    /// Address of the operator port
    #[arg(long, env = "TOCSIN_URL", value_name = "URL", default_value = "https://127.0.0.1:7442")]
    pub api: String,
    /// The authority's certificate (PEM)
    #[arg(long, env = "TOCSIN_CA", value_name = "FILE", hide_env_values = true)]
    pub ca: PathBuf,
    /// API token; others on this machine can see it here, so prefer TOCSIN_TOKEN
    #[arg(long, env = "TOCSIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// Simulated devices
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub agents: u32,
    /// Rate at which the first connections begin; the hub's default is 100/s for one address
    #[arg(long, value_name = "RATE", default_value = "90/s")]
    pub connect_rate: Rate,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub connecting: u16,
    /// Seconds to wait for all agents to connect, and for the last receipt to be confirmed
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// Leave the devices enrolled
    #[arg(long)]
    pub keep: bool,
    /// Write the report as JSON as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common")
            .field("api", &self.api)
            .field("agents", &self.agents)
            .finish_non_exhaustive()
    }
}

impl Common {
    /// How long to wait for what must come.
    pub const fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

/// Options of `order-to-ack`.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// Options of every scenario.
    #[command(flatten)]
    pub common: Common,
    /// Orders in all, each for one device, in turn
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub orders: u64,
    /// Intended rate, kept whatever comes back
    #[arg(long, default_value = "50/s")]
    pub rate: Rate,
    /// What to order
    #[arg(long, value_enum, default_value = "lock")]
    pub verb: Ordered,
    /// Connections to the operator's port
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Fail when acks are slower, in milliseconds, such as p50=5,p99=25
    #[arg(long, value_name = "LIST")]
    pub thresholds: Option<Thresholds>,
}

/// Options of `idle`.
#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    /// Options of every scenario.
    #[command(flatten)]
    pub common: Common,
    /// How long to hold the sessions, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub secs: u64,
    /// The hub's process, to see its memory and processor time
    #[arg(long, value_name = "PID")]
    pub hub_pid: Option<u32>,
}

/// Options of `connect`.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Options of every scenario.
    #[command(flatten)]
    pub common: Common,
    /// Make full handshakes in the storm as well; without it agents resume as real ones do
    #[arg(long)]
    pub full: bool,
    /// The hub's process, to see its processor time
    #[arg(long, value_name = "PID")]
    pub hub_pid: Option<u32>,
}

impl Cli {
    /// Options of every scenario.
    pub const fn common(&self) -> &Common {
        match &self.scenario {
            Scenario::OrderToAck(args) => &args.common,
            Scenario::Idle(args) => &args.common,
            Scenario::Connect(args) => &args.common,
        }
    }
}
