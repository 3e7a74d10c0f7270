//! Which devices have a session on this hub.
//!
//! Owns the rule that a device has one session, the newer. Its answers hold for the moment they
//! are given in; whoever removes a session names it. No guard of the map leaves this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use protocol::close::CloseCode;
use protocol::id::{DeviceId, SessionId};
use tokio::sync::Notify;

use crate::handle::Handle;

#[cfg(test)]
mod tests;

/// The sessions of this hub, by device.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    sessions: DashMap<DeviceId, Arc<Handle>>,
    is_shut: AtomicBool,
    gone: Notify,
}

impl Registry {
    /// Puts a session in, unless the device has one of a later epoch here, and tells the one that
    /// is over.
    pub(crate) fn register(&self, handle: &Arc<Handle>) {
        let over = match self.sessions.entry(handle.device) {
            Entry::Occupied(known) if known.get().epoch > handle.epoch => Some(handle.clone()),
            Entry::Occupied(mut known) => Some(known.insert(handle.clone())),
            Entry::Vacant(free) => {
                free.insert(handle.clone());
                None
            }
        };
        if let Some(over) = over {
            over.close(CloseCode::Replaced);
        }
        // `shut` marks first and collects then, so one of the two sees the other.
        if self.is_shut.load(Ordering::SeqCst) {
            handle.close(CloseCode::Drain);
        }
    }

    /// Takes a session out if it is still the device's, in one step. Says whether it was.
    pub(crate) fn unregister(&self, handle: &Handle) -> bool {
        let is_same = |_: &DeviceId, known: &Arc<Handle>| known.session == handle.session;
        let was_current = self.sessions.remove_if(&handle.device, is_same).is_some();
        if self.sessions.is_empty() {
            self.gone.notify_waiters();
        }
        was_current
    }

    /// Waits until there is no session.
    pub(crate) async fn emptied(&self) {
        loop {
            let mut gone = std::pin::pin!(self.gone.notified());
            // Heard from here on: the last one may go between the look and the waiting.
            gone.as_mut().enable();
            if self.sessions.is_empty() {
                return;
            }
            gone.await;
        }
    }

    pub(crate) fn get(&self, device: DeviceId) -> Option<Arc<Handle>> {
        self.sessions.get(&device).map(|entry| entry.value().clone())
    }

    /// Whether the device's session is still that one.
    pub(crate) fn is_current(&self, handle: &Handle) -> bool {
        self.sessions.get(&handle.device).is_some_and(|known| known.session == handle.session)
    }

    /// Closes exactly that session, because a later one is elsewhere.
    pub(crate) fn replaced(&self, device: DeviceId, session: SessionId) {
        if let Some(handle) = self.get(device).filter(|handle| handle.session == session) {
            handle.close(CloseCode::Replaced);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The devices of every session of this moment.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.sessions.iter().map(|entry| *entry.key()).collect()
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
