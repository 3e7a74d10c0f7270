//! The bounded way from a commit to the broker, urgent lane apart from bulk.
//!
//! Owns two queues. A full queue drops: the redelivery job finds what was not sent, so nothing
//! here has to wait.

use protocol::frame::CommandFrame;
use protocol::id::DeviceId;
use protocol::state::Lane;
use tokio::sync::{Mutex, mpsc};

use crate::metrics;

/// Batches that may wait in each lane.
const BATCHES: usize = 1024;

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
    inbox: Mutex<Inbox>,
}

/// The reading end; one job holds it.
#[derive(Debug)]
pub struct Inbox {
    urgent: mpsc::Receiver<Vec<Delivery>>,
    bulk: mpsc::Receiver<Vec<Delivery>>,
}

impl Outbox {
    /// Empty queues.
    pub fn new() -> Self {
        let (urgent, urgent_inbox) = mpsc::channel(BATCHES);
        let (bulk, bulk_inbox) = mpsc::channel(BATCHES);
        let inbox = Mutex::new(Inbox { urgent: urgent_inbox, bulk: bulk_inbox });
        Self { urgent, bulk, inbox }
    }

    /// Hands committed commands of one order over, cut to batches so that urgent ones get in
    /// between.
    pub fn push(&self, deliveries: Vec<Delivery>) {
        let Some(first) = deliveries.first() else { return };
        let queue = match first.frame.lane {
            Lane::Urgent => &self.urgent,
            Lane::Bulk => &self.bulk,
        };
        for batch in deliveries.chunks(broker::BATCH) {
            if queue.try_send(batch.to_vec()).is_err() {
                metrics::wake_dropped();
            }
        }
    }

    /// Waits for deliveries: urgent ones first, those that wait already together, up to about
    /// one batch.
    pub async fn next(&self) -> Option<Vec<Delivery>> {
        let mut inbox = self.inbox.lock().await;
        let inbox = &mut *inbox;
        let (mut batch, lane) = tokio::select! {
            biased;
            Some(batch) = inbox.urgent.recv() => (batch, &mut inbox.urgent),
            Some(batch) = inbox.bulk.recv() => (batch, &mut inbox.bulk),
            else => return None,
        };
        while batch.len() < broker::BATCH {
            let Ok(more) = lane.try_recv() else { break };
            batch.extend(more);
        }
        Some(batch)
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}
