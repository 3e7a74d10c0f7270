//! What one size came to, read from the report of its run.
//!
//! Pure arithmetic. What quiet sessions cost anyhow is not charged to commands and reconnects.

use serde::{Deserialize, Serialize};

use crate::evaluate::float;
use crate::meters::{is_harness, is_hub};
use crate::report::{PhaseReport, Report};

/// The role of PostgreSQL among the processes.
const POSTGRES: &str = "postgres";

/// Microseconds of processor time, of each part of the platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Micros {
    /// All hubs.
    pub hub: f64,
    /// Redis.
    pub redis: f64,
    /// The control plane, with SQLite in it.
    pub api: f64,
    /// PostgreSQL, all of its processes; nothing where the store is SQLite.
    #[serde(default)]
    pub postgres: f64,
}

/// What commands came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Commands {
    /// Commands that were acked.
    pub count: u64,
    /// Processor time of each.
    pub cpu_us: Micros,
    /// What control plane and PostgreSQL wrote to disk for each, in KiB.
    pub written_kib: f64,
    /// Acked per second, from the first order to the last ack.
    pub per_sec: f64,
    /// From the moment at which the order was meant to leave to the ack, in milliseconds: median.
    pub p50_ms: f64,
    /// The same: 99th percentile.
    pub p99_ms: f64,
    /// The same: the last.
    pub last_ms: f64,
}

/// One size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its name.
    pub label: String,
    /// Hubs.
    pub hubs: u32,
    /// Sessions of all hubs together.
    pub connections: u64,
    /// Memory (PSS) of all hubs before the first session, in KiB.
    pub hub_before_kib: f64,
    /// The same with all sessions, which are quiet.
    pub hub_kib: f64,
    /// Memory of the hubs for each session, in KiB.
    pub hub_kib_per_connection: f64,
    /// Memory of Redis for each session, in KiB.
    pub redis_kib_per_connection: f64,
    /// Objects and socket buffers of the kernel for each session, both ends, in KiB.
    pub kernel_kib_per_connection: f64,
    /// Connections per second with full handshakes, as fast as they come to stand.
    pub connects_per_sec: f64,
    /// Processor time of a connection with a full handshake.
    pub connect_cpu_us: Micros,
    /// Processor time of a quiet session and second.
    pub quiet_cpu_us: Micros,
    /// Orders of one device each.
    pub orders: Commands,
    /// One order of everybody.
    pub bulk: Commands,
    /// Until all were back after a cut of all sockets, in seconds.
    pub back_secs: f64,
    /// Processor time of a connection that resumes TLS.
    pub reconnect_cpu_us: Micros,
    /// Processor time of the harness itself for an order, which shares the machine.
    #[serde(default)]
    pub harness_us_per_order: f64,
    /// The same for a connection with a full handshake.
    #[serde(default)]
    pub harness_us_per_connect: f64,
}

/// The name of a size.
pub(super) fn label(hubs: u32, connections: u64) -> String {
    let noun = if hubs == 1 { "hub" } else { "hubs" };
    format!("{hubs} {noun}, {connections} sessions")
}

impl Point {
    /// What that report says.
    pub(super) fn of(report: &Report, label: String, hubs: u32) -> Self {
        let phase = |name: &str| report.phases.iter().find(|phase| phase.name == name);
        let connections = report.plan.population.connections;
        let each = float(connections.max(1));
        let quiet = phase("quiet").map(quiet).unwrap_or_default();
        let before = |is_meant: &dyn Fn(&str) -> bool| {
            let processes = report.processes.iter().filter(|(role, _)| is_meant(role));
            float(processes.filter_map(|(_, process)| process.pss_before_kib).sum())
        };
        let then = |is_meant: &dyn Fn(&str) -> bool| {
            let kib = phase("quiet").map(|phase| &phase.pss_kib).into_iter().flatten();
            float(kib.filter(|(role, _)| is_meant(role)).map(|(_, kib)| kib).sum())
        };
        let (hub_before_kib, hub_kib) = (before(&is_hub), then(&is_hub));
        let is_redis = |role: &str| role == "redis";
        let latencies = &report.latency_ms;
        let orders = phase("orders").map(|phase| commands(phase, quiet)).unwrap_or_default();
        let bulk = phase("bulk").map(|phase| commands(phase, quiet)).unwrap_or_default();
        let timed = |commands: Commands, acked: &crate::latency::Latency| Commands {
            p50_ms: acked.p50,
            p99_ms: acked.p99,
            last_ms: acked.max,
            ..commands
        };
        let bulk = timed(bulk, &latencies.group.acked);
        // A phase lasts until the last receipt: an order of everybody is over with the last ack.
        let bulk_per_sec = float(bulk.count) * 1e3 / bulk.last_ms.max(1.0);
        Self {
            label,
            hubs,
            connections,
            hub_before_kib,
            hub_kib,
            hub_kib_per_connection: (hub_kib - hub_before_kib) / each,
            redis_kib_per_connection: (then(&is_redis) - before(&is_redis)) / each,
            kernel_kib_per_connection: report
                .kernel
                .map_or(0.0, |own| own.socket_kib_per_connection + own.slab_kib_per_connection),
            connects_per_sec: report.rates.connects_per_sec.unwrap_or_default(),
            connect_cpu_us: phase("connect")
                .map(|phase| micros(phase, each, Micros::default()))
                .unwrap_or_default(),
            quiet_cpu_us: quiet,
            orders: timed(orders, &latencies.unicast.acked),
            bulk: Commands { per_sec: bulk_per_sec, ..bulk },
            back_secs: report.rates.back_secs.unwrap_or_default(),
            reconnect_cpu_us: phase("storm")
                .map(|phase| micros(phase, float(latencies.reconnect.count.max(1)), quiet))
                .unwrap_or_default(),
            harness_us_per_order: phase("orders")
                .map_or(0.0, |phase| harness(phase) / float(phase.acked.max(1))),
            harness_us_per_connect: phase("connect").map_or(0.0, |phase| harness(phase) / each),
        }
    }

    /// What Redis and control plane take in a second without anybody: what they take beside the fewest
    /// quiet sessions. A hub without sessions has none of their heartbeats.
    pub(super) fn background(points: &[Self]) -> Micros {
        let fewest = points.iter().min_by_key(|point| point.connections);
        fewest.map_or(Micros::default(), |point| {
            let all = float(point.connections);
            let Micros { redis, api, postgres, .. } = point.quiet_cpu_us;
            Micros { hub: 0.0, redis: redis * all, api: api * all, postgres: postgres * all }
        })
    }
}

/// Processor time of a quiet session and second: over whole heartbeats, or where there was no room for
/// them, which is noted, over all of the phase.
fn quiet(phase: &PhaseReport) -> Micros {
    let Some(quiet) = &phase.quiet else {
        return micros(phase, phase.secs * float(phase.connected.max(1)), Micros::default());
    };
    let each = (quiet.secs * float(phase.connected.max(1))).max(1e-9);
    let of = |is_meant: &dyn Fn(&str) -> bool| {
        let roles = quiet.cpu_us_by_role.iter().filter(|(role, _)| is_meant(role));
        roles.map(|(_, micros)| micros).sum::<f64>() / each
    };
    Micros {
        hub: of(&is_hub),
        redis: of(&|role| role == "redis"),
        api: of(&|role| role == "api"),
        postgres: of(&|role| role == POSTGRES),
    }
}

/// Processor time of the harness in a phase, in microseconds.
fn harness(phase: &PhaseReport) -> f64 {
    let own = phase.cpu_ms.iter().filter(|(role, _)| is_harness(role));
    float(own.map(|(_, ms)| ms).sum()) * 1e3
}

/// Processor time of a phase, divided by so many of something, without what quiet sessions cost.
fn micros(phase: &PhaseReport, each: f64, quiet: Micros) -> Micros {
    let connection_secs = phase.secs * float(phase.connected);
    let of = |is_meant: &dyn Fn(&str) -> bool, quiet: f64| {
        let roles = phase.cpu_ms.iter().filter(|(role, _)| is_meant(role) && !is_harness(role));
        let used = float(roles.map(|(_, ms)| ms).sum()) * 1e3;
        ((used - quiet * connection_secs) / each.max(1e-9)).max(0.0)
    };
    Micros {
        hub: of(&is_hub, quiet.hub),
        redis: of(&|role| role == "redis", quiet.redis),
        api: of(&|role| role == "api", quiet.api),
        postgres: of(&|role| role == POSTGRES, quiet.postgres),
    }
}

/// What the store wrote to disk in a phase: that of the control plane's process, or PostgreSQL's.
fn written_kib(phase: &PhaseReport) -> u64 {
    ["api", POSTGRES].iter().filter_map(|role| phase.written_kib.get(*role)).sum()
}

fn commands(phase: &PhaseReport, quiet: Micros) -> Commands {
    let each = float(phase.acked.max(1));
    let written = written_kib(phase);
    Commands {
        count: phase.acked,
        cpu_us: micros(phase, each, quiet),
        written_kib: float(written) / each,
        per_sec: float(phase.acked) / phase.secs.max(1e-3),
        ..Commands::default()
    }
}

/// What a check-in costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CheckIns {
    /// Devices that did nothing else.
    pub devices: u64,
    /// How many were answered.
    pub count: u64,
    /// Processor time of each.
    pub cpu_us: Micros,
    /// What control plane and PostgreSQL wrote to disk for each, in KiB.
    pub written_kib: f64,
}

impl CheckIns {
    /// What that report says, without what is done in each second whoever is there.
    pub(super) fn of(report: &Report, background: Micros) -> Option<Self> {
        let count = report.sessions.check_ins;
        let each = float(count.max(1));
        let sum = report.phases.iter().map(|phase| {
            let written = written_kib(phase);
            (micros(phase, 1.0, Micros::default()), float(written) / each, phase.secs)
        });
        let (cpu, written_kib, secs) =
            sum.reduce(|(cpu, kib, secs), (more, more_kib, longer)| {
                let cpu = Micros {
                    hub: cpu.hub + more.hub,
                    redis: cpu.redis + more.redis,
                    api: cpu.api + more.api,
                    postgres: cpu.postgres + more.postgres,
                };
                (cpu, kib + more_kib, secs + longer)
            })?;
        let of = |all: f64, background: f64| ((all - background * secs) / each).max(0.0);
        let cpu_us = Micros {
            hub: of(cpu.hub, background.hub),
            redis: of(cpu.redis, background.redis),
            api: of(cpu.api, background.api),
            postgres: of(cpu.postgres, background.postgres),
        };
        let devices = report.plan.population.polling;
        (count > 0).then_some(Self { devices, count, cpu_us, written_kib })
    }
}

/// The highest rate of orders of one device each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Most {
    /// Orders per second that were meant to leave.
    pub intended_per_sec: f64,
    /// Orders per second that were answered: written to disk.
    pub stored_per_sec: f64,
    /// Commands at that rate.
    pub orders: Commands,
}

impl Most {
    /// What that report says.
    pub(super) fn of(report: &Report) -> Option<Self> {
        let phase = report.phases.iter().find(|phase| phase.name == "orders")?;
        Some(Self {
            intended_per_sec: report.rates.intended_per_sec?,
            stored_per_sec: report.rates.stored_per_sec?,
            orders: commands(phase, Micros::default()),
        })
    }
}
