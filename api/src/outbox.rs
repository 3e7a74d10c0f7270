//! The bounded way from a commit to the broker, urgent lane apart from bulk.
//!
//! Owns two queues. A full queue drops: the redelivery job finds what was not sent, so nothing
//! here has to wait.

use std::time::Duration;

use protocol::frame::CommandFrame;
use protocol::id::DeviceId;
use protocol::state::{Lane, PerLane};
use tokio::sync::{Mutex, mpsc};

use crate::metrics;

/// Batches that may wait in each lane.
const BATCHES: usize = 1024;
/// Deliveries in one batch from which on there is much to deliver.
const MUCH: usize = 4;
/// How long what comes next in that lane is gathered then, for each of them: a batch wakes the broker and a hub, whatever
/// it holds. Above some 1,600 deliveries a second it grows to the most, below it fades; who orders one thing at a time
/// does not wait for it.
const GATHER: Duration = Duration::from_micros(600);
/// How long at most.
const GATHER_MOST: Duration = Duration::from_millis(10);

/// One command on its way to its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The device.
    pub device: DeviceId,
    /// The frame.
    pub frame: CommandFrame,
}

/// The queues.
#[derive(Debug)]
pub struct Outbox {
    urgent: mpsc::Sender<Vec<Delivery>>,
    bulk: mpsc::Sender<Vec<Delivery>>,
    inboxes: PerLane<Mutex<Inbox>>,
}

/// The end of a queue.
#[derive(Debug)]
struct Inbox {
    queue: mpsc::Receiver<Vec<Delivery>>,
    /// How long the next batch is gathered.
    rest: Duration,
}

impl Inbox {
    const fn of(queue: mpsc::Receiver<Vec<Delivery>>) -> Mutex<Self> {
        Mutex::const_new(Self { queue, rest: Duration::ZERO })
    }
}

impl Outbox {
    /// Empty queues.
    pub fn new() -> Self {
        let (urgent, urgent_inbox) = mpsc::channel(BATCHES);
        let (bulk, bulk_inbox) = mpsc::channel(BATCHES);
        let inboxes = PerLane { urgent: Inbox::of(urgent_inbox), bulk: Inbox::of(bulk_inbox) };
        Self { urgent, bulk, inboxes }
    }

    /// Hands committed commands of one order over, cut to batches.
    pub fn push(&self, mut deliveries: Vec<Delivery>) {
        let Some(first) = deliveries.first() else { return };
        let queue = match first.frame.lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        };
        while !deliveries.is_empty() {
            let rest = deliveries.split_off(deliveries.len().min(broker::BATCH));
            if queue.try_send(deliveries).is_err() {
                metrics::wake_dropped();
            }
            deliveries = rest;
        }
    }

    /// Waits for deliveries of a lane: those that wait already together, up to about one batch. Cancel safe.
    pub async fn next(&self, lane: Lane) -> Option<Vec<Delivery>> {
        let mut inbox = self.inboxes.get(lane).lock().await;
        if !inbox.rest.is_zero() {
            tokio::time::sleep(inbox.rest).await;
        }
        let mut batch = inbox.queue.recv().await?;
        while batch.len() < broker::BATCH {
            let Ok(more) = inbox.queue.try_recv() else { break };
            batch.extend(more);
        }
        inbox.rest = rest_after(batch.len());
        Some(batch)
    }
}

/// How long the next batch is gathered after one of so many deliveries.
fn rest_after(deliveries: usize) -> Duration {
    if deliveries < MUCH {
        return Duration::ZERO;
    }
    let each = u32::try_from(deliveries).unwrap_or(u32::MAX);
    GATHER.saturating_mul(each).min(GATHER_MOST)
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
