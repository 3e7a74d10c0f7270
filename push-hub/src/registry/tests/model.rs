//! The registry's own code over parts that loom schedules: every order in which threads may meet.
//!
//! DashMap is taken for what it promises, one step per call; whether it keeps that is its own
//! tests' part. The inbox behind a session is reduced to the word to close.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, Ordering};
use protocol::close::CloseCode;
use protocol::id::{DeviceId, SessionId};
use uuid::Uuid;

use crate::registry::{Entry, Flag, Map, Parts, Registry};

struct Modelled;

impl Parts for Modelled {
    type Entry = Session;
    type Map = LockedMap;
    type Flag = Mark;
}

/// A session that remembers the first word to close.
struct Session {
    number: u128,
    epoch: u64,
    close: Mutex<Option<CloseCode>>,
}

impl Session {
    fn new(number: u128, epoch: u64) -> Arc<Self> {
        Arc::new(Self { number, epoch, close: Mutex::new(None) })
    }

    fn closed(&self) -> Option<CloseCode> {
        *self.close.lock().unwrap()
    }
}

impl Entry for Session {
    fn device(&self) -> DeviceId {
        DeviceId::from_uuid(Uuid::nil())
    }

    fn session(&self) -> SessionId {
        SessionId::from_uuid(Uuid::from_u128(self.number))
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn close(&self, code: CloseCode) {
        self.close.lock().unwrap().get_or_insert(code);
    }
}

#[derive(Default)]
struct LockedMap(Mutex<HashMap<DeviceId, Arc<Session>>>);

impl fmt::Debug for LockedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedMap")
    }
}

impl Map<Session> for LockedMap {
    fn put(&self, entry: &Arc<Session>, stays: impl Fn(&Session) -> bool) -> Option<Arc<Session>> {
        let mut map = self.0.lock().unwrap();
        if map.get(&entry.device()).is_some_and(|known| stays(known)) {
            return Some(entry.clone());
        }
        map.insert(entry.device(), entry.clone())
    }

    fn take_if(&self, device: DeviceId, is_it: impl Fn(&Session) -> bool) -> bool {
        let mut map = self.0.lock().unwrap();
        map.get(&device).is_some_and(|known| is_it(known)) && map.remove(&device).is_some()
    }

    fn find(&self, device: DeviceId) -> Option<Arc<Session>> {
        self.0.lock().unwrap().get(&device).cloned()
    }

    fn every(&self) -> Vec<Arc<Session>> {
        self.0.lock().unwrap().values().cloned().collect()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[derive(Debug, Default)]
struct Mark(AtomicBool);

impl Flag for Mark {
    fn set(&self, is_set: bool) {
        self.0.store(is_set, Ordering::SeqCst);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Two sessions of one device come at once, and each goes when it is told to.
fn race(epochs: [u64; 2], unregister: fn(&Registry<Modelled>, &Session)) {
    let registry = loom::sync::Arc::new(Registry::<Modelled>::default());
    let sessions = [Session::new(1, epochs[0]), Session::new(2, epochs[1])];
    let threads = sessions.clone().map(|session| {
        let registry = registry.clone();
        loom::thread::spawn(move || {
            registry.register(&session);
            if session.closed().is_some() {
                unregister(&registry, &session);
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    for session in sessions.iter().filter(|session| session.closed().is_some()) {
        unregister(&registry, session);
    }
    let open: Vec<_> = sessions.iter().filter(|session| session.closed().is_none()).collect();
    assert_eq!(open.len(), 1, "exactly one session stays");
    assert!(registry.is_current(open[0]), "and it can be found");
    let newest = epochs.into_iter().max();
    assert_eq!(Some(open[0].epoch), newest, "and it is the later one");
}

#[test]
fn one_session_stays_in_every_order_of_coming_and_going() {
    for epochs in [[0, 0], [1, 2]] {
        loom::model(move || race(epochs, |registry, session| _ = registry.unregister(session)));
    }
}

#[test]
#[should_panic(expected = "and it can be found")]
fn removing_without_compare_is_refuted() {
    loom::model(|| {
        race([0, 0], |registry, session| _ = registry.sessions.take_if(session.device(), |_| true));
    });
}

/// A registry is shut while a session comes.
fn shutting(shut: fn(&Registry<Modelled>)) {
    let registry = loom::sync::Arc::new(Registry::<Modelled>::default());
    let session = Session::new(1, 0);
    let coming = {
        let (registry, session) = (registry.clone(), session.clone());
        loom::thread::spawn(move || registry.register(&session))
    };
    shut(&registry);
    coming.join().unwrap();
    assert_eq!(session.closed(), Some(CloseCode::Drain), "nobody is overlooked");
}

#[test]
fn shut_registry_overlooks_no_session_in_any_order() {
    loom::model(|| shutting(Registry::shut));
}

#[test]
#[should_panic(expected = "nobody is overlooked")]
fn collecting_before_marking_is_refuted() {
    loom::model(|| {
        shutting(|registry| {
            for session in registry.all() {
                session.close(CloseCode::Drain);
            }
            registry.is_shut.set(true);
        });
    });
}
