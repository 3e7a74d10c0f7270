//! `tocsin-loadtest`: measures a platform from outside.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::scenario::{self, Verdict};
use runtime::Drain;
use runtime::observability::{self, ObservabilityConfig};

/// From Ctrl-C to giving up: what is out is waited for, and the devices are revoked.
const GRACE: Duration = Duration::from_secs(60);
/// The run itself failed; 1 says that the platform did.
const COULD_NOT_RUN: u8 = 3;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let filter = "warn,loadtest=info".to_owned();
    observability::init(&ObservabilityConfig { filter, ..Default::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let drain = Drain::on_signals(GRACE).context("signals cannot be listened to")?;
        let report = Box::pin(scenario::run(&cli, &drain)).await?;
        let mut out = std::io::stdout();
        write!(out, "{report}").context("the report cannot be printed")?;
        if let Some(path) = &cli.common().json {
            let json = serde_json::to_vec_pretty(&report)?;
            std::fs::write(path, json)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(report.verdict())
    })
}
