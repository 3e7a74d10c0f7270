//! The same load against other servers, from Debian's packages: NATS, nchan and mosquitto.
//!
//! Owns the comparison: which server is measured when, and its JSON form. All of them run in one
//! interleaved run on one machine, over the same TLS stack of the client. None of the others
//! stores, signs or acknowledges what Tocsin does, and the table says so.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::{Clock, Drain};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::evaluate::float;
use crate::latency::{Durations, Latency};
use crate::live::Live;
use crate::moment::Timeline;
use crate::plan::{self, PlanError};
use crate::probe;
use crate::rate::Rate;
use crate::report::{Machine, PhaseReport, Report};
use crate::require::Requirement;
use crate::run::{self, Options, RunError};
use crate::site::process::ProcessError;

use self::bench::Stand;
use self::wire::Wire;

mod authority;
mod bench;
pub mod page;
mod table;
mod wire;

#[cfg(test)]
mod tests;

/// What the JSON form calls itself. Fields may be added to it; none is taken away or changed.
pub const SCHEMA: &str = "tocsin-loadtest-peers-2";
/// What is done with Tocsin.
const SCENARIO: &str = include_str!("../peers/tocsin.toml");

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(clap::ValueEnum)]
pub enum Server {
    /// Redis, control plane and one hub.
    Tocsin,
    /// nats-server.
    Nats,
    /// nginx with libnginx-mod-nchan.
    Nchan,
    /// mosquitto.
    Mosquitto,
}

impl Server {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Tocsin, Self::Nats, Self::Nchan, Self::Mosquitto];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tocsin => "tocsin",
            Self::Nats => "nats",
            Self::Nchan => "nchan",
            Self::Mosquitto => "mosquitto",
        }
    }

    /// What it does with a message that it took.
    pub fn promises(self) -> Promises {
        let (has_all, sentence) = match self {
            Self::Tocsin => (
                true,
                "Writes each order to disk before it answers, signs a command for each device, waits \
                 for the device's ack, and keeps the receipt that the device signs.",
            ),
            Self::Nats => (
                false,
                "Core NATS: passes the message on to whoever hears at that moment. No durable write, \
                 no signature, no ack; who is away misses it.",
            ),
            Self::Nchan => (
                false,
                "Keeps the last message of a channel in memory for a minute. No durable write, no \
                 signature, no ack.",
            ),
            Self::Mosquitto => (
                false,
                "QoS 0 without persistence: passes the message on to whoever hears at that moment. \
                 No durable write, no signature, no ack.",
            ),
        };
        let sentence = sentence.to_owned();
        Promises { durable: has_all, signed: has_all, acked: has_all, sentence }
    }
}

/// What a server does with a message that it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// It is on a disk before it is answered for.
    pub durable: bool,
    /// It is signed for its receiver.
    pub signed: bool,
    /// The receiver's word that it has it is waited for.
    pub acked: bool,
    /// The same for people.
    pub sentence: String,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// A server does not start.
    #[error("{server} does not start; is its Debian package installed?")]
    Start {
        /// Which.
        server: &'static str,
        /// Why.
        source: ProcessError,
    },
    /// A file of it.
    #[error("its files cannot be written")]
    Files(#[source] std::io::Error),
    /// Certificates.
    #[error("no certificate could be made")]
    Certificates(#[from] rcgen::Error),
    /// TLS.
    #[error("tls cannot be set up")]
    Tls(#[from] runtime::tls::TlsError),
    /// A client.
    #[error("{server}: a client could not connect: {why}")]
    Client {
        /// Which server.
        server: &'static str,
        /// Why.
        why: String,
    },
    /// Messages did not come.
    #[error("{server}: {came} of {wanted} messages came")]
    Lost {
        /// Which server.
        server: &'static str,
        /// How many came.
        came: u64,
        /// How many were to.
        wanted: u64,
    },
    /// The machine's clock.
    #[error("the machine's clock cannot be read")]
    Clock(#[from] nix::errno::Errno),
    /// Tocsin's own run.
    #[error("tocsin could not be measured")]
    Run(#[from] RunError),
    /// Tocsin's own scenario.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// How much of it.
#[derive(Debug, Clone)]
pub struct Load {
    /// Which servers.
    pub servers: Vec<Server>,
    /// Sessions.
    pub connections: u32,
    /// How often each server is measured.
    pub rounds: u32,
    /// Messages per second.
    pub rate: Rate,
    /// Messages of one device each, in a round.
    pub messages: u32,
    /// How long quiet sessions are watched, in seconds.
    pub idle_secs: u32,
    /// Broadcasts in a round.
    pub broadcasts: u32,
    /// The program `tocsin`, if not the one beside this.
    pub program: Option<std::path::PathBuf>,
}

/// What one server came to in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Memory (PSS) of a quiet session, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kib_per_connection: Option<f64>,
    /// Connections per second with full handshakes.
    pub connects_per_sec: f64,
    /// Processor time of the server for a connection, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_connect: Option<f64>,
    /// Processor time of the server for a quiet session and second, in microseconds; left out where they
    /// are watched for less than two of Tocsin's heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_cpu_us: Option<f64>,
    /// From the moment at which a message was meant to leave to the client, in milliseconds.
    pub unicast_ms: Latency,
    /// Processor time of the server for a message, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_message: Option<f64>,
    /// Processor time of the client for a message, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cpu_us_per_message: Option<f64>,
    /// Until the last client had a broadcast, in milliseconds.
    pub broadcast_last_ms: f64,
    /// Until all were back after a cut, in seconds.
    pub storm_secs: f64,
}

/// One server in all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Which.
    pub server: Server,
    /// What it does with a message.
    pub promises: Promises,
    /// What was measured, round by round.
    pub rounds: Vec<Round>,
}

/// Numbers of each server, by server and name.
pub type ByServer = BTreeMap<Server, BTreeMap<String, f64>>;

/// The comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The form of this document: [`SCHEMA`].
    pub schema: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// The machine.
    pub machine: Machine,
    /// Sessions.
    pub connections: u32,
    /// Messages per second.
    pub rate: Rate,
    /// Messages of one client each, in a round.
    pub messages: u32,
    /// Each server, the one to compare with first.
    pub servers: Vec<Measured>,
    /// Medians over the rounds.
    pub median: ByServer,
    /// The medians divided by those of the first server.
    pub ratio: ByServer,
    /// Requirements that were missed.
    pub missed: Vec<String>,
}

impl Comparison {
    /// Whether no requirement was missed.
    pub const fn is_good(&self) -> bool {
        self.missed.is_empty()
    }

    /// Judges the medians and ratios.
    ///
    /// # Errors
    /// None that a comparison can have: every key is a text and every number is finite.
    pub fn judge(&mut self, requirements: &[Requirement]) -> Result<(), serde_json::Error> {
        let json = serde_json::to_value(&*self)?;
        self.missed = requirements.iter().filter_map(|own| own.missed(&json)).collect();
        Ok(())
    }
}

/// Measures every server as often as asked, in turn.
///
/// # Errors
/// [`PeersError`]. Nothing keeps running then.
pub async fn compare(load: &Load, drain: &Drain) -> Result<Comparison, PeersError> {
    let (load_before, started_at_ms) = (probe::load(), Clock::system().unix_millis());
    let stolen_before = probe::stolen();
    let measured = |server: &Server| Measured {
        server: *server,
        promises: server.promises(),
        rounds: Vec::new(),
    };
    let mut servers: Vec<_> = load.servers.iter().map(measured).collect();
    for round in 1..=load.rounds {
        for Measured { server, rounds, .. } in &mut servers {
            if drain.is_draining() {
                return Err(PeersError::Interrupted);
            }
            tracing::info!(server = server.as_str(), round, "measuring");
            let found = match server {
                Server::Tocsin => Box::pin(tocsin(load, drain)).await?,
                Server::Nats => Box::pin(peer(Wire::Nats, load, drain)).await?,
                Server::Nchan => Box::pin(peer(Wire::Nchan, load, drain)).await?,
                Server::Mosquitto => Box::pin(peer(Wire::Mqtt, load, drain)).await?,
            };
            rounds.push(found);
        }
    }
    let machine = Machine {
        processors: probe::processors(),
        kernel: probe::kernel_version(),
        load_before,
        load_after: probe::load(),
        steal_ms: probe::stolen_ms(stolen_before, probe::stolen()),
    };
    let Load { connections, rate, messages, .. } = *load;
    let (median, ratio) = table::numbers(&servers);
    Ok(Comparison {
        schema: SCHEMA.to_owned(),
        started_at_ms,
        machine,
        connections,
        rate,
        messages,
        servers,
        median,
        ratio,
        missed: Vec::new(),
    })
}

/// Tocsin is measured by its own harness.
async fn tocsin(load: &Load, drain: &Drain) -> Result<Round, PeersError> {
    let changes = [
        format!("population.connections={}", load.connections),
        format!("population.connecting={}", bench::AT_ONCE),
        format!("phase.idle.secs={}", load.idle_secs),
        format!("phase.unicast.orders.rate={}", load.rate),
        format!("phase.unicast.orders.count={}", load.messages),
        format!("phase.broadcast.group.times={}", load.broadcasts),
    ];
    let plan = plan::load("peers/tocsin.toml", SCENARIO, &changes)?;
    let options = Options {
        scenario: "peers".to_owned(),
        label: "tocsin".to_owned(),
        program: load.program.clone(),
        ..Options::default()
    };
    let live = watch::Sender::new(Live::default());
    let report = Box::pin(run::run(&plan, &options, &live, drain)).await?;
    if drain.is_draining() {
        return Err(PeersError::Interrupted);
    }
    // As with the others: numbers of what came, without what did not, would flatter.
    let counts = &report.counts;
    let (came, wanted) = (counts.confirmed, counts.ordered + counts.failed);
    if came < wanted || counts.doubled > 0 {
        return Err(PeersError::Lost { server: "tocsin", came, wanted });
    }
    Ok(of_report(&report))
}

/// The same numbers of Tocsin's own report. All of its processes count, Redis too.
fn of_report(report: &Report) -> Round {
    let hub = report.hub.as_ref();
    let phase = |name: &str| report.phases.iter().find(|phase| phase.name == name);
    let cpu_us = |phase: &PhaseReport, is_meant: &dyn Fn(&str) -> bool| {
        let roles = report.processes.keys().filter(|role| is_meant(role));
        let cpu_ms: Option<u64> = roles.map(|role| phase.cpu_ms.get(role)).sum();
        Some(float(cpu_ms?) * 1e3)
    };
    let is_platform = |role: &str| !crate::meters::is_harness(role);
    let per_message = |is_meant: &dyn Fn(&str) -> bool| {
        let phase = phase("unicast")?;
        Some(cpu_us(phase, is_meant)? / float(phase.acked.max(1)))
    };
    let connecting = phase("connect").filter(|phase| phase.connected > 0);
    let quiet = phase("idle").and_then(|phase| Some((phase.connected, phase.quiet.as_ref()?)));
    Round {
        kib_per_connection: hub.and_then(|hub| hub.kib_per_connection),
        connects_per_sec: report.rates.connects_per_sec.unwrap_or_default(),
        cpu_us_per_connect: connecting
            .and_then(|phase| Some(cpu_us(phase, &is_platform)? / float(phase.connected))),
        quiet_cpu_us: quiet.and_then(|(connected, quiet)| {
            let roles = report.processes.keys().filter(|role| is_platform(role));
            let used: Option<f64> = roles.map(|role| quiet.cpu_us_by_role.get(role)).sum();
            Some(used? / (quiet.secs * float(connected)).max(1e-9))
        }),
        unicast_ms: report.latency_ms.unicast.received.clone(),
        cpu_us_per_message: per_message(&is_platform),
        client_cpu_us_per_message: per_message(&crate::meters::is_harness),
        broadcast_last_ms: report.latency_ms.group.received.max,
        storm_secs: report.rates.back_secs.unwrap_or_default(),
    }
}

/// A peer is measured with a client of our own.
async fn peer(wire: Wire, load: &Load, drain: &Drain) -> Result<Round, PeersError> {
    let timeline = Timeline::new(Clock::system())?;
    let stand = Stand::start(wire, load.connections, timeline).await?;
    let measuring = async {
        let (links, connects) = stand.connect_all().await?;
        let idle = stand.idle(Duration::from_secs(load.idle_secs.into()), drain).await;
        let messages = stand.unicast(load.rate, load.messages).await?;
        let mut last = Durations::default();
        for _ in 0..load.broadcasts {
            last.record(stand.broadcast().await?);
        }
        let cut_at = stand.now();
        drop(links);
        let (links, _) = stand.connect_all().await?;
        let back = stand.now().since(cut_at);
        drop(links);
        Ok(Round {
            kib_per_connection: idle.kib,
            quiet_cpu_us: idle.cpu_us,
            connects_per_sec: connects.per_sec,
            cpu_us_per_connect: connects.cpu_us,
            unicast_ms: messages.latency,
            cpu_us_per_message: messages.cpu_us,
            client_cpu_us_per_message: messages.client_cpu_us,
            broadcast_last_ms: last.latency().max,
            storm_secs: back.as_secs_f64(),
        })
    };
    let outcome = tokio::select! {
        biased;
        () = drain.soft().cancelled() => Err(PeersError::Interrupted),
        outcome = Box::pin(measuring) => outcome,
    };
    stand.stop().await;
    outcome
}
