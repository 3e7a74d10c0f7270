//! Where the names of hubs and control plane were found last, kept for when no name service answers.
//!
//! Under quarantine a device has none, and neither a restart nor a reboot may cost it its way to
//! whoever can release it. What is kept here says where to knock and nothing else: who answers
//! proves itself by its name in mutual TLS, and only an address where somebody did is kept.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::limits;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Names that are kept; more than a configuration has, so that a former one fits beside it.
const NAMES: usize = 2 * limits::LIST_ENTRIES;
/// Addresses that are kept of one name.
const ADDRESSES: usize = 16;
/// Bytes of the file. Names are bounded where they are read.
const FILE_BYTES: usize = 256 * 1024;
const FILE: &str = "addresses.json";

/// What names were found at. Copies are one book.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    book: Arc<Mutex<Book>>,
    /// Held by whoever writes the file, so that nobody waits for a disk to read the book.
    writing: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Book {
    /// In memory only, where there is none.
    file: Option<PathBuf>,
    pages: Pages,
    /// The file does not say the same: it could not be written.
    is_unsaved: bool,
    /// What a quarantine leaves open, under whatever name.
    open: Vec<SocketAddr>,
}

/// The names, the one that came last at the end.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    names: Vec<Page>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// `host:port`.
    name: String,
    addresses: Vec<SocketAddr>,
}

impl AddressBook {
    /// The book of that state directory. One that cannot be read is begun anew: it is a help, and
    /// no reason not to start.
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let pages = read(&file).unwrap_or_else(|error| {
            tracing::warn!(error = &*error, "addresses that were kept cannot be read");
            Pages::default()
        });
        let book = Arc::new(Mutex::new(Book { file: Some(file), pages, ..Book::default() }));
        Self { book, writing: Arc::default() }
    }

    /// Where to look for a name when nobody says where it is: where it was, then wherever a
    /// quarantine lets the agent go on its port.
    pub fn known(&self, name: &str) -> Vec<SocketAddr> {
        let book = self.book();
        let mut known = book.page(name).map(|page| page.addresses.clone()).unwrap_or_default();
        let port = crate::http::split(name).map(|(_, port)| port);
        let open = book.open.iter().filter(|at| Some(at.port()) == port);
        known.extend(open.filter(|at| !known.contains(at)).copied().collect::<Vec<_>>());
        known
    }

    /// A server has proved at that address to be the one of this name, which was said to be `found`
    /// at these. Whether there is news to be [saved](Self::save).
    #[must_use]
    pub fn proven(&self, name: &str, at: SocketAddr, found: &[SocketAddr]) -> bool {
        if name.parse::<SocketAddr>().is_ok() {
            return false;
        }
        let mut book = self.book();
        let kept = book.page(name).map_or(&[][..], |page| &page.addresses);
        // The order in which a name service lists them changes with every answer.
        let is_kept = |at: &SocketAddr| kept.contains(at);
        if !is_kept(&at) || !found.iter().take(ADDRESSES).all(is_kept) {
            let others = found.iter().filter(|other| **other != at);
            let addresses = std::iter::once(&at).chain(others).take(ADDRESSES).copied().collect();
            book.replace(Page { name: name.to_owned(), addresses });
        }
        book.is_unsaved && book.file.is_some()
    }

    /// Writes the news down. Blocks until the disk has it. A full one must not stand in the way of a connection: it is
    /// tried again at the next one.
    pub fn save(&self) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, written)) = self.book().take_news() else { return };
        let written = written
            .map_err(std::io::Error::from)
            .map_err(|source| FileError::Write { path: file.clone(), source });
        if let Err(error) = written.and_then(|bytes| write_atomic(&file, &bytes, PRIVATE)) {
            self.book().is_unsaved = true;
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "addresses are kept in memory only");
        }
    }

    /// A quarantine leaves these open, whichever name each of them has.
    pub fn left_open(&self, addresses: &[SocketAddr]) {
        addresses.clone_into(&mut self.book().open);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn page(&self, name: &str) -> Option<&Page> {
        self.pages.names.iter().find(|page| page.name == name)
    }

    fn replace(&mut self, page: Page) {
        self.pages.names.retain(|other| other.name != page.name);
        let surplus = (self.pages.names.len() + 1).saturating_sub(NAMES);
        self.pages.names.drain(..surplus);
        self.pages.names.push(page);
        self.is_unsaved = true;
    }

    /// What the file should say from now on, if it does not yet.
    fn take_news(&mut self) -> Option<(PathBuf, serde_json::Result<Vec<u8>>)> {
        let file = self.file.clone().filter(|_| self.is_unsaved)?;
        self.is_unsaved = false;
        Some((file, serde_json::to_vec(&self.pages)))
    }
}

fn read(file: &Path) -> Result<Pages, Box<dyn std::error::Error>> {
    let bytes = match read_bounded(file, FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Pages::default()),
        Err(error) => return Err(error.into()),
    };
    let mut pages: Pages = serde_json::from_slice(&bytes)?;
    pages.names.truncate(NAMES);
    for page in &mut pages.names {
        page.addresses.truncate(ADDRESSES);
    }
    Ok(pages)
}
