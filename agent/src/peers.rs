//! The addresses that a quarantine leaves open: those behind the names of hubs and control plane.
//!
//! Blocks, so it is for the threads of executors alone. A name service that is silent, as in the
//! middle of an incident, does not hold a quarantine up: then it is what was known before.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use runtime::Clock;

use crate::addresses::AddressBook;
use crate::execute::course::patience;
use crate::http::bare;

/// Hubs and control plane as one command sees them.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    /// `host:port` each.
    names: Vec<String>,
    book: AddressBook,
    found: Arc<OnceLock<Vec<SocketAddr>>>,
}

impl Peers {
    pub(crate) fn new(names: Vec<String>, book: AddressBook) -> Self {
        Self { names, book, found: Arc::default() }
    }

    /// Their addresses, sorted. Asked for once: what follows the cut goes by the same ones. Those
    /// where each was met last are among them, so that the sessions that stand outlive it.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.found.get_or_init(|| {
            let mut found = look_up(&self.names, patience::NAMES, &Clock::system());
            found.extend(self.names.iter().flat_map(|name| self.book.known(bare(name))));
            found.sort_unstable();
            found.dedup();
            found
        })
    }

    /// The same, of a quarantine that is carried out.
    pub(crate) fn left_open(&self) -> &[SocketAddr] {
        let found = self.addresses();
        // Whatever name each of them has: it may be asked for when nobody tells any more.
        self.book.left_open(found);
        found
    }
}

/// What names resolve to within that time, all at once; what takes longer is left out.
fn look_up(names: &[String], within: Duration, clock: &Clock) -> Vec<SocketAddr> {
    let (tell, told) = sync_channel(names.len());
    for name in names {
        let (name, tell) = (bare(name).to_owned(), tell.clone());
        let asking = move || {
            let found = name.to_socket_addrs().inspect_err(|error| {
                tracing::debug!(name, %error, "not resolved");
            });
            // Nobody listens when it took too long.
            let _ = tell.send(found.map(Vec::from_iter).unwrap_or_default());
        };
        if let Err(error) = thread::Builder::new().name("name service".to_owned()).spawn(asking) {
            tracing::warn!(%error, "a name is not asked for");
        }
    }
    drop(tell);
    let deadline = clock.now() + within;
    let left = || deadline.saturating_duration_since(clock.now());
    std::iter::from_fn(|| told.recv_timeout(left()).ok()).flatten().collect()
}
