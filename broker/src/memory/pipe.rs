//! The way from hubs to the control plane inside one process: one queue, several readers.
//!
//! Owns the accounting of what was taken and not acknowledged. A reader that is dropped gives it
//! back, in front of everything newer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{BATCH, BrokerError, Upstream};

#[derive(Debug)]
pub(super) struct Pipe {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Upstream>,
    /// Messages that readers took and have not acknowledged: they count against the capacity.
    taken: usize,
}

impl Shared {
    /// No code panics while it holds the queue, so a poisoned one is as good as any.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    pub(super) fn new(capacity: usize) -> Self {
        let queue = Mutex::default();
        Self { shared: Arc::new(Shared { capacity, queue, arrived: Notify::new() }) }
    }

    /// Appends all of the batch or nothing.
    pub(super) fn send(&self, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        let mut queue = self.shared.queue();
        if queue.waiting.len() + queue.taken + batch.len() > self.shared.capacity {
            return Err(BrokerError::Full);
        }
        queue.waiting.extend(batch);
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Messages that are not acknowledged.
    pub(super) fn len(&self) -> usize {
        let queue = self.shared.queue();
        queue.waiting.len() + queue.taken
    }

    pub(super) fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared), taken: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    taken: Vec<Upstream>,
}

impl Reader {
    /// Waits for at least one message. Cancel safe: nothing is taken before the last wait ends.
    pub(super) async fn take(&mut self) -> Vec<Upstream> {
        loop {
            if let Some(batch) = self.try_take() {
                return batch;
            }
            self.shared.arrived.notified().await;
        }
    }

    fn try_take(&mut self) -> Option<Vec<Upstream>> {
        let mut queue = self.shared.queue();
        let count = queue.waiting.len().min(BATCH);
        if count == 0 {
            return None;
        }
        let batch: Vec<_> = queue.waiting.drain(..count).collect();
        queue.taken += count;
        let is_more = !queue.waiting.is_empty();
        drop(queue);
        self.taken.extend_from_slice(&batch);
        if is_more {
            // One signal may stand for several batches: pass it on to the next reader.
            self.shared.arrived.notify_one();
        }
        Some(batch)
    }

    pub(super) fn forget_taken(&mut self) {
        self.shared.queue().taken -= self.taken.len();
        self.taken.clear();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut queue = self.shared.queue();
        queue.taken -= self.taken.len();
        for message in self.taken.drain(..).rev() {
            queue.waiting.push_front(message);
        }
        drop(queue);
        self.shared.arrived.notify_one();
    }
}
