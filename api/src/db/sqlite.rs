//! SQLite: one file, one writer, several readers.
//!
//! Owns the connections to the file and what is set on each.

use std::path::Path;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Executor as _, Sqlite, SqliteConnection};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::{DbError, migrate};

/// Connections that read. More than there are cores does not help SQLite.
const READERS: u32 = 4;
/// How long a statement waits for a lock, and a caller for a connection.
const BUSY: Duration = Duration::from_secs(5);

/// The file. Cloning is cheap, and clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct File {
    writer: SqlitePool,
    readers: SqlitePool,
    rollbacks: TaskTracker,
}

/// What every connection to a store's file has set.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
}

impl File {
    /// Opens the file, creating it if need be, and applies the migrations.
    pub(super) async fn open(path: &Path) -> Result<Self, DbError> {
        let options = options(path);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY * 2)
            .connect_with(options.clone().create_if_missing(true))
            .await?;
        migrate::sqlite(&mut *writer.acquire().await?).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_with(options.pragma("query_only", "ON"))
            .await?;
        Ok(Self { writer, readers, rollbacks: TaskTracker::new() })
    }

    pub(super) async fn read(&self) -> Result<PoolConnection<Sqlite>, DbError> {
        Ok(self.readers.acquire().await?)
    }

    pub(super) async fn write(&self) -> Result<Write, DbError> {
        let conn = Some(self.writer.acquire().await?);
        // Made before it begins: a caller that goes away meanwhile must leave nothing open.
        let mut write = Write { conn, is_failed: false, rollbacks: self.rollbacks.clone() };
        write.conn().execute("BEGIN IMMEDIATE").await?;
        Ok(write)
    }

    pub(super) async fn close(&self) {
        self.rollbacks.close();
        self.rollbacks.wait().await;
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The one write transaction. Not the driver's own: when the disk is full SQLite rolls back by
/// itself, and the driver's count of transactions would never be right again on that connection.
#[derive(Debug)]
pub(super) struct Write {
    conn: Option<PoolConnection<Sqlite>>,
    is_failed: bool,
    rollbacks: TaskTracker,
}

impl Write {
    pub(super) fn conn(&mut self) -> &mut SqliteConnection {
        self.conn.as_mut().expect("only its end takes the connection")
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
        // Back into the pool.
        drop(self.conn.take());
        Ok(())
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return drop(conn.detach()) };
        let rollback = async move {
            if conn.execute("ROLLBACK").await.is_err() {
                // Rolled back already, or in no state to say: the next write takes another.
                drop(conn.detach());
            }
        };
        self.rollbacks.spawn_on(rollback, &runtime);
    }
}
