//! Where devices were a moment ago, so that most deliveries ask nobody.
//!
//! Owns the memory: bounded in number and age. A place is a guess, and the hub that is asked
//! decides: whoever must be sure looks it up. What moves a device is a `hello`, which passes
//! through here at one api node; at the others a place is wrong for [`AGE`] at most, and
//! redelivery, which never guesses, comes sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::id::{DeviceId, HubId};

#[cfg(test)]
mod tests;

/// How long a place is believed.
const AGE: Duration = Duration::from_secs(10);
/// Devices that are remembered.
const DEVICES: usize = 100_000;

/// The memory.
#[derive(Debug, Default)]
pub struct Places {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<DeviceId, (Arc<HubId>, Instant)>,
    /// The last hub that was noted: most places in a row are on few hubs.
    hub: Option<Arc<HubId>>,
}

impl Places {
    /// The hub of a device, if it was seen there lately.
    pub(crate) fn get(&self, device: DeviceId, now: Instant) -> Option<HubId> {
        let known = self.lock();
        let (hub, at) = known.places.get(&device)?;
        (now.saturating_duration_since(*at) < AGE).then(|| HubId::clone(hub))
    }

    /// The device is on that hub.
    pub(crate) fn note(&self, device: DeviceId, hub: &HubId, now: Instant) {
        let mut known = self.lock();
        if known.places.len() >= DEVICES && !known.places.contains_key(&device) {
            known.places.retain(|_, (_, at)| now.saturating_duration_since(*at) < AGE);
            if known.places.len() >= DEVICES {
                known.places.clear();
            }
        }
        let hub = match &known.hub {
            Some(last) if **last == *hub => last.clone(),
            Some(_) | None => Arc::new(hub.clone()),
        };
        known.hub = Some(hub.clone());
        known.places.insert(device, (hub, now));
    }

    /// The device is not there, or perhaps not.
    pub(crate) fn forget(&self, device: DeviceId) {
        self.lock().places.remove(&device);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing inside of the lock can panic halfway through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
