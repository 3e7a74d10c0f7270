//! SQLite: one file, one writer, several readers.
//!
//! Owns the connections to the file and what is set on each. They are not the driver's pool: that
//! one asks a connection whether it lives whenever it is lent and whenever it is given back, and
//! here each question costs as much as a statement.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{DbError, migrate};

/// Connections that read. More than there are cores does not help SQLite.
const READERS: u32 = 4;
/// How long a statement waits for a lock, and a caller for a connection that reads.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn to write.
pub(super) const TURN: Duration = BUSY.saturating_mul(2);
/// Pages in the write-ahead log before they are folded into the file: 16 MiB. The pages of the
/// indexes come in it again and again, and go into the file once.
const LOG_PAGES: &str = "4000";
/// KiB of pages that the writer keeps, as SQLite spells it.
const WRITER_CACHE: &str = "-16000";

/// The file. Cloning is cheap, and clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct File {
    writer: Arc<tokio::sync::Mutex<Slot>>,
    readers: Arc<Readers>,
    rollbacks: TaskTracker,
}

/// The place of the connection that writes.
#[derive(Debug)]
struct Slot {
    options: SqliteConnectOptions,
    conn: Option<SqliteConnection>,
}

#[derive(Debug)]
struct Readers {
    free: Arc<Semaphore>,
    options: SqliteConnectOptions,
    idle: Mutex<VecDeque<SqliteConnection>>,
}

/// What every connection to a store's file has set.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .pragma("wal_autocheckpoint", LOG_PAGES)
}

impl File {
    /// Opens the file, creating it if need be, and applies the migrations.
    pub(super) async fn open(path: &Path) -> Result<Self, DbError> {
        let options = options(path);
        let mut conn = options.clone().create_if_missing(true).connect().await?;
        migrate::sqlite(&mut conn).await?;
        conn.close().await?;
        // What is replaced is overwritten: texts that lay in the clear do not stay in free pages.
        let writer =
            options.clone().pragma("cache_size", WRITER_CACHE).pragma("secure_delete", "ON");
        let readers = Readers {
            free: Arc::new(Semaphore::new(READERS as usize)),
            options: options.pragma("query_only", "ON"),
            idle: Mutex::default(),
        };
        Ok(Self {
            writer: Arc::new(tokio::sync::Mutex::new(Slot { options: writer, conn: None })),
            readers: Arc::new(readers),
            rollbacks: TaskTracker::new(),
        })
    }

    pub(super) async fn read(&self) -> Result<Read, DbError> {
        let free = self.readers.free.clone();
        let permit = timeout(BUSY, free.acquire_owned()).await.map_err(|_| late())?;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        // The one that was lent longest ago: another may still be at what nobody waits for any more.
        let idle = self.readers.idle().pop_front();
        let conn = match idle {
            Some(conn) => conn,
            None => self.readers.options.connect().await?,
        };
        Ok(Read { conn: Some(conn), home: self.readers.clone(), is_broken: false, _permit: permit })
    }

    pub(super) async fn write(&self) -> Result<Write, DbError> {
        // Free, but for a roll-back that is under way: the caller has the turn.
        let mut slot = self.writer.clone().lock_owned().await;
        let conn = match slot.conn.take() {
            Some(conn) => conn,
            None => slot.options.connect().await?,
        };
        // Made before it begins: a caller that goes away meanwhile must leave nothing open.
        let rollbacks = self.rollbacks.clone();
        let mut write = Write { held: Some((conn, slot)), is_failed: false, rollbacks };
        write.conn().execute("BEGIN IMMEDIATE").await?;
        Ok(write)
    }

    /// Folds the log into the file, and empties it; false when somebody still reads from it. The
    /// caller has the turn.
    pub(super) async fn empty_log(&self) -> Result<bool, DbError> {
        let mut slot = self.writer.clone().lock_owned().await;
        let mut conn = match slot.conn.take() {
            Some(conn) => conn,
            None => slot.options.connect().await?,
        };
        let folded = conn.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        slot.conn = Some(conn);
        Ok(folded.try_get::<i64, _>(0)? == 0)
    }

    pub(super) async fn close(&self) {
        self.rollbacks.close();
        self.rollbacks.wait().await;
        // Whoever reads now is waited for, and nobody reads after.
        let _all = timeout(BUSY, self.readers.free.acquire_many(READERS)).await;
        self.readers.free.close();
        let idle = std::mem::take(&mut *self.readers.idle());
        for conn in idle {
            close(conn).await;
        }
        if let Some(conn) = self.writer.lock().await.conn.take() {
            close(conn).await;
        }
    }
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<SqliteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last one that is closed folds the write-ahead log into the file; the next start does it
/// otherwise.
async fn close(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store was not closed");
    }
}

fn late() -> DbError {
    sqlx::Error::PoolTimedOut.into()
}

/// A connection that reads. It may be given back in the middle of a statement: its thread takes
/// one statement after the other, and drops one that nobody listens to.
#[derive(Debug)]
pub(super) struct Read {
    conn: Option<SqliteConnection>,
    home: Arc<Readers>,
    is_broken: bool,
    _permit: OwnedSemaphorePermit,
}

impl Read {
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect("only its end takes the connection")
    }

    /// A statement failed: a connection that did not get an answer of the database is not lent again.
    pub(super) fn fail(&mut self, error: &DbError) {
        self.is_broken |= !error.is_answer();
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if !self.is_broken {
            self.home.idle().extend(self.conn.take());
        }
    }
}

/// The one write transaction. Not the driver's own: when the disk is full SQLite rolls back by
/// itself, and the driver's count of transactions would never be right again on that connection.
#[derive(Debug)]
pub(super) struct Write {
    held: Option<(SqliteConnection, OwnedMutexGuard<Slot>)>,
    is_failed: bool,
    rollbacks: TaskTracker,
}

impl Write {
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.held.as_mut().expect("only its end takes the connection").0
    }

    /// A statement failed: nothing of this transaction may be committed any more.
    pub(super) const fn fail(&mut self) {
        self.is_failed = true;
    }

    pub(super) async fn commit(mut self) -> Result<(), DbError> {
        if self.is_failed {
            return Err(DbError::Failed);
        }
        self.conn().execute("COMMIT").await?;
        if let Some((conn, mut slot)) = self.held.take() {
            slot.conn = Some(conn);
        }
        Ok(())
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let Some((mut conn, mut slot)) = self.held.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let rollback = async move {
            // Rolled back already, or in no state to say: the next write takes another.
            if conn.execute("ROLLBACK").await.is_ok() {
                slot.conn = Some(conn);
            }
        };
        self.rollbacks.spawn_on(rollback, &runtime);
    }
}
