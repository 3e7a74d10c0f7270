//! A plan: what a scenario file says, with what the command line changes of it.
//!
//! Owns the words of scenario files and their meaning. Carries nothing out, and reads nothing but
//! the text that it is given.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::operator::Ordered;
use crate::rate::Rate;
use crate::require::Requirement;

pub use self::load::{PlanError, SHIPPED, load, shipped};

mod load;
#[cfg(test)]
mod tests;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it is about, in a sentence.
    pub about: String,
    /// What must be true of the report; otherwise the run has failed.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// The platform.
    #[serde(default)]
    pub platform: Platform,
    /// The devices.
    pub population: Population,
    /// What happens, one phase after the other.
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
}

impl Plan {
    /// The interval of heartbeats, as the hubs are told; of a platform that runs already, the usual one.
    fn heartbeat(&self) -> Duration {
        let told = self.platform.hub.get("heartbeat");
        let number = |told: &toml::Value| {
            told.as_float().or_else(|| told.as_integer()?.to_string().parse().ok())
        };
        let told = told.and_then(|told| match told.as_str() {
            Some(text) => runtime::config::duration::parse(text),
            None => number(told).map(secs),
        });
        told.filter(|told| !told.is_zero()).unwrap_or(protocol::limits::HEARTBEAT)
    }

    /// How many whole heartbeats at the end of a quiet phase are measured, and how long they are: as many as
    /// fit after one, in which what connecting has left to do is done. `None`: not one.
    pub fn measured(&self, phase: &Phase) -> Option<(u32, Duration)> {
        let (whole, heartbeat) = (phase.secs.map(secs)?, self.heartbeat());
        let rest = whole.checked_sub(heartbeat).filter(|_| phase.is_quiet())?;
        let count = u32::try_from(rest.as_nanos() / heartbeat.as_nanos()).ok()?;
        (count > 0).then(|| (count, heartbeat * count))
    }
}

/// What the harness starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Platform {
    /// How the platform runs.
    pub start: Start,
    /// How many hubs, with `split`.
    pub hubs: u32,
    /// What the control plane writes to.
    pub store: Store,
    /// Settings of the hubs beside the harness's own, as in config/hub.toml under `[hub]`.
    pub hub: toml::Table,
    /// Settings of the control plane, as in config/api.toml under `[api]`.
    pub api: toml::Table,
}

impl Default for Platform {
    fn default() -> Self {
        let (hub, api) = (toml::Table::new(), toml::Table::new());
        Self { start: Start::Split, hubs: 1, store: Store::Sqlite, hub, api }
    }
}

/// What the control plane writes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// SQLite, in its own process
    #[default]
    Sqlite,
    /// A PostgreSQL that the harness starts, as its package's `initdb` makes it
    Postgres,
}

impl Store {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// How the platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// `tocsin up`: everything in one process.
    Up,
    /// A Redis, a control plane and hubs, each a process of its own.
    Split,
    /// It runs already; the harness is told where.
    Given,
}

/// The devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Population {
    /// Devices with a session.
    pub connections: u64,
    /// Devices that open a session and read nothing from then on.
    #[serde(default)]
    pub stalled: u64,
    /// Devices without a session, which check in.
    #[serde(default)]
    pub polling: u64,
    /// At which rate connections begin; left out: as fast as they come to stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_rate: Option<Rate>,
    /// Connections that are being opened at a time; nothing: all at once.
    #[serde(default = "connecting")]
    pub connecting: u64,
    /// The interval of check-ins, in seconds.
    #[serde(default = "check_in_secs")]
    pub check_in_secs: f64,
    /// Whether agents resume TLS sessions, as real ones do.
    #[serde(default = "resume")]
    pub resume: bool,
}

const fn connecting() -> u64 {
    256
}

const fn check_in_secs() -> f64 {
    60.0
}

const fn resume() -> bool {
    true
}

impl Population {
    /// How many devices there are.
    pub const fn total(&self) -> u64 {
        self.connections + self.stalled + self.polling
    }

    /// The interval of check-ins.
    pub fn check_in(&self) -> Duration {
        secs(self.check_in_secs)
    }
}

/// A part of a run. What it has goes on at the same time; it ends when all of that has ended, and
/// not before its seconds are over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Its name, unique in the scenario.
    pub name: String,
    /// The shortest time that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secs: Option<f64>,
    /// Everybody connects.
    #[serde(default)]
    pub connect: bool,
    /// Orders of one device each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<Orders>,
    /// Orders of all devices at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupOrders>,
    /// The rate at which devices lose their sockets, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Rate>,
    /// All sockets are cut at once, at that second; the phase ends when all are back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at_secs: Option<f64>,
    /// It ends when hubs have ended every session of a device that never reads.
    #[serde(default)]
    pub until_closed: bool,
    /// What is done to processes that the harness started.
    #[serde(default, rename = "fault", skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

impl Phase {
    /// What goes on in it while orders of one device each leave, in a few words.
    pub fn disturbance(&self) -> String {
        let cut = self.cut_at_secs.map(|_| "from the cut until all are back");
        let group = self.group.as_ref().map(|_| "from an order of everybody until its last ack");
        let both: Vec<_> = cut.into_iter().chain(group).collect();
        both.join(", ")
    }

    /// Whether nothing happens in it: what it costs, sessions cost.
    pub const fn is_quiet(&self) -> bool {
        !self.connect
            && self.orders.is_none()
            && self.group.is_none()
            && self.churn.is_none()
            && self.cut_at_secs.is_none()
            && !self.until_closed
            && self.faults.is_empty()
    }
}

/// Orders of one device each, at a constant intended rate, for one device after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// The intended rate, kept whatever comes back.
    pub rate: Rate,
    /// How many; left out: as many as fit into the phase's seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// What is ordered: `lock` is urgent, `refresh` is bulk.
    #[serde(default = "lock")]
    pub verb: Ordered,
    /// Connections to the operator's port.
    #[serde(default = "desks")]
    pub desks: u64,
}

const fn lock() -> Ordered {
    Ordered::Lock
}

const fn desks() -> u64 {
    64
}

/// Orders of a whole group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupOrders {
    /// What is ordered.
    #[serde(default = "lock")]
    pub verb: Ordered,
    /// Which devices.
    #[serde(default)]
    pub to: Audience,
    /// The second of the phase at which the first one is meant to leave.
    #[serde(default)]
    pub at_secs: f64,
    /// How many orders.
    #[serde(default = "once")]
    pub times: u64,
    /// The rate of further ones.
    #[serde(default = "each_second")]
    pub rate: Rate,
    /// Whether a further one leaves only when the one before it is done, whatever the rate.
    #[serde(default)]
    pub in_turn: bool,
}

const fn once() -> u64 {
    1
}

fn each_second() -> Rate {
    "1/s".parse().expect("one a second is a rate")
}

/// Which devices a group order is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// All that answer.
    #[default]
    All,
    /// Those that read nothing. Their commands count as nobody's loss.
    Stalled,
}

/// Something that is done to a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The second of the phase.
    pub at_secs: f64,
    /// What.
    pub what: FaultKind,
    /// Whose: `up`, `redis`, `postgres`, `api`, `hub-1` …
    pub process: String,
}

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and wait until it has drained.
    Drain,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
    /// Start it again.
    Start,
}

impl FaultKind {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Continue => "continue",
            Self::Start => "start",
        }
    }
}

/// Seconds of a scenario as a duration.
pub fn secs(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs).unwrap_or_default()
}
