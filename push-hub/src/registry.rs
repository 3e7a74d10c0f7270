//! Which devices have a session on this hub.
//!
//! Owns the rule that a device has one session, the newer. Its answers hold for the moment they
//! are given in; whoever removes a session names it. No guard of the map leaves this module.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use protocol::close::CloseCode;
use protocol::id::{DeviceId, SessionId};
use tokio::sync::Notify;

use crate::handle::Handle;

#[cfg(test)]
mod tests;

/// A session as the registry knows it.
pub(crate) trait Entry {
    fn device(&self) -> DeviceId;
    fn session(&self) -> SessionId;
    fn epoch(&self) -> u64;
    fn close(&self, code: CloseCode);
}

impl Entry for Handle {
    fn device(&self) -> DeviceId {
        self.device
    }

    fn session(&self) -> SessionId {
        self.session
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn close(&self, code: CloseCode) {
        self.close(code);
    }
}

/// What a registry is built of. The model beside the tests builds it of parts whose every order of
/// steps a checker goes through; each call is one step.
pub(crate) trait Parts {
    type Entry: Entry;
    type Map: Map<Self::Entry>;
    type Flag: Flag;
}

/// A map from devices to sessions.
pub(crate) trait Map<E>: Default + fmt::Debug {
    /// Puts an entry in unless the one that is there stays. Answers the one that is over.
    fn put(&self, entry: &Arc<E>, stays: impl Fn(&E) -> bool) -> Option<Arc<E>>;
    fn take_if(&self, device: DeviceId, is_it: impl Fn(&E) -> bool) -> bool;
    fn find(&self, device: DeviceId) -> Option<Arc<E>>;
    fn every(&self) -> Vec<Arc<E>>;
    fn count(&self) -> usize;
}

/// A mark that all threads see in one order.
pub(crate) trait Flag: Default + fmt::Debug {
    fn set(&self, is_set: bool);
    fn is_set(&self) -> bool;
}

/// What a hub's registry is built of.
#[derive(Debug)]
pub(crate) struct Shared;

impl Parts for Shared {
    type Entry = Handle;
    type Map = DashMap<DeviceId, Arc<Handle>>;
    type Flag = AtomicBool;
}

impl<E: Entry + fmt::Debug> Map<E> for DashMap<DeviceId, Arc<E>> {
    fn put(&self, entry: &Arc<E>, stays: impl Fn(&E) -> bool) -> Option<Arc<E>> {
        match self.entry(entry.device()) {
            Place::Occupied(known) if stays(known.get()) => Some(entry.clone()),
            Place::Occupied(mut known) => Some(known.insert(entry.clone())),
            Place::Vacant(free) => {
                free.insert(entry.clone());
                None
            }
        }
    }

    fn take_if(&self, device: DeviceId, is_it: impl Fn(&E) -> bool) -> bool {
        self.remove_if(&device, |_, known| is_it(known)).is_some()
    }

    fn find(&self, device: DeviceId) -> Option<Arc<E>> {
        self.get(&device).map(|entry| entry.value().clone())
    }

    fn every(&self) -> Vec<Arc<E>> {
        self.iter().map(|entry| entry.value().clone()).collect()
    }

    fn count(&self) -> usize {
        self.len()
    }
}

impl Flag for AtomicBool {
    fn set(&self, is_set: bool) {
        self.store(is_set, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.load(Ordering::SeqCst)
    }
}

/// The sessions of this hub, by device.
#[derive(Debug)]
pub(crate) struct Registry<P: Parts = Shared> {
    sessions: P::Map,
    is_shut: P::Flag,
    gone: Notify,
}

impl<P: Parts> Default for Registry<P> {
    fn default() -> Self {
        Self { sessions: P::Map::default(), is_shut: P::Flag::default(), gone: Notify::new() }
    }
}

impl<P: Parts> Registry<P> {
    /// Puts a session in, unless the device has one of a later epoch here, and tells the one that
    /// is over.
    pub(crate) fn register(&self, handle: &Arc<P::Entry>) {
        let over = self.sessions.put(handle, |known| known.epoch() > handle.epoch());
        if let Some(over) = over {
            over.close(CloseCode::Replaced);
        }
        // `shut` marks first and collects then, so one of the two sees the other.
        if self.is_shut.is_set() {
            handle.close(CloseCode::Drain);
        }
    }

    /// Takes a session out if it is still the device's, in one step. Says whether it was.
    pub(crate) fn unregister(&self, handle: &P::Entry) -> bool {
        #[cfg(feature = "planted-bugs")]
        if protocol::planted::has(protocol::planted::Bug::UnconditionalUnregister) {
            return self.sessions.take_if(handle.device(), |_| true);
        }
        let is_same = |known: &P::Entry| known.session() == handle.session();
        let was_current = self.sessions.take_if(handle.device(), is_same);
        if self.sessions.count() == 0 {
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
            if self.sessions.count() == 0 {
                return;
            }
            gone.await;
        }
    }

    pub(crate) fn get(&self, device: DeviceId) -> Option<Arc<P::Entry>> {
        self.sessions.find(device)
    }

    /// Whether the device's session is still that one.
    pub(crate) fn is_current(&self, handle: &P::Entry) -> bool {
        let known = self.sessions.find(handle.device());
        known.is_some_and(|known| known.session() == handle.session())
    }

    /// Closes exactly that session, because a later one is elsewhere.
    pub(crate) fn replaced(&self, device: DeviceId, session: SessionId) {
        if let Some(handle) = self.get(device).filter(|handle| handle.session() == session) {
            handle.close(CloseCode::Replaced);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.count()
    }

    /// The devices of every session of this moment.
    pub(crate) fn devices(&self) -> Vec<DeviceId> {
        self.all().iter().map(|handle| handle.device()).collect()
    }

    /// Every session of this moment, by device: what follows from it can be repeated.
    pub(crate) fn all(&self) -> Vec<Arc<P::Entry>> {
        let mut all = self.sessions.every();
        all.sort_unstable_by_key(|handle| handle.device());
        all
    }

    /// Closes every session, and those that still come.
    pub(crate) fn shut(&self) {
        self.is_shut.set(true);
        for handle in self.all() {
            handle.close(CloseCode::Drain);
        }
    }

    /// Lets sessions in again.
    pub(crate) fn reopen(&self) {
        self.is_shut.set(false);
    }
}
