//! Devices without a session here that an urgent command waits for.
//!
//! Owns a bounded and short memory: what is forgotten costs a device its place in the queue and
//! nothing else. Must not keep commands: the store does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::id::DeviceId;

#[cfg(test)]
mod tests;

/// Devices that are remembered at a time.
const MAX: usize = 10_000;
/// For how long: the api says again what is not acked, with pauses that grow to about this.
const KEPT: Duration = Duration::from_secs(120);

/// The devices.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    since: HashMap<DeviceId, Instant>,
    /// In the order of their times, with those that were forgotten meanwhile.
    order: VecDeque<(Instant, DeviceId)>,
}

impl Known {
    fn expire(&mut self, now: Instant) {
        while let Some((since, device)) = self.order.front().copied() {
            if now < since + KEPT {
                return;
            }
            self.order.pop_front();
            if self.since.get(&device) == Some(&since) {
                self.since.remove(&device);
            }
        }
    }
}

impl Owed {
    /// An urgent command was for a device that is not here, or not any more.
    pub(crate) fn note(&self, device: DeviceId, now: Instant) {
        let mut known = self.lock();
        known.expire(now);
        if known.order.len() < MAX && !known.since.contains_key(&device) {
            known.since.insert(device, now);
            known.order.push_back((now, device));
        }
    }

    /// Whether one waits for it, as far as this hub has heard.
    pub(crate) fn is_owed(&self, device: DeviceId, now: Instant) -> bool {
        let known = self.lock();
        known.since.get(&device).is_some_and(|since| now < *since + KEPT)
    }

    /// It is here.
    pub(crate) fn forget(&self, device: DeviceId) {
        self.lock().since.remove(&device);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing inside of the lock can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
