//! Folding the write-ahead log into the file, beside whoever writes.
//!
//! Owns when it is done, and the connection that does it. SQLite by itself does it within the commit
//! that makes the log too long: whoever committed, and everybody behind them, would wait for the
//! pages of thousands of others.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::Error;

use super::{Slot, open};

/// Pages that are not folded yet (16 MiB) before somebody folds them.
const PAGES: i64 = 4000;
/// Pages of the log (64 MiB) beyond which those who write are held up for what is left: SQLite begins
/// the log again only when all of it was folded and nobody reads in it, which may never be while
/// somebody always writes or reads.
const MOST: i64 = 16_000;
/// How long those who read in the log are waited for then, and with them those who write. A look into
/// the store takes milliseconds; whoever looks longer is not waited for.
const READERS: Duration = Duration::from_millis(100);

/// Who folds.
#[derive(Debug)]
pub(super) struct Fold {
    path: PathBuf,
    conn: Mutex<Option<Connection>>,
}

/// How far it came, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    log: i64,
    folded: i64,
}

impl Pass {
    /// How long the log was when it was looked at.
    pub(super) const fn pages(self) -> i64 {
        self.log
    }

    /// Whether nothing was left in the log that was there when it was looked at.
    pub(super) const fn is_whole(self) -> bool {
        self.folded == self.log
    }
}

impl Fold {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, conn: Mutex::new(None) }
    }

    /// Whether it is time, as a connection sees the log after it has committed. Rows would not tell: some have a
    /// page in common with hundreds, and a chunk of evidence has sixty of its own.
    pub(super) fn is_due(conn: &Connection) -> bool {
        let looked = conn.prepare_cached("PRAGMA wal_checkpoint(NOOP)").and_then(|mut look| {
            look.query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
        });
        looked.is_ok_and(|left| left >= PAGES)
    }

    /// Folds what is in the log, unless somebody does already. May take long.
    pub(super) fn run(&self, writer: &tokio::sync::Mutex<Slot>) {
        let place = match self.conn.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        match self.fold_by(place, (writer, MOST)) {
            Ok(pass) if pass.pages() > MOST && !pass.is_whole() => tracing::warn!(
                pages = pass.pages(),
                "somebody reads for long: the log of the store grows"
            ),
            Ok(_) => {}
            // The next one tries again. Nothing is lost but room.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the log of the store was not folded into its file");
            }
        }
    }

    #[cfg(test)]
    pub(super) fn fold(&self, writer: &tokio::sync::Mutex<Slot>, most: i64) -> Result<Pass, Error> {
        self.fold_by(self.place(), (writer, most))
    }

    fn fold_by(
        &self,
        mut place: MutexGuard<'_, Option<Connection>>,
        (writer, most): (&tokio::sync::Mutex<Slot>, i64),
    ) -> Result<Pass, Error> {
        let conn = match place.take() {
            Some(conn) => conn,
            None => open(&self.path)?,
        };
        let mut pass = pass(&conn, "PASSIVE")?;
        // Whatever was folded: what came meanwhile was not.
        if pass.log > most {
            let _nobody_writes = writer.blocking_lock();
            conn.busy_timeout(READERS)?;
            pass = self::pass(&conn, "RESTART")?;
        }
        *place = Some(conn);
        Ok(pass)
    }

    /// Its connection, for closing it. Waits for a folding that runs.
    pub(super) fn close(&self) -> Option<Connection> {
        self.place().take()
    }

    fn place(&self) -> MutexGuard<'_, Option<Connection>> {
        self.conn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Folds what nobody reads past: `PASSIVE` and waits for nobody, or `RESTART` and waits until those
/// who read do so in the file alone, so that the next who writes begins the log again.
fn pass(conn: &Connection, mode: &str) -> Result<Pass, Error> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok(Pass { log: row.get(1)?, folded: row.get(2)? })
    })
}
