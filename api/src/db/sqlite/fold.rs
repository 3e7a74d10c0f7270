//! Folding the write-ahead log into the file, beside whoever writes.
//!
//! Owns when it is done, and the connection that does it. SQLite by itself does it within the commit
//! that makes the log too long: whoever committed, and everybody behind them, would wait for the
//! pages of thousands of others.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use rusqlite::Connection;
use rusqlite::Error;

use super::{Slot, open};

/// Rows that are changed between two foldings: each changes one page or two, most of them again and
/// again.
pub(super) const ROWS: u64 = 3000;
/// Pages of the log (64 MiB) beyond which those who write are held up for what is left: SQLite begins
/// the log again only when all of it was folded, which may never be while somebody always writes.
const MOST: i64 = 16_000;

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
    /// Whether nothing is left in the log: the next who writes begins it again.
    pub(super) const fn is_whole(self) -> bool {
        self.folded == self.log
    }
}

impl Fold {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, conn: Mutex::new(None) }
    }

    /// Folds what is in the log, unless somebody does already. May take long.
    pub(super) fn run(&self, writer: &tokio::sync::Mutex<Slot>) {
        let place = match self.conn.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // The next one tries again. Nothing is lost but room.
        if let Err(error) = self.fold_by(place, (writer, MOST)) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the log of the store was not folded into its file");
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
        let mut pass = pass(&conn)?;
        if pass.log > most && !pass.is_whole() {
            let _nobody_writes = writer.blocking_lock();
            pass = self::pass(&conn)?;
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

/// Folds what nobody reads past, and waits for nobody.
fn pass(conn: &Connection) -> Result<Pass, Error> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(Pass { log: row.get(1)?, folded: row.get(2)? })
    })
}
