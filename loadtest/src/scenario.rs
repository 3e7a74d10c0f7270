//! The scenarios: what is done, in which order, and how it is tidied up.
//!
//! Owns the frame around each of them: enough open files, a swarm of its own group, revocation in
//! the end however the middle went.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::DeviceId;
use runtime::lifecycle::CancellationToken;
use runtime::{Clock, Drain, Entropy};

use crate::book::Book;
use crate::cli::{Cli, Common, Scenario};
use crate::fleet::{self, Enrolled, FleetError};
use crate::http::HttpError;
use crate::open_files::{self, OpenFilesError};
use crate::operator::{Operator, OperatorError};
use crate::probe::ProbeError;
use crate::report::{Findings, Report, SCHEMA};
use crate::swarm::{Pace, Swarm};

mod connect;
mod idle;
mod order_to_ack;

/// How long an interrupted run still waits for what is out.
const HURRY: Duration = Duration::from_secs(10);

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The limit of open files.
    #[error("there are not enough open files")]
    OpenFiles(#[from] OpenFilesError),
    /// The operator's port, before anything began.
    #[error("the operator's port cannot be used")]
    Operator(#[from] OperatorError),
    /// The swarm could not be enrolled.
    #[error("the swarm could not be enrolled")]
    Enroll(#[from] FleetError),
    /// The address of a hub.
    #[error("the hub cannot be used")]
    Hub(#[from] HttpError),
    /// Some agents have no session.
    #[error("{connected} of {agents} agents have a session; errors: {errors}")]
    NotConnected {
        /// How many have one.
        connected: usize,
        /// How many there are.
        agents: usize,
        /// What went wrong, by kind.
        errors: String,
    },
    /// The hub's process cannot be looked at.
    #[error("the hub's process cannot be measured")]
    Probe(#[from] ProbeError),
    /// Ctrl-C before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

/// Whether a platform did as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Good,
    /// It did not.
    Bad,
}

impl Report {
    /// Orders lost, doubled or failed, thresholds missed and sessions dropped are bad.
    pub fn verdict(&self) -> Verdict {
        let is_good = match &self.findings {
            Findings::OrderToAck(orders) => {
                let counts = &orders.counts;
                counts.lost + counts.doubled + counts.failed == 0 && orders.missed.is_empty()
            }
            Findings::Idle(idle) => idle.dropped == 0,
            Findings::Connect(_) => true,
        };
        if is_good { Verdict::Good } else { Verdict::Bad }
    }
}

/// What a scenario works with.
#[derive(Debug)]
struct Bench<'a> {
    clock: Clock,
    entropy: Entropy,
    operator: Operator,
    book: Arc<Book>,
    common: &'a Common,
    drain: &'a Drain,
}

/// Makes a run, from enrollment to revocation.
///
/// # Errors
/// [`RunError`] when nothing could be measured. What was enrolled is revoked then as well.
pub async fn run(cli: &Cli, drain: &Drain) -> Result<Report, RunError> {
    let common = cli.common();
    let (clock, entropy) = (Clock::system(), Entropy::system());
    let connections = match &cli.scenario {
        Scenario::OrderToAck(args) => u64::from(args.connections) * 3,
        Scenario::Idle(_) | Scenario::Connect(_) => 0,
    };
    open_files::raise(u64::from(common.agents) + connections)?;
    let operator = Operator::new(&common.api, &common.ca, &common.token, entropy.clone())?;
    let book = Arc::new(Book::default());
    let bench = Bench { clock, entropy, operator, book, common, drain };

    let started_at_ms = bench.clock.unix_millis();
    let group = fleet::group(&bench.entropy);
    let agents = usize::try_from(common.agents).unwrap_or(usize::MAX);
    tracing::info!(agents, group = group.as_str(), "enrolling");
    let enrollment = fleet::enroll(&bench.operator, agents, &group, drain).await;
    let ids: Vec<_> = enrollment.devices.iter().map(|device| device.id).collect();
    let outcome = match enrollment.error {
        Some(error) => Err(error.into()),
        None if drain.is_draining() => Err(RunError::Interrupted),
        None => Box::pin(bench.play(&cli.scenario, enrollment.devices)).await,
    };
    bench.tidy(&ids).await;
    Ok(Report {
        schema: SCHEMA,
        started_at_ms,
        agents,
        interrupted: drain.is_draining(),
        findings: outcome?,
        errors: bench.book.errors(),
    })
}

impl Bench<'_> {
    async fn play(
        &self,
        scenario: &Scenario,
        devices: Vec<Enrolled>,
    ) -> Result<Findings, RunError> {
        match scenario {
            Scenario::OrderToAck(args) => {
                order_to_ack::play(self, args, devices).await.map(Findings::OrderToAck)
            }
            Scenario::Idle(args) => idle::play(self, args, devices).await.map(Findings::Idle),
            Scenario::Connect(args) => {
                connect::play(self, args, devices).await.map(Findings::Connect)
            }
        }
    }

    async fn tidy(&self, ids: &[DeviceId]) {
        if self.common.keep || ids.is_empty() {
            return;
        }
        tracing::info!(devices = ids.len(), "revoking");
        match fleet::revoke(&self.operator, ids, self.drain).await {
            0 => {}
            left => tracing::warn!(devices = left, "devices were not revoked"),
        }
    }

    fn swarm(&self, devices: Vec<Enrolled>, pace: Pace) -> Result<Swarm, RunError> {
        let sources = (self.clock.clone(), self.entropy.clone());
        Ok(Swarm::start(devices, pace, self.book.clone(), sources)?)
    }

    /// How agents begin, unless a scenario wants it otherwise.
    fn gentle(&self) -> Pace {
        let at_once = usize::from(self.common.connecting);
        Pace { at_once, rate: Some(self.common.connect_rate) }
    }

    /// Waits until all have a session. Connections at a rate need their time besides.
    async fn all_connected(&self, swarm: &Swarm, agents: usize) -> Result<(), RunError> {
        let ramp = f64::from(self.common.agents) / self.common.connect_rate.per_sec();
        let limit = self.common.patience() + Duration::from_secs_f64(ramp);
        let is_there = tokio::select! {
            biased;
            () = self.drain.soft().cancelled() => return Err(RunError::Interrupted),
            waited = tokio::time::timeout(limit, swarm.all_connected()) => waited.is_ok(),
        };
        if is_there {
            return Ok(());
        }
        let errors = self.book.errors();
        let errors: Vec<_> = errors.iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
        let errors = errors.join(", ");
        Err(RunError::NotConnected { connected: swarm.connected(), agents, errors })
    }

    /// Waits for so long, or until the first Ctrl-C.
    async fn rest(&self, duration: Duration) {
        let soft: &CancellationToken = self.drain.soft();
        let _ = tokio::time::timeout(duration, soft.cancelled()).await;
    }
}
