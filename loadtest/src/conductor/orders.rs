//! Orders of a phase: of one device each at a constant intended rate, and of whole groups.
//!
//! Schedules do not wait for answers: when the platform is slow, orders leave late, and their
//! latency still counts from when they were meant to leave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::id::{CommandId, DeviceId};
use runtime::lifecycle::CancellationToken;
use tokio::task::JoinSet;

use super::{BREATH, Bench, ConductError};
use crate::book::{Book, Stream};
use crate::moment::Timeline;
use crate::operator::{Desk, Operator, Ordered, Targets};
use crate::pacer::Pacer;
use crate::plan::{Audience, Orders, Phase, secs};
use crate::rate::Schedule;

/// Connections that are kept ready for orders of many devices.
const POOL: usize = 64;

impl Bench<'_> {
    /// Orders of one device each. Answers how long they took to leave, and how many there were.
    pub(super) async fn orders(
        &self,
        phase: &Phase,
        devices: &Arc<[DeviceId]>,
    ) -> Result<Option<(Duration, u64)>, ConductError> {
        let Some(Orders { rate, count, verb, desks: wanted }) = phase.orders else {
            return Ok(None);
        };
        let fitting = phase.secs.map_or(0, |whole| rate.count_in(secs(whole)));
        let count = count.unwrap_or(fitting);
        let mut desks = Vec::new();
        for _ in 0..wanted {
            let mut desk = self.operator.desk();
            desk.ready().await?;
            desks.push(desk);
        }
        let clock = self.timeline.clock().clone();
        let start = clock.now() + BREATH;
        let schedule = Schedule::new(start, rate);
        let work = Arc::new(Work {
            schedule,
            pacer: Pacer::start(schedule, count, clock),
            devices: devices.clone(),
            verb,
            book: self.book.clone(),
            timeline: self.timeline.clone(),
            soft: self.drain.soft().clone(),
        });
        let mut tasks = JoinSet::new();
        for desk in desks {
            tasks.spawn(work.clone().order(desk));
        }
        tokio::select! {
            biased;
            () = self.drain.hard().cancelled() => tasks.abort_all(),
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
        let took = self.timeline.now().since(self.timeline.of(start));
        Ok(Some((took, count)))
    }

    /// Orders of all devices that answer, or of the stalled; of parts at once where they are too
    /// many for one order.
    pub(super) async fn group(
        &self,
        phase: &Phase,
        [answering, stalled]: [&Arc<[DeviceId]>; 2],
    ) -> Result<(), ConductError> {
        let Some(group) = &phase.group else { return Ok(()) };
        let (devices, is_counted) = match group.to {
            Audience::All => (answering, true),
            Audience::Stalled => (stalled, false),
        };
        let most = group.verb.devices_at_most();
        let pool = Pool::ready(&self.operator, devices.len().div_ceil(most)).await?;
        let clock = self.timeline.clock().clone();
        let start = clock.now() + BREATH + secs(group.at_secs);
        let schedule = Schedule::new(start, group.rate);
        let mut tasks = JoinSet::new();
        for index in 0..group.times {
            let mut at = schedule.at(index);
            if group.in_turn && index > 0 {
                while tasks.join_next().await.is_some() {}
                self.settle().await;
                at = clock.now();
            }
            let parts = u64::try_from(devices.len().div_ceil(most)).unwrap_or(u64::MAX);
            let going_on = is_counted.then(|| self.book.disturb(self.timeline.of(at), parts));
            if !self.wait(at.saturating_duration_since(clock.now())).await {
                break;
            }
            for part in devices.chunks(most).map(<[DeviceId]>::to_vec) {
                let (pool, verb) = (pool.clone(), group.verb);
                let (book, timeline) = (self.book.clone(), self.timeline.clone());
                tasks.spawn(async move {
                    let mut desk = pool.take();
                    let (intended, sent) = (timeline.of(at), timeline.now());
                    match desk.order(verb, Targets::Devices(&part)).await {
                        Ok(commands) => {
                            if let Some(of) = going_on {
                                let moments = [sent, timeline.now()];
                                book.group_ordered(of, &commands, intended, moments);
                            }
                        }
                        Err(error) => {
                            book.failed(error.kind());
                            if let Some(of) = going_on {
                                book.happened(of, timeline.now());
                            }
                        }
                    }
                    pool.put(desk);
                });
            }
        }
        tokio::select! {
            biased;
            () = self.drain.hard().cancelled() => tasks.abort_all(),
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
        Ok(())
    }
}

/// Connections to the operator's port that stand before an order is due.
#[derive(Clone)]
struct Pool {
    operator: Operator,
    desks: Arc<Mutex<Vec<Desk>>>,
}

impl Pool {
    /// As many as orders leave at once, up to a bound.
    async fn ready(operator: &Operator, count: usize) -> Result<Self, ConductError> {
        let mut desks = Vec::new();
        for _ in 0..count.min(POOL) {
            let mut desk = operator.desk();
            desk.ready().await?;
            desks.push(desk);
        }
        Ok(Self { operator: operator.clone(), desks: Arc::new(Mutex::new(desks)) })
    }

    /// One that stands; when all are out, one that has yet to connect.
    fn take(&self) -> Desk {
        let desk = self.desks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        desk.unwrap_or_else(|| self.operator.desk())
    }

    fn put(&self, desk: Desk) {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).push(desk);
    }
}

/// What those who order share.
struct Work {
    schedule: Schedule,
    pacer: Pacer,
    devices: Arc<[DeviceId]>,
    verb: Ordered,
    book: Arc<Book>,
    timeline: Timeline,
    soft: CancellationToken,
}

impl Work {
    /// The device of that order: all in turn.
    fn device(&self, index: u64) -> DeviceId {
        let count = u64::try_from(self.devices.len()).expect("devices fit into memory");
        let turn = usize::try_from(index % count).expect("it is less than a length");
        self.devices[turn]
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
            let intended = self.timeline.of(self.schedule.at(index));
            if let Err(error) = desk.ready().await {
                self.book.failed(error.kind());
                continue;
            }
            let sent = self.timeline.now();
            match desk.order(self.verb, Targets::Device(device)).await {
                Ok(commands) => {
                    let moments = [sent, self.timeline.now()];
                    let commands: &[CommandId] = &commands;
                    self.book.ordered(Stream::Unicast, commands, intended, moments);
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "order failed");
                    self.book.failed(error.kind());
                }
            }
        }
    }
}
