//! The command line of `tocsin-loadtest`.
//!
//! Owns the options and their defaults, and which changes of a scenario they stand for. Carries
//! nothing out.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::html::picture::Picture;
use crate::operator::Access;
use crate::peers::{Load, Server};
use crate::plan::{self, Plan, PlanError, SHIPPED, Start};
use crate::rate::Rate;
use crate::require::Requirement;
use crate::run::Options;
use crate::site::leash::LeashArgs;

pub use self::scaling::{FleetArgs, ScalingArgs};

mod scaling;
#[cfg(test)]
mod tests;

const AFTER: &str = "\
Exit codes: 0 good; 1 a requirement was missed; 2 wrong usage; 3 the run could not be made.

Every latency is counted from the moment at which an order was meant to leave, not from when it \
did. The swarm enrolls into a group of its own, answers without acting, and is revoked in the \
end, also after Ctrl-C. A platform is started on free ports of loopback unless the scenario, or \
--platform given, says that one runs already.";

/// Measures a Tocsin platform with a swarm of simulated devices.
#[derive(Debug, Parser)]
#[command(name = "tocsin-loadtest", version, after_help = AFTER, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Anything but a run.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// A run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Anything but a run.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Put reports of several runs side by side, with ratios to the first
    Compare(CompareArgs),
    /// Draw one plot of reports as an SVG file
    Plot(PlotArgs),
    /// Measure NATS, nchan and mosquitto beside Tocsin, in turn, with a table of ratios
    Peers(PeersArgs),
    /// Measure sessions and commands at several numbers of sessions and hubs, and what follows from it
    Scaling(ScalingArgs),
    /// List the scenarios that are shipped, or print one as a file to begin with
    Scenarios(ScenariosArgs),
    /// A part of a swarm, for a harness that has started it
    #[command(hide = true)]
    Worker,
    /// A server that ends with the harness that has started it
    #[command(hide = true)]
    Leash(LeashArgs),
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Reports as JSON, the one to compare with first
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub reports: Vec<PathBuf>,
    /// Write the comparison as one HTML file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// What must be true of the last report, or of ratios to the first, such as
    /// 'ratio.latency_ms.acked.p99<=1.1'
    #[arg(long = "require", value_name = "PATH<=N")]
    pub requirements: Vec<Requirement>,
}

/// Arguments of `plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Reports as JSON, each of which becomes a curve
    #[arg(required = true, value_name = "FILE")]
    pub reports: Vec<PathBuf>,
    /// What is drawn
    #[arg(long, value_enum, default_value_t = Picture::Stages)]
    pub of: Picture,
    /// The file that is written
    #[arg(long, value_name = "FILE")]
    pub svg: PathBuf,
}

/// Arguments of `peers`.
#[derive(Debug, Args)]
pub struct PeersArgs {
    /// Which servers, the one to compare with first
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    #[arg(default_value = "tocsin,nats,nchan,mosquitto")]
    pub servers: Vec<Server>,
    /// Sessions
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub connections: u32,
    /// How often each server is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Messages per second
    #[arg(long, default_value = "100/s")]
    pub rate: Rate,
    /// Messages of one device each, in a round
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub messages: u32,
    /// How long quiet sessions are watched, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub idle_secs: u32,
    /// Broadcasts in a round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub broadcasts: u32,
    /// The program `tocsin`, if not the one beside this
    #[arg(long, value_name = "FILE")]
    pub tocsin: Option<PathBuf>,
    /// What must be true of medians or ratios, such as 'ratio.nats.kib_per_connection>=2'
    #[arg(long = "require", value_name = "PATH<=N")]
    pub requirements: Vec<Requirement>,
    /// Write the comparison as JSON as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the comparison as one HTML file as well
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl PeersArgs {
    /// How much of it.
    pub fn load(&self) -> Load {
        Load {
            servers: self.servers.clone(),
            connections: self.connections,
            rounds: self.rounds,
            rate: self.rate,
            messages: self.messages,
            idle_secs: self.idle_secs,
            broadcasts: self.broadcasts,
            program: self.tocsin.clone(),
        }
    }
}

/// Arguments of `scenarios`.
#[derive(Debug, Args)]
pub struct ScenariosArgs {
    /// The one to print
    pub name: Option<String>,
}

/// Arguments of a run.
#[derive(Args)]
pub struct RunArgs {
    /// A shipped scenario (see `scenarios`), or a file of your own
    #[arg(required = true)]
    pub scenario: Option<String>,
    /// Devices with a session (population.connections)
    #[arg(long, value_name = "N")]
    pub connections: Option<u64>,
    /// Rate of orders, in every phase that has some
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// How many orders, in every phase that has some
    #[arg(long, value_name = "N")]
    pub orders: Option<u64>,
    /// Seconds of every phase that has any
    #[arg(long, value_name = "SECS")]
    pub secs: Option<f64>,
    /// Change the scenario, such as population.check_in_secs=5 or phase.storm.cut_at_secs=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub changes: Vec<String>,
    /// How the platform runs (platform.start)
    #[arg(long, value_enum)]
    pub platform: Option<Platform>,
    /// The program `tocsin`, if not the one beside this
    #[arg(long, value_name = "FILE")]
    pub tocsin: Option<PathBuf>,
    /// Address of the operator port of a platform that runs already
    #[arg(long, env = "TOCSIN_URL", value_name = "URL", default_value = "https://127.0.0.1:7442")]
    pub api: String,
    /// Its authority's certificate (PEM)
    #[arg(long, env = "TOCSIN_CA", value_name = "FILE", hide_env_values = true)]
    pub ca: Option<PathBuf>,
    /// API token; others on this machine can see it here, so prefer TOCSIN_TOKEN
    #[arg(long, env = "TOCSIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Look at a process that the harness did not start, such as hub-1=4711 or postgres=815
    #[arg(long = "watch", value_name = "ROLE=PID", value_parser = parse_watched)]
    pub watched: Vec<(String, u32)>,
    /// Processes that hold sessions; as many as are needed, unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub workers: Option<u64>,
    /// Address that connections come from; may be repeated. On loopback the harness takes more by
    /// itself
    #[arg(long = "source", value_name = "IP")]
    pub sources: Vec<IpAddr>,
    /// Seconds to wait for all agents to connect, for an answer of the operator port (30 at least), and
    /// for the last receipt to be confirmed
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// Leave the devices enrolled on a platform that runs already
    #[arg(long)]
    pub keep: bool,
    /// What the run is called in comparisons; otherwise as its scenario
    #[arg(long)]
    pub label: Option<String>,
    /// What must be true of the report, such as 'latency_ms.acked.p99<=15'
    #[arg(long = "require", value_name = "PATH<=N")]
    pub requirements: Vec<Requirement>,
    /// Write the report as JSON as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML file as well
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Log lines, also when standard output is a terminal
    #[arg(long)]
    pub plain: bool,
}

/// How the platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// Everything in one process, which the harness starts
    Up,
    /// Redis, control plane and hubs as processes, which the harness starts
    Split,
    /// It runs already
    Given,
}

impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunArgs")
            .field("scenario", &self.scenario)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

fn parse_watched(text: &str) -> Result<(String, u32), String> {
    let failed = || "not ROLE=PID".to_owned();
    let (role, pid) = text.split_once('=').ok_or_else(failed)?;
    let pid = pid.trim().parse().map_err(|_| failed())?;
    if role.is_empty() { Err(failed()) } else { Ok((role.to_owned(), pid)) }
}

/// Why a command line cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// There is no such scenario.
    #[error("there is no scenario {name:?} and no such file; there are {}", known())]
    NoScenario {
        /// What was asked for.
        name: String,
    },
    /// The scenario's file.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file.
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    /// A plot of what was not measured.
    #[error("none of the reports has anything of that plot")]
    NothingToPlot,
    /// A file that is no report.
    #[error("{path} is not a report: {why}")]
    Report {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

fn known() -> String {
    SHIPPED.map(|(name, _)| name).join(", ")
}

impl RunArgs {
    /// The scenario with every change.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn plan(&self) -> Result<Plan, UsageError> {
        let name = self.scenario.clone().unwrap_or_default();
        let text = match plan::shipped(&name) {
            Some(text) => text.to_owned(),
            None => match fs::read_to_string(&name) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(UsageError::NoScenario { name });
                }
                Err(error) => return Err(UsageError::File(name.into(), error)),
            },
        };
        let as_it_is = plan::load(&name, &text, &[])?;
        let changes = self.changes(&as_it_is);
        let mut plan = plan::load(&name, &text, &changes)?;
        plan.require.extend(self.requirements.iter().cloned());
        Ok(plan)
    }

    /// The changes that options stand for, the general ones first.
    fn changes(&self, plan: &Plan) -> Vec<String> {
        let mut changes = Vec::new();
        if let Some(connections) = self.connections {
            changes.push(format!("population.connections={connections}"));
        }
        if let Some(platform) = self.platform {
            let word = match platform {
                Platform::Up => "up",
                Platform::Split => "split",
                Platform::Given => "given",
            };
            changes.push(format!("platform.start={word}"));
        }
        for phase in &plan.phases {
            let name = &phase.name;
            if let (Some(secs), Some(_)) = (self.secs, phase.secs) {
                changes.push(format!("phase.{name}.secs={secs:?}"));
            }
            if phase.orders.is_some() {
                let rate = self.rate.map(|rate| format!("phase.{name}.orders.rate={rate}"));
                let count = self.orders.map(|count| format!("phase.{name}.orders.count={count}"));
                changes.extend(rate.into_iter().chain(count));
            }
        }
        changes.extend(self.changes.iter().cloned());
        changes
    }

    /// What the run takes besides its plan.
    ///
    /// # Errors
    /// [`UsageError::File`].
    pub fn options(&self, plan: &Plan) -> Result<Options, UsageError> {
        let access = match (&self.ca, &self.token, plan.platform.start) {
            (Some(ca), Some(token), Start::Given) => {
                let read = fs::read_to_string(ca);
                let ca_pem = read.map_err(|error| UsageError::File(ca.clone(), error))?;
                Some(Access { api: self.api.clone(), ca_pem, token: token.clone() })
            }
            _ => None,
        };
        let file = PathBuf::from(self.scenario.clone().unwrap_or_default());
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Options {
            label: self.label.clone().unwrap_or_else(|| stem.clone()),
            scenario: stem,
            access,
            program: self.tocsin.clone(),
            workers: self.workers,
            sources: self.sources.clone(),
            watched: self.watched.clone(),
            patience: Duration::from_secs(self.patience),
            keep: self.keep,
        })
    }
}
