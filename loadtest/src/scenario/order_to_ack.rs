//! Orders at a constant intended rate, from the operator's request to the confirmed receipt.
//!
//! The schedule does not wait for answers: when the platform is slow, orders leave late, and
//! their latency still counts from when they were meant to leave.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::DeviceId;
use runtime::Clock;
use runtime::lifecycle::CancellationToken;
use tokio::task::JoinSet;

use super::{Bench, HURRY, RunError};
use crate::book::{self, Book};
use crate::cli::OrderArgs;
use crate::fleet::Enrolled;
use crate::operator::{Desk, Ordered};
use crate::pacer::Pacer;
use crate::rate::Schedule;
use crate::report::Orders;
use crate::swarm::Swarm;

/// From the last preparation to the first order.
const BREATH: Duration = Duration::from_millis(200);

pub(super) async fn play(
    bench: &Bench<'_>,
    args: &OrderArgs,
    devices: Vec<Enrolled>,
) -> Result<Orders, RunError> {
    let ids: Arc<[DeviceId]> = devices.iter().map(|device| device.id).collect();
    let swarm = bench.swarm(devices, bench.gentle())?;
    let outcome = Box::pin(measure(bench, args, &swarm, ids)).await;
    swarm.stop().await;
    outcome
}

async fn measure(
    bench: &Bench<'_>,
    args: &OrderArgs,
    swarm: &Swarm,
    ids: Arc<[DeviceId]>,
) -> Result<Orders, RunError> {
    bench.all_connected(swarm, ids.len()).await?;
    let mut desks = Vec::new();
    for _ in 0..args.connections {
        let mut desk = bench.operator.desk();
        desk.ready().await?;
        desks.push(desk);
    }
    let start = bench.clock.now() + BREATH;
    tracing::info!(orders = args.orders, rate = %args.rate, "ordering");
    let schedule = Schedule::new(start, args.rate);
    let work = Arc::new(Work {
        schedule,
        pacer: Pacer::start(schedule, args.orders, bench.clock.clone()),
        ids,
        verb: args.verb,
        book: bench.book.clone(),
        clock: bench.clock.clone(),
        soft: bench.drain.soft().clone(),
    });
    let mut tasks = JoinSet::new();
    for desk in desks {
        tasks.spawn(work.clone().order(desk));
    }
    tokio::select! {
        biased;
        () = bench.drain.hard().cancelled() => tasks.abort_all(),
        () = async { while tasks.join_next().await.is_some() {} } => {}
    }
    let secs = bench.clock.now().saturating_duration_since(start).as_secs_f64();
    settle(bench).await;
    Ok(findings(bench, args, secs))
}

/// Waits for the receipts that are out.
async fn settle(bench: &Bench<'_>) {
    let patience = bench.common.patience();
    let patience = if bench.drain.is_draining() { patience.min(HURRY) } else { patience };
    tokio::select! {
        biased;
        () = bench.drain.hard().cancelled() => {}
        _ = tokio::time::timeout(patience, bench.book.settled()) => {}
    }
}

fn findings(bench: &Bench<'_>, args: &OrderArgs, secs: f64) -> Orders {
    let counts = bench.book.counts();
    let acked = bench.book.latency(book::Stage::Acked);
    let missed = args.thresholds.as_ref().map(|thresholds| thresholds.missed(&acked));
    let answered = u32::try_from(counts.ordered).unwrap_or(u32::MAX);
    Orders {
        verb: args.verb.action().verb().as_str(),
        rate_per_sec: args.rate.per_sec(),
        achieved_per_sec: if secs > 0.0 { f64::from(answered) / secs } else { 0.0 },
        connections: usize::from(args.connections),
        counts,
        stages: book::Stage::ALL.map(|at| (at, bench.book.latency(at))).into(),
        missed: missed.unwrap_or_default(),
    }
}

/// What those who order share.
struct Work {
    schedule: Schedule,
    pacer: Pacer,
    ids: Arc<[DeviceId]>,
    verb: Ordered,
    book: Arc<Book>,
    clock: Clock,
    soft: CancellationToken,
}

impl Work {
    /// The device of that order: all in turn.
    fn device(&self, index: u64) -> DeviceId {
        let count = u64::try_from(self.ids.len()).expect("devices fit into memory");
        let turn = usize::try_from(index % count).expect("it is less than a length");
        self.ids[turn]
    }

    /// Takes orders in turn, each at its moment or as soon after it as this connection is free.
    async fn order(self: Arc<Self>, mut desk: Desk) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.soft.cancelled() => return,
                next = self.pacer.next() => next,
            };
            let Some(index) = next else { return };
            let device = self.device(index);
            let intended = self.schedule.at(index);
            if let Err(error) = desk.ready().await {
                self.book.failed(error.kind());
                continue;
            }
            let sent = self.clock.now();
            match desk.order(self.verb, device).await {
                Ok(command) => self.book.ordered(command, intended, [sent, self.clock.now()]),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "order failed");
                    self.book.failed(error.kind());
                }
            }
        }
    }
}
