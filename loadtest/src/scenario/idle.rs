//! Sessions that do nothing: what each costs the hub's process.
//!
//! The hub's process is looked at before the swarm connects and after, so that what it holds
//! anyway, such as the store of a platform in one process, cancels out.

use std::time::Duration;

use super::{Bench, RunError};
use crate::cli::IdleArgs;
use crate::fleet::Enrolled;
use crate::probe::{self, Usage};
use crate::report::{Idle, IdleHub};
use crate::swarm::Swarm;

pub(super) async fn play(
    bench: &Bench<'_>,
    args: &IdleArgs,
    devices: Vec<Enrolled>,
) -> Result<Idle, RunError> {
    let agents = devices.len();
    let before = args.hub_pid.map(probe::usage).transpose()?;
    let swarm = bench.swarm(devices, bench.gentle())?;
    let outcome = Box::pin(measure(bench, args, &swarm, (agents, before))).await;
    swarm.stop().await;
    outcome
}

async fn measure(
    bench: &Bench<'_>,
    args: &IdleArgs,
    swarm: &Swarm,
    (agents, before): (usize, Option<Usage>),
) -> Result<Idle, RunError> {
    bench.all_connected(swarm, agents).await?;
    tracing::info!(secs = args.secs, "holding");
    let settled = args.hub_pid.map(probe::usage).transpose()?;
    let (began, dropped) = (bench.clock.now(), swarm.dropped());
    bench.rest(Duration::from_secs(args.secs)).await;
    let secs = bench.clock.now().saturating_duration_since(began).as_secs_f64();
    let after = args.hub_pid.map(probe::usage).transpose()?;
    let hub = match (before, settled, after) {
        (Some(before), Some(settled), Some(after)) => {
            Some(cost(before, (settled, after), f64::from(bench.common.agents), secs))
        }
        _ => None,
    };
    Ok(Idle { secs, dropped: swarm.dropped() - dropped, hub })
}

fn cost(before: Usage, (settled, after): (Usage, Usage), sessions: f64, secs: f64) -> IdleHub {
    let kib = |usage: Usage| f64::from(u32::try_from(usage.pss_kib).unwrap_or(u32::MAX));
    let cpu = after.cpu_since(&settled).as_secs_f64();
    IdleHub {
        before_kib: before.pss_kib,
        after_kib: after.pss_kib,
        kib_per_session: (kib(after) - kib(before)) / sessions,
        cpu_us_per_session_sec: cpu * 1e6 / sessions / secs.max(f64::MIN_POSITIVE),
    }
}
