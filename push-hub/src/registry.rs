//! Which devices have a session on this hub.
//!
//! Owns the rule that a device has one session, the newer. Its answers hold for the moment they
//! are given in; whoever removes a session names it. No guard of the map leaves this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use protocol::close::CloseCode;
use protocol::id::DeviceId;

use crate::handle::Handle;

#[cfg(test)]
mod tests;

/// The sessions of this hub, by device.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: DashMap<DeviceId, Arc<Handle>>,
    is_shut: AtomicBool,
}

impl Registry {
    /// Puts a session in and tells the older one of that device that it was replaced.
    pub(crate) fn register(&self, handle: &Arc<Handle>) {
        let older = self.sessions.insert(handle.device, handle.clone());
        if let Some(older) = older {
            older.close(CloseCode::Replaced);
        }
        // `shut` marks first and collects then, so one of the two sees the other.
        if self.is_shut.load(Ordering::SeqCst) {
            handle.close(CloseCode::Drain);
        }
    }

    /// Takes a session out if it is still the device's, in one step. Says whether it was.
    pub(crate) fn unregister(&self, handle: &Handle) -> bool {
        let is_same = |_: &DeviceId, known: &Arc<Handle>| known.session == handle.session;
        self.sessions.remove_if(&handle.device, is_same).is_some()
    }

    pub(crate) fn get(&self, device: DeviceId) -> Option<Arc<Handle>> {
        self.sessions.get(&device).map(|entry| entry.value().clone())
    }

    /// Whether the device's session is still that one.
    pub(crate) fn is_current(&self, handle: &Handle) -> bool {
        self.sessions.get(&handle.device).is_some_and(|known| known.session == handle.session)
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Every session of this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Handle>> {
        self.sessions.iter().map(|entry| entry.value().clone()).collect()
    }

    /// Closes every session, and those that still come.
    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
        for handle in self.all() {
            handle.close(CloseCode::Drain);
        }
    }

    /// Lets sessions in again.
    pub(crate) fn reopen(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }
}
