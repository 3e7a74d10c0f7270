//! `tocsin demo`: the whole path on one machine, with real orders, real sockets and real proof.
//!
//! Starts the platform, enrolls devices, and then does what an operator would do, by running this
//! very program as operators run it. Acts only inside sandboxes of its own: network namespaces,
//! a folder that stands for a file system, and a file that stands for a disk.

mod cast;
mod relay;
pub mod sandbox;
mod stage;
mod tour;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use runtime::Drain;

use crate::demo::cast::Cast;
use crate::demo::stage::Stage;
use crate::output::{Out, Tone};
use crate::platform::Platform;
use crate::roles::DRAIN;

/// How long the platform may take to end; nobody is connected any more.
const LAST: Duration = Duration::from_secs(2);

/// Arguments of `tocsin demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Keep everything running after the tour, until Ctrl-C
    #[arg(long)]
    pub stay: bool,
    /// Simulated devices beside the sandboxed one
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=20))]
    pub simulated: u8,
    /// Folder for everything; by default a temporary one that is removed in the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Runs the demo to its end.
///
/// # Errors
/// When the platform or a device does not start, or a step of the tour ends otherwise than it
/// should.
pub async fn run(args: DemoArgs, out: &Out) -> anyhow::Result<()> {
    let drain = Drain::on_signals(DRAIN)?;
    let stage = Stage::build(args.data.as_deref()).context("the demo has no folder to live in")?;
    runtime::observability::init(&runtime::observability::ObservabilityConfig {
        filter: "warn".to_owned(),
        ..Default::default()
    })?;
    out.line(&out.paint(Tone::Strong, "Tocsin demo: everything happens in sandboxes of its own"));
    let mut platform = Platform::start(stage.platform_config(), drain.clone()).await?;
    let mut cast = Cast::new(&stage, &mut platform).await?;
    let tour = async {
        cast.enter(args.simulated, out).await?;
        tour::run(&stage, &cast, out).await
    };
    let outcome = tokio::select! {
        outcome = tour => outcome,
        () = drain.soft().cancelled() => Err(anyhow::anyhow!("stopped before the end")),
    };
    if args.stay && outcome.is_ok() {
        out.line(&format!(
            "\nstill running; in another terminal:\n  export TOCSIN_PROFILE={}\n  tocsin devices\n\
             Ctrl-C ends it",
            stage.profile().display()
        ));
        drain.soft().cancelled().await;
    }
    cast.leave().await;
    platform.drain(LAST).await?;
    outcome
}
