//! SQLite: one file, one writer, several readers.
//!
//! Owns the connections to the file, what is set on each, and where statements are carried out. Nearly
//! all of them take microseconds: they are carried out by whoever asks, since handing one to another
//! thread and waiting for its answer costs several times as much (docs/adr/0053). What may take long is
//! handed over all the same: a commit, which waits for the disk; wide statements; those of jobs; and a
//! statement that only reads once it has taken too many steps.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::Value as Cell;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::fold::Fold;
use super::{DbError, migrate};

mod fold;

/// Connections that read. More than there are cores does not help SQLite.
const READERS: u32 = 4;
/// How long a statement waits for a lock, and a caller for a connection that reads.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for its turn to write.
pub(super) const TURN: Duration = BUSY.saturating_mul(2);
/// Pages in the write-ahead log before a tool folds them into the file (16 MiB); for whoever serves,
/// `fold` does.
const LOG_PAGES: i64 = 4000;
/// KiB of pages that the writer keeps, as SQLite spells it.
const WRITER_CACHE: i64 = -16_000;
/// Statements that a connection keeps prepared. Each number of rows is one of its own.
const PREPARED: usize = 128;
/// The same, of the one that writes.
const WRITER_PREPARED: usize = 512;
/// Steps of SQLite's machine that a reading statement may take before it is handed over: about a
/// millisecond.
const STEPS: i32 = 20_000;

/// A statement with its values.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) values: Vec<Cell>,
    /// Whether it has few values: it is kept prepared, and does not take long to write.
    pub(super) is_narrow: bool,
}

/// What came of a statement.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) changes: u64,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Statement {
    /// Carries it out, for so many rows at most.
    pub(super) fn ask(&self, conn: &Connection, most: usize) -> Result<Answer, rusqlite::Error> {
        if self.is_narrow {
            let mut kept = conn.prepare_cached(&self.text)?;
            let rows = self.rows(&mut kept, most)?;
            return Ok(Answer { changes: conn.changes(), rows });
        }
        let rows = self.rows(&mut conn.prepare(&self.text)?, most)?;
        Ok(Answer { changes: conn.changes(), rows })
    }

    fn rows(
        &self,
        prepared: &mut rusqlite::Statement<'_>,
        most: usize,
    ) -> Result<Vec<Vec<Cell>>, rusqlite::Error> {
        let columns = prepared.column_count();
        let mut rows = prepared.query(params_from_iter(&self.values))?;
        let mut found = Vec::new();
        while found.len() < most
            && let Some(row) = rows.next()?
        {
            found.push((0..columns).map(|column| row.get(column)).collect::<Result<_, _>>()?);
        }
        Ok(found)
    }
}

/// The file. Cloning is cheap, and clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct File {
    writer: Arc<tokio::sync::Mutex<Slot>>,
    readers: Arc<Readers>,
}

/// The place of the connection that writes.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    conn: Option<Box<Connection>>,
    fold: Arc<Fold>,
}

#[derive(Debug)]
struct Readers {
    free: Arc<Semaphore>,
    path: PathBuf,
    idle: Mutex<VecDeque<Box<Connection>>>,
}

/// A connection to a store's file, with what every one has set. It is made if it is missing.
pub(super) fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(PREPARED);
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    Ok(conn)
}

/// A connection to a file that is there, for reading.
pub(super) fn read_only(path: &Path) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(BUSY)?;
    Ok(conn)
}

fn open_writer(path: &Path) -> Result<Box<Connection>, rusqlite::Error> {
    let conn = Box::new(open(path)?);
    conn.pragma_update(None, "cache_size", WRITER_CACHE)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    // What a statement of several rows would put back, should one of them be refused, stays in memory: it is
    // every page that it changes, and would be written into a file of its own.
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(WRITER_PREPARED);
    // What is replaced is overwritten: texts that lay in the clear do not stay in free pages.
    conn.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    Ok(conn)
}

fn open_reader(path: &Path) -> Result<Box<Connection>, rusqlite::Error> {
    let conn = Box::new(open(path)?);
    conn.pragma_update(None, "query_only", true)?;
    bound(&conn)?;
    Ok(conn)
}

/// Has a statement end after some steps.
fn bound(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.progress_handler(STEPS, Some(|| true))
}

impl File {
    /// Opens the file, creating it if need be, and applies the migrations.
    pub(super) async fn open(path: &Path) -> Result<Self, DbError> {
        let file = path.to_owned();
        let migrated = tokio::task::spawn_blocking(move || migrate::sqlite(&mut open(&file)?));
        migrated.await.map_err(gone)??;
        let readers = Readers {
            free: Arc::new(Semaphore::new(READERS as usize)),
            path: path.to_owned(),
            idle: Mutex::default(),
        };
        let fold = Arc::new(Fold::new(path.to_owned()));
        let slot = Slot { path: path.to_owned(), conn: None, fold };
        Ok(Self { writer: Arc::new(tokio::sync::Mutex::new(slot)), readers: Arc::new(readers) })
    }

    pub(super) async fn read(&self) -> Result<Read, DbError> {
        let free = self.readers.free.clone();
        let permit = timeout(BUSY, free.acquire_owned()).await.map_err(|_| late())?;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.readers.idle().pop_back();
        let conn = idle.map_or_else(|| open_reader(&self.readers.path), Ok)?;
        let held = Held { conn, place: permit };
        Ok(Read { held: Some(held), home: self.readers.clone(), is_broken: false })
    }

    pub(super) async fn write(&self) -> Result<Write, DbError> {
        let mut slot = self.writer.clone().lock_owned().await;
        let conn = slot.take()?;
        let held = Held { conn, place: slot };
        let mut write = Write { held: Some(held), is_failed: false, is_patient: false };
        write.begin().await?;
        Ok(write)
    }

    /// Folds the log into the file, and empties it; false when somebody still reads from it. The
    /// caller has the turn.
    pub(super) async fn empty_log(&self) -> Result<bool, DbError> {
        let mut slot = self.writer.clone().lock_owned().await;
        let conn = slot.take()?;
        let mut held = Some(Held { conn, place: slot });
        let fold = |conn: &Connection| {
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        };
        let is_left = hand_over(&mut held, fold).await?;
        keep(held);
        Ok(is_left == 0)
    }

    pub(super) async fn close(&self) {
        // Whoever reads now is waited for, and nobody reads after.
        let _all = timeout(BUSY, self.readers.free.acquire_many(READERS)).await;
        self.readers.free.close();
        let mut all = std::mem::take(&mut *self.readers.idle());
        let mut slot = self.writer.lock().await;
        all.extend(slot.conn.take());
        let fold = slot.fold.clone();
        drop(slot);
        let closed = tokio::task::spawn_blocking(move || {
            all.extend(fold.close().map(Box::new));
            all.into_iter().for_each(|conn| close(*conn));
        });
        if closed.await.is_err() {
            tracing::warn!("the store was not closed");
        }
    }
}

impl Slot {
    /// Its connection, or a new one.
    fn take(&mut self) -> Result<Box<Connection>, rusqlite::Error> {
        self.conn.take().map_or_else(|| open_writer(&self.path), Ok)
    }
}

impl Readers {
    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Box<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last one that is closed folds the write-ahead log into the file; the next start does it
/// otherwise.
fn close(conn: Connection) {
    if let Err((_, error)) = conn.close() {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store was not closed");
    }
}

fn late() -> DbError {
    sqlx::Error::PoolTimedOut.into()
}

/// A thread ended before its work was done: nobody knows how far it came.
fn gone(_: tokio::task::JoinError) -> DbError {
    sqlx::Error::WorkerCrashed.into()
}

/// A connection, and what it takes up. They go together: who gives up waiting for a statement leaves
/// both to it until it is done.
#[derive(Debug)]
struct Held<P> {
    conn: Box<Connection>,
    place: P,
}

/// Has work done on a thread that may wait. While it is, nothing is held; afterwards everything is again.
async fn hand_over<P: Send + 'static, T: Send + 'static>(
    held: &mut Option<Held<P>>,
    work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
) -> Result<T, DbError> {
    let taken = held.take().ok_or(DbError::Failed)?;
    let done = tokio::task::spawn_blocking(move || {
        let outcome = work(&taken.conn);
        (taken, outcome)
    });
    let (taken, outcome) = done.await.map_err(gone)?;
    *held = Some(taken);
    Ok(outcome?)
}

fn keep(held: Option<Held<OwnedMutexGuard<Slot>>>) {
    if let Some(Held { conn, mut place }) = held {
        place.conn = Some(conn);
    }
}

/// A connection that reads.
#[derive(Debug)]
pub(super) struct Read {
    held: Option<Held<OwnedSemaphorePermit>>,
    home: Arc<Readers>,
    is_broken: bool,
}

impl Read {
    /// Carries a statement out: here as long as it takes a few steps, and from its beginning elsewhere
    /// when it takes more.
    pub(super) async fn ask(
        &mut self,
        (statement, most): (Statement, usize),
    ) -> Result<Answer, DbError> {
        let outcome = match self.ask_here(&statement, most) {
            Err(DbError::Sqlite(error)) if is(&error, ErrorCode::OperationInterrupted) => {
                let work = move |conn: &Connection| {
                    conn.progress_handler(0, None::<fn() -> bool>)?;
                    let answer = statement.ask(conn, most);
                    bound(conn)?;
                    answer
                };
                hand_over(&mut self.held, work).await
            }
            outcome => outcome,
        };
        // One that did not get an answer of the database is not lent again.
        self.is_broken |= outcome.as_ref().is_err_and(|error| !error.is_answer());
        outcome
    }

    fn ask_here(&self, statement: &Statement, most: usize) -> Result<Answer, DbError> {
        let held = self.held.as_ref().ok_or(DbError::Failed)?;
        Ok(statement.ask(&held.conn, most)?)
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if let Some(Held { conn, place }) = self.held.take().filter(|_| !self.is_broken) {
            self.home.idle().push_back(conn);
            drop(place);
        }
    }
}

/// The one write transaction. When the disk is full SQLite rolls back by itself.
#[derive(Debug)]
pub(super) struct Write {
    held: Option<Held<OwnedMutexGuard<Slot>>>,
    is_failed: bool,
    is_patient: bool,
}

impl Write {
    /// Nobody waits for it: what it does may take long.
    pub(super) const fn is_patient(&mut self) {
        self.is_patient = true;
    }

    /// Whether each statement goes to another thread.
    pub(super) const fn is_handed_over(&self) -> bool {
        self.is_patient
    }

    /// A statement failed: nothing of this transaction may be committed any more.
    pub(super) const fn fail(&mut self) {
        self.is_failed = true;
    }

    /// Nobody else writes in this process. Another one may, such as a tool: that is waited for
    /// elsewhere.
    async fn begin(&mut self) -> Result<(), DbError> {
        let begin = |conn: &Connection| conn.execute_batch("BEGIN IMMEDIATE");
        let conn = &self.held.as_ref().ok_or(DbError::Failed)?.conn;
        conn.busy_timeout(Duration::ZERO)?;
        let begun = begin(conn);
        conn.busy_timeout(BUSY)?;
        match begun {
            Err(error) if is(&error, ErrorCode::DatabaseBusy) => {
                hand_over(&mut self.held, begin).await
            }
            begun => Ok(begun?),
        }
    }

    pub(super) async fn ask(
        &mut self,
        (statement, most): (Statement, usize),
    ) -> Result<Answer, DbError> {
        // SQLite may have rolled all of it back by itself: what came now would be committed alone.
        if self.is_failed {
            return Err(DbError::Failed);
        }
        let outcome = if statement.is_narrow && !self.is_patient {
            let held = self.held.as_ref().ok_or(DbError::Failed)?;
            statement.ask(&held.conn, most).map_err(DbError::from)
        } else {
            hand_over(&mut self.held, move |conn| statement.ask(conn, most)).await
        };
        self.is_failed |= outcome.is_err();
        outcome
    }

    /// Commits. Whoever goes away meanwhile does not keep it from its end.
    pub(super) async fn commit(mut self) -> Result<(), DbError> {
        if self.is_failed {
            return Err(DbError::Failed);
        }
        let held = self.held.take().ok_or(DbError::Failed)?;
        let commit = tokio::task::spawn_blocking(move || {
            let committed = held.conn.execute_batch("COMMIT");
            // A disk that is full has room again for those who write once the log begins anew.
            let is_due = committed.is_err() || Fold::is_due(&held.conn);
            let fold = is_due.then(|| held.place.fold.clone());
            let writer = OwnedMutexGuard::mutex(&held.place).clone();
            keep(committed.is_ok().then_some(held));
            // Whoever committed does not wait for it.
            if let Some(fold) = fold {
                tokio::task::spawn_blocking(move || fold.run(&writer));
            }
            Ok::<_, DbError>(committed?)
        });
        commit.await.map_err(gone)?
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let held = self.held.take();
        // Rolled back already, or in no state to say: the next write takes another.
        keep(held.filter(|held| {
            !held.conn.is_autocommit() && held.conn.execute_batch("ROLLBACK").is_ok()
        }));
    }
}

fn is(error: &rusqlite::Error, code: ErrorCode) -> bool {
    error.sqlite_error_code() == Some(code)
}

#[cfg(test)]
mod tests;
