//! Everybody connects, is cut at once, and comes back.
//!
//! The first wave makes full handshakes, as no agent has a ticket yet. In the storm each agent
//! tries at once, and after a failure with its usual back-off.

use std::time::Instant;

use super::{Bench, RunError};
use crate::cli::ConnectArgs;
use crate::fleet::Enrolled;
use crate::probe::{self, Usage};
use crate::report::{Connecting, Latency, Wave};
use crate::swarm::{Pace, Swarm};

pub(super) async fn play(
    bench: &Bench<'_>,
    args: &ConnectArgs,
    mut devices: Vec<Enrolled>,
) -> Result<Connecting, RunError> {
    if args.full {
        for device in &mut devices {
            let mut tls = (*device.tls).clone();
            tls.resumption = rustls::client::Resumption::disabled();
            device.tls = tls.into();
        }
    }
    let agents = devices.len();
    let begun = (bench.clock.now(), args.hub_pid.map(probe::usage).transpose()?);
    let pace = Pace { at_once: usize::from(bench.common.connecting), rate: None };
    let swarm = bench.swarm(devices, pace)?;
    let outcome = Box::pin(measure(bench, args, &swarm, (agents, begun))).await;
    swarm.stop().await;
    outcome
}

async fn measure(
    bench: &Bench<'_>,
    args: &ConnectArgs,
    swarm: &Swarm,
    (agents, begun): (usize, (Instant, Option<Usage>)),
) -> Result<Connecting, RunError> {
    tracing::info!("connecting");
    let first = wave(bench, args, swarm, (agents, begun)).await?;
    tracing::info!("cutting all sockets");
    swarm.cut().await;
    let begun = (bench.clock.now(), args.hub_pid.map(probe::usage).transpose()?);
    let storm = wave(bench, args, swarm, (agents, begun)).await?;
    Ok(Connecting { first, storm, resumed: !args.full })
}

async fn wave(
    bench: &Bench<'_>,
    args: &ConnectArgs,
    swarm: &Swarm,
    (agents, (began, before)): (usize, (Instant, Option<Usage>)),
) -> Result<Wave, RunError> {
    bench.all_connected(swarm, agents).await?;
    let secs = bench.clock.now().saturating_duration_since(began).as_secs_f64();
    let after = args.hub_pid.map(probe::usage).transpose()?;
    let count = f64::from(bench.common.agents);
    let cpu = before.zip(after).map(|(before, after)| after.cpu_since(&before).as_secs_f64());
    Ok(Wave {
        secs,
        per_sec: count / secs.max(f64::MIN_POSITIVE),
        latency: Latency::of(swarm.take_connect_times()),
        cpu_us: cpu.map(|cpu| cpu * 1e6 / count),
    })
}
