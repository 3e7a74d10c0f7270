//! What a fleet costs, by its size: the same scenario at several numbers of sessions and of hubs, one
//! table of it, and what follows from it for a fleet that fits on no one machine.
//!
//! Owns which sizes are measured and the JSON form. What a size came to is read by `point`, what
//! follows is reckoned by `derive`, from nothing but the document: it can be done again without
//! measuring.

use std::path::PathBuf;
use std::time::Duration;

use runtime::{Clock, Drain};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::live::Live;
use crate::plan::{self, PlanError, Store};
use crate::probe;
use crate::rate::Rate;
use crate::report::{Machine, PhaseReport, Report};
use crate::run::{self, Options, RunError};

pub use self::derive::{Fleet, Given, Line};
use self::point::Micros;
pub use self::point::{CheckIns, Most, Point};

mod derive;
pub mod page;
mod point;
#[cfg(test)]
mod tests;

/// What the JSON form calls itself. Fields may be added to it; none is taken away or changed.
pub const SCHEMA: &str = "tocsin-loadtest-scaling-1";
/// What is said of a size whose quiet phase is short.
const ROUGH: &str = "what quiet sessions take is a guess, and what is reckoned from it";
const POINT: (&str, &str) = ("scaling/point.toml", include_str!("../scaling/point.toml"));
const CHECK_INS: (&str, &str) =
    ("scaling/check-ins.toml", include_str!("../scaling/check-ins.toml"));
const MOST: (&str, &str) = ("scaling/most.toml", include_str!("../scaling/most.toml"));

/// How long many thousands may take to come back when all of them are cut.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why nothing is known of a fleet.
#[derive(Debug, thiserror::Error)]
pub enum ScalingError {
    /// Our own scenarios with the changes of the command line.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Not one size could be measured.
    #[error("no size could be measured: {0}")]
    Nothing(String),
    /// A report could not be kept.
    #[error("{0} cannot be written")]
    Kept(PathBuf, #[source] std::io::Error),
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Sessions of one hub, measured with that many.
    pub connections: Vec<u64>,
    /// Numbers of hubs beside one.
    pub hubs: Vec<u32>,
    /// Sessions of each hub where there are several.
    pub per_hub: u64,
    /// What the control plane writes to.
    pub store: Store,
    /// Orders of one device each.
    pub rate: Rate,
    /// How long quiet sessions are watched, in seconds.
    pub quiet_secs: u32,
    /// How long orders of one device each are given, in seconds.
    pub order_secs: u32,
    /// Devices that only check in; none: what that costs is not measured.
    pub polling: u64,
    /// Orders at a rate that cannot be held; none: the highest rate is not measured.
    pub flood: u64,
    /// After that no further size is begun.
    pub at_most: Duration,
    /// The program `tocsin`, if not the one beside this.
    pub program: Option<PathBuf>,
    /// Where the report of every run is kept.
    pub reports: Option<PathBuf>,
}

impl Sizes {
    /// Hubs and sessions of each size: first one hub with more and more, then more hubs.
    fn all(&self) -> Vec<(u32, u64)> {
        let one = self.connections.iter().map(|connections| (1, *connections));
        let several = self.hubs.iter().filter(|hubs| **hubs > 1);
        one.chain(several.map(|hubs| (*hubs, u64::from(*hubs) * self.per_hub))).collect()
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// The form of this document: [`SCHEMA`].
    pub schema: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// How long it took, in seconds.
    pub secs: f64,
    /// The machine.
    pub machine: Machine,
    /// What the control plane wrote to.
    #[serde(default)]
    pub store: Store,
    /// What each size came to.
    pub points: Vec<Point>,
    /// What a check-in costs, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_ins: Option<CheckIns>,
    /// The highest rate of orders, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<Most>,
    /// The fleet that is reckoned with.
    pub fleet: Fleet,
    /// What follows for it.
    pub derivation: Vec<Line>,
    /// What was not measured, and why.
    pub notes: Vec<String>,
    /// Sizes that did not do their work, and are left out.
    #[serde(default)]
    pub failed: u32,
}

impl Scaling {
    /// Reckons anew, for that fleet.
    #[must_use]
    pub fn with_fleet(mut self, fleet: Fleet) -> Self {
        self.derivation = derive::lines(&self.points, (self.check_ins, self.most), &fleet);
        self.fleet = fleet;
        self
    }
}

/// Measures every size. One that fails is noted and left out.
///
/// # Errors
/// [`ScalingError`].
pub async fn measure(sizes: &Sizes, fleet: Fleet, drain: &Drain) -> Result<Scaling, ScalingError> {
    let clock = Clock::system();
    let (began, started_at_ms, load_before) = (clock.now(), clock.unix_millis(), probe::load());
    let stolen_before = probe::stolen();
    let clock_now = clock.clone();
    let mut runner = Runner { sizes, drain, clock: clock_now, began, notes: Vec::new(), failed: 0 };
    let mut points = Vec::new();
    for (hubs, connections) in sizes.all() {
        let changes = [
            format!("platform.hubs={hubs}"),
            format!("population.connections={connections}"),
            format!("phase.quiet.secs={}", sizes.quiet_secs),
            format!("phase.orders.secs={}", sizes.order_secs),
            format!("phase.orders.orders.rate={}", sizes.rate),
        ];
        let label = point::label(hubs, connections);
        if let Some(report) = Box::pin(runner.run(POINT, &label, &changes)).await? {
            points.push(Point::of(&report, label, hubs));
        }
    }
    if points.is_empty() {
        return Err(ScalingError::Nothing(runner.notes.join("; ")));
    }
    let (check_ins, most) = Box::pin(runner.besides(Point::background(&points))).await?;
    let machine = Machine {
        processors: probe::processors(),
        kernel: probe::kernel_version(),
        load_before,
        load_after: probe::load(),
        steal_ms: probe::stolen_ms(stolen_before, probe::stolen()),
    };
    let scaling = Scaling {
        schema: SCHEMA.to_owned(),
        started_at_ms,
        secs: clock.now().saturating_duration_since(began).as_secs_f64(),
        machine,
        store: sizes.store,
        points,
        check_ins,
        most,
        fleet: fleet.clone(),
        derivation: Vec::new(),
        notes: runner.notes,
        failed: runner.failed,
    };
    Ok(scaling.with_fleet(fleet))
}

struct Runner<'a> {
    sizes: &'a Sizes,
    drain: &'a Drain,
    clock: Clock,
    began: std::time::Instant,
    notes: Vec<String>,
    /// Sizes that did not do their work.
    failed: u32,
}

impl Runner<'_> {
    /// What is of no size: a check-in, and the highest rate of orders.
    async fn besides(
        &mut self,
        background: Micros,
    ) -> Result<(Option<CheckIns>, Option<Most>), ScalingError> {
        let Sizes { polling, quiet_secs, flood, .. } = *self.sizes;
        let (mut check_ins, mut most) = (None, None);
        if polling > 0 {
            let changes =
                [format!("population.polling={polling}"), format!("phase.quiet.secs={quiet_secs}")];
            let report = Box::pin(self.run(CHECK_INS, derive::CHECK_INS, &changes)).await?;
            check_ins = report.and_then(|report| CheckIns::of(&report, background));
        }
        if flood > 0 {
            let changes = [format!("phase.orders.orders.count={flood}")];
            let report = Box::pin(self.run(MOST, derive::MOST, &changes)).await?;
            most = report.as_ref().and_then(Most::of);
        }
        Ok((check_ins, most))
    }

    /// Runs a scenario of ours; `None` when there is no time left or it fails, which is noted.
    async fn run(
        &mut self,
        (name, text): (&str, &str),
        label: &str,
        changes: &[String],
    ) -> Result<Option<Report>, ScalingError> {
        let store = format!("platform.store={}", self.sizes.store.as_str());
        let plan = plan::load(name, text, &[&[store], changes].concat())?;
        if self.drain.is_draining() {
            self.notes.push(format!("{label}: not measured, interrupted"));
            return Ok(None);
        }
        if self.clock.now().saturating_duration_since(self.began) > self.sizes.at_most {
            self.notes.push(format!("{label}: not measured, the time was over"));
            return Ok(None);
        }
        tracing::info!("measuring: {label}");
        let options = Options {
            scenario: "scaling".to_owned(),
            label: label.to_owned(),
            program: self.sizes.program.clone(),
            patience: PATIENCE,
            ..Options::default()
        };
        let live = watch::Sender::new(Live::default());
        let report = match Box::pin(run::run(&plan, &options, &live, self.drain)).await {
            Ok(report) => report,
            Err(error) => {
                self.notes.push(format!("{label}: not measured, {}", chain(&error)));
                return Ok(None);
            }
        };
        self.keep(&report)?;
        // Everything that is derived rests on every number: none of them may be a guess.
        if let Some(lacks) = report.lacks() {
            self.notes.push(format!("{label}: left out, {lacks}"));
            return Ok(None);
        }
        if report.interrupted {
            self.notes.push(format!("{label}: left out, interrupted"));
            return Ok(None);
        }
        // What did not do its work says nothing of what the work costs.
        if !report.is_good() {
            self.failed += 1;
            self.notes.push(format!("{label}: left out, {}", report.missed.join(", ")));
            return Ok(None);
        }
        if report.counts.failed > 0 {
            let (failed, ordered) = (report.counts.failed, report.counts.ordered);
            self.notes.push(format!("{label}: {failed} orders failed beside {ordered} commands"));
        }
        let is_quiet = |phase: &PhaseReport| phase.name == "quiet";
        if let Some(PhaseReport { quiet: None, .. }) =
            report.phases.iter().find(|own| is_quiet(own))
        {
            self.notes.push(format!("{label}: not quiet for whole heartbeats, {ROUGH}"));
        }
        Ok(Some(report))
    }

    fn keep(&self, report: &Report) -> Result<(), ScalingError> {
        let Some(folder) = &self.sizes.reports else { return Ok(()) };
        let name = report.label.replace(", ", "-").replace(' ', "-").replace(',', "");
        let path = folder.join(format!("{name}.json"));
        let text = serde_json::to_vec_pretty(report).unwrap_or_default();
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text));
        written.map_err(|error| ScalingError::Kept(path, error))
    }
}

fn chain(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
