//! Carrying a command line out, to the end of the process.
//!
//! Owns what is printed and written, and the exit code. Measures nothing.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use runtime::Drain;
use runtime::lifecycle::CancellationToken;
use runtime::observability::{self, ObservabilityConfig};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::{
    Cli, CompareArgs, PeersArgs, PlotArgs, RunArgs, ScalingArgs, ScenariosArgs, UsageError, Verb,
};
use crate::live::Live;
use crate::plan::{self, SHIPPED};
use crate::report::SCHEMA;
use crate::scaling::{self, Scaling};
use crate::{compare, crew, dashboard, html, open_files, peers, run};

/// From Ctrl-C to giving up: what is out is waited for, and the devices are revoked.
const GRACE: Duration = Duration::from_secs(60);
/// The platform did not do as it should.
const MISSED: u8 = 1;
/// What was asked for cannot be meant.
const USAGE: u8 = 2;
/// The run itself failed; 1 says that the platform did.
const COULD_NOT_RUN: u8 = 3;

/// Carries it out.
pub fn carry_out(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            let is_usage = error.downcast_ref::<UsageError>().is_some();
            // Whoever reads neither output is told by the code alone.
            let _ = writeln!(std::io::stderr(), "tocsin-loadtest: {error:#}");
            ExitCode::from(if is_usage { USAGE } else { COULD_NOT_RUN })
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.verb {
        None => {
            let is_drawn = dashboard::has_terminal() && !cli.run.plain;
            // Lines would run into the picture, which shows them itself.
            log(if is_drawn { "off" } else { "warn,loadtest=info" })?;
            in_runtime(Box::pin(run(cli.run, is_drawn)))
        }
        Some(Verb::Compare(args)) => side_by_side(&args),
        Some(Verb::Plot(args)) => plot(&args),
        Some(Verb::Peers(args)) => {
            log("warn,loadtest=info")?;
            in_runtime(Box::pin(peers(args)))
        }
        Some(Verb::Scaling(args)) => {
            log("warn,loadtest=info")?;
            in_runtime(Box::pin(scaling(args)))
        }
        Some(Verb::Scenarios(args)) => scenarios(&args),
        Some(Verb::Leash(args)) => Err(args.become_it().into()),
        Some(Verb::Worker) => {
            log("warn")?;
            in_runtime(async {
                crew::work().await;
                Ok(ExitCode::SUCCESS)
            })
        }
    }
}

fn log(filter: &str) -> anyhow::Result<()> {
    let filter = filter.to_owned();
    Ok(observability::init(&ObservabilityConfig { filter, ..Default::default() })?)
}

fn in_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A worker's read of its standard input cannot be called back.
    runtime.shutdown_background();
    outcome
}

async fn run(args: RunArgs, is_drawn: bool) -> anyhow::Result<ExitCode> {
    let plan = args.plan()?;
    let options = args.options(&plan)?;
    let drain = Drain::on_signals(GRACE).context("signals cannot be listened to")?;
    let live = watch::Sender::new(Live::default());
    let (mut drawing, stop) = (JoinSet::new(), CancellationToken::new());
    if is_drawn {
        drawing.spawn(dashboard::show(live.subscribe(), stop.clone()));
    }
    let report = Box::pin(run::run(&plan, &options, &live, &drain)).await;
    stop.cancel();
    while drawing.join_next().await.is_some() {}
    let report = report?;
    print(&report.to_string())?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(path) = &args.html {
        write(path, html::page(std::slice::from_ref(&report)).as_bytes())?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

async fn peers(args: PeersArgs) -> anyhow::Result<ExitCode> {
    let drain = Drain::on_signals(GRACE).context("signals cannot be listened to")?;
    open_files::raise()?;
    let mut comparison = Box::pin(peers::compare(&args.load(), &drain)).await?;
    comparison.judge(&args.requirements)?;
    print(&comparison.to_string())?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_vec_pretty(&comparison)?)?;
    }
    if let Some(path) = &args.html {
        write(path, peers::page::page(&comparison).as_bytes())?;
    }
    Ok(if comparison.is_good() { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

async fn scaling(args: ScalingArgs) -> anyhow::Result<ExitCode> {
    let fleet = args.fleet.fleet();
    let scaling = match &args.from {
        Some(path) => read::<Scaling>(path, scaling::SCHEMA)?.with_fleet(fleet),
        None => {
            let drain = Drain::on_signals(GRACE).context("signals cannot be listened to")?;
            Box::pin(scaling::measure(&args.sizes(), fleet, &drain)).await?
        }
    };
    print(&scaling::page::markdown(&scaling))?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_vec_pretty(&scaling)?)?;
    }
    if let Some(path) = &args.html {
        write(path, scaling::page::page(&scaling).as_bytes())?;
    }
    Ok(if scaling.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

fn side_by_side(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let reports =
        args.reports.iter().map(|path| read(path, SCHEMA)).collect::<Result<Vec<_>, _>>()?;
    print(&compare::table(&reports))?;
    if let Some(path) = &args.html {
        write(path, html::page(&reports).as_bytes())?;
    }
    let judged = compare::judged(&reports);
    let missed: Vec<_> =
        args.requirements.iter().filter_map(|requirement| requirement.missed(&judged)).collect();
    for missed in &missed {
        print(&format!("MISSED       {missed}\n"))?;
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(MISSED) })
}

fn plot(args: &PlotArgs) -> anyhow::Result<ExitCode> {
    let reports =
        args.reports.iter().map(|path| read(path, SCHEMA)).collect::<Result<Vec<_>, _>>()?;
    let drawn = args.of.svg(&reports).ok_or(UsageError::NothingToPlot)?;
    write(&args.svg, drawn.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A document that was written before. One of another schema is refused by its name.
fn read<T: DeserializeOwned>(path: &Path, schema: &str) -> Result<T, UsageError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| UsageError::File(path.to_owned(), error))?;
    let failed = |why: String| UsageError::Report { path: path.to_owned(), why };
    let document: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    if document.get("schema").and_then(serde_json::Value::as_str) != Some(schema) {
        return Err(failed(format!("its schema is not {schema}")));
    }
    serde_json::from_value(document).map_err(|error| failed(error.to_string()))
}

fn scenarios(args: &ScenariosArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = &args.name else {
        for (name, text) in SHIPPED {
            let plan = plan::load(name, text, &[]).map_err(UsageError::from)?;
            print(&format!("{name:<18}{}\n", plan.about))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let no_scenario = || UsageError::NoScenario { name: name.clone() };
    print(plan::shipped(name).ok_or_else(no_scenario)?)?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("nothing can be printed")
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
