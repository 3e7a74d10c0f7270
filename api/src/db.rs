//! The store: one SQLite file, one writer, several readers.
//!
//! Owns connections, migrations and transactions. Statements live in the features' `store.rs`
//! files and are plain SQL with bound parameters, so that PostgreSQL can come beside this. A
//! write transaction cannot end without saying which events it appends.

use std::borrow::Cow;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use protocol::time::Timestamp;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{SqlSafeStr, Sqlite};
use tokio::sync::watch;

use crate::audit::{self, Actor};

pub use self::tx::Tx;

mod tx;

/// Connections that read. More than there are cores does not help SQLite.
const READERS: u32 = 4;
/// How long a statement waits for a lock, and a caller for a connection.
const BUSY: Duration = Duration::from_secs(5);
/// Values bound in one `IN (…)` list: below SQLite's bound of 32,766 parameters.
pub(crate) const CHUNK: usize = 1000;

const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "initial", include_str!("../migrations/0001_initial.sql")),
    (2, "out", include_str!("../migrations/0002_out.sql")),
];

/// Why the store did not do what was asked. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database answered with an error: locked, full, gone.
    #[error("the store is not available")]
    Unavailable(#[from] sqlx::Error),
    /// The migrations could not be applied.
    #[error("the store cannot be brought to its present shape")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A stored value is not what this version writes.
    #[error("the store holds an unreadable {0}")]
    Unreadable(&'static str),
}

/// A connection that reads.
pub type Reader = PoolConnection<Sqlite>;

/// The store. Cloning is cheap, and clones are the same store.
#[derive(Debug, Clone)]
pub struct Db {
    writer: SqlitePool,
    readers: SqlitePool,
    head: watch::Sender<i64>,
}

impl Db {
    /// Opens the file, creating it if need be, and applies the migrations.
    pub async fn open(path: &Path) -> Result<Self, DbError> {
        let options = SqliteConnectOptions::from_str("sqlite://")?
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(BUSY * 2)
            .connect_with(options.clone())
            .await?;
        migrator().run(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(BUSY)
            .connect_with(options.create_if_missing(false).pragma("query_only", "ON"))
            .await?;
        let mut connection = readers.acquire().await?;
        let head = audit::head(&mut connection).await?;
        drop(connection);
        Ok(Self { writer, readers, head: watch::Sender::new(head.seq) })
    }

    /// A connection that reads. It sees everything that was committed before.
    pub async fn read(&self) -> Result<Reader, DbError> {
        Ok(self.readers.acquire().await?)
    }

    /// Begins a write transaction. Only one runs at a time; the others wait for it.
    pub async fn write(&self, actor: Actor, now: Timestamp) -> Result<Tx, DbError> {
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx::new(inner, actor, now, self.head.clone()))
    }

    /// Follows the sequence number of the newest committed event.
    pub fn events_head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// Closes every connection; the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, description, sql)| {
        let description = Cow::Borrowed(description);
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator { migrations: Cow::Owned(migrations.to_vec()), ..Migrator::DEFAULT }
}

/// A time as it is stored.
pub(crate) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A stored time.
pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A stored JSON text.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|_| DbError::Unreadable(what))
}
