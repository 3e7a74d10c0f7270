//! PostgreSQL: its sessions, and how write transactions are kept serial across nodes.
//!
//! Owns what is said to the server at connect, and the end of every session that went wrong. A
//! write transaction holds one advisory lock of the database, so that it sees everything that was
//! committed before it, on whichever node; the server cuts the session of a node that stops.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::DbError;
use super::settings::{DatabaseConfig, postgres_options};

/// The advisory lock of the one writer: "tocsin" in ASCII.
const WRITER_LOCK: i64 = 0x74_6f_63_73_69_6e;
/// Where committed events are announced, with the sequence number of the newest.
pub(super) const CHANNEL: &str = "tocsin_events";
/// How often a write transaction is begun anew: nothing was done yet.
const ATTEMPTS: usize = 3;
/// How much longer than the server the client waits for an answer: then the server is not there.
const MARGIN: Duration = Duration::from_secs(2);

/// The database.
#[derive(Debug)]
pub(super) struct Server {
    readers: PgPool,
    writer: Writer,
    look_every: Duration,
}

/// The place of the one session that writes for this node.
type Slot = Mutex<Option<PgConnection>>;

#[derive(Debug)]
struct Writer {
    options: PgConnectOptions,
    waits: Waits,
    slot: Arc<Slot>,
    rollbacks: TaskTracker,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Waits {
    connect: Duration,
    statement: Duration,
    lock: Duration,
}

impl Server {
    /// Prepares the sessions, and checks that the database is one that can be used.
    pub(super) async fn open(config: &DatabaseConfig) -> Result<Self, DbError> {
        let options = postgres_options(config)?;
        let waits = Waits {
            connect: config.connect_timeout,
            statement: config.statement_timeout + MARGIN,
            lock: config.lock_timeout + MARGIN,
        };
        let writer = Writer {
            options: options.clone(),
            waits,
            slot: Arc::default(),
            rollbacks: TaskTracker::new(),
        };
        let first = connect(&writer.options, waits.connect).await?;
        *writer.slot.lock().await = Some(first);
        let readers = PgPoolOptions::new()
            // One session writes, one listens.
            .max_connections(config.max_connections.saturating_sub(2).max(1))
            .acquire_timeout(config.connect_timeout)
            .connect_lazy_with(options.options([("default_transaction_read_only", "on")]));
        Ok(Self { readers, writer, look_every: config.look_every })
    }

    pub(super) async fn read(&self) -> Result<Session, DbError> {
        let held = Held::Pooled(self.readers.acquire().await?);
        Ok(Session { held: Some(held), limit: self.writer.waits.statement, is_busy: false })
    }

    /// Begins a write transaction, when no other node is in one.
    pub(super) async fn write(&self) -> Result<Session, DbError> {
        self.writer.begin().await
    }

    /// How long a caller waits until its transaction has begun.
    pub(super) fn turn(&self) -> Duration {
        self.writer.waits.connect + self.writer.waits.lock
    }

    /// What the listener connects with: it waits for ever, on purpose.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.writer.options
    }

    /// How often to look for events without a notification.
    pub(super) const fn look_every(&self) -> Duration {
        self.look_every
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.rollbacks.close();
        self.writer.rollbacks.wait().await;
        if let Some(conn) = self.writer.slot.lock().await.take() {
            // The server notices the end of a session also when it is not told.
            let _ = timeout(MARGIN, conn.close()).await;
        }
    }
}

impl Writer {
    async fn begin(&self) -> Result<Session, DbError> {
        let mut slot = self.slot.clone().lock_owned().await;
        let mut attempt = 1;
        loop {
            let mut conn = match slot.take() {
                Some(conn) => conn,
                None => connect(&self.options, self.waits.connect).await?,
            };
            match timeout(self.waits.lock, conn.execute(begin())).await {
                Ok(Ok(_)) => {
                    let rollbacks = self.rollbacks.clone();
                    let held = Held::Writing { conn, slot, rollbacks };
                    let limit = self.waits.statement;
                    return Ok(Session { held: Some(held), limit, is_busy: false });
                }
                Ok(Err(error)) if attempt < ATTEMPTS && is_transient(&error) => attempt += 1,
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(late()),
            }
            // The session is in an unknown state: dropping it ends it.
        }
    }
}

/// One round trip. Read committed on purpose: the first statement after the lock must see what
/// was committed while this one waited for it.
pub(super) fn begin() -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
         SELECT pg_advisory_xact_lock({WRITER_LOCK})"
    ))
}

/// Whether to try again when nothing was done yet: the session was cut while it was idle, or the
/// server asks for it (serialization failure, deadlock).
fn is_transient(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else {
        return matches!(error, sqlx::Error::Io(_));
    };
    let code = error.code().unwrap_or(Cow::Borrowed(""));
    // Class 57P: the session was ended by the server.
    code == "40001" || code == "40P01" || code == "25P03" || code.starts_with("57P0")
}

/// A session that may write.
async fn connect(options: &PgConnectOptions, wait: Duration) -> Result<PgConnection, DbError> {
    let connect = async {
        let mut conn = options.connect().await?;
        // What was answered 201 is on disk. A server that wants more than that keeps it.
        conn.execute(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')",
        )
        .await?;
        Ok::<_, sqlx::Error>(conn)
    };
    Ok(timeout(wait, connect).await.map_err(|_| late())??)
}

fn late() -> DbError {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
        .into()
}

/// A session in use. Dropped in the middle of a statement it is closed, and the server rolls back.
#[derive(Debug)]
pub(super) struct Session {
    held: Option<Held>,
    limit: Duration,
    /// A statement is under way, or its end is not known.
    is_busy: bool,
}

#[derive(Debug)]
enum Held {
    Pooled(PoolConnection<Postgres>),
    Writing {
        conn: PgConnection,
        slot: OwnedMutexGuard<Option<PgConnection>>,
        rollbacks: TaskTracker,
    },
    /// Nobody's: a tool's own.
    Single(PgConnection),
}

impl Session {
    /// A session of a tool, without a pool.
    pub(super) const fn single(conn: PgConnection, limit: Duration) -> Self {
        Self { held: Some(Held::Single(conn)), limit, is_busy: false }
    }

    /// How long a statement may take.
    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// The connection, for one statement.
    pub(super) fn begin(&mut self) -> &mut PgConnection {
        self.is_busy = true;
        match self.held.as_mut().expect("only its end takes the connection") {
            Held::Pooled(conn) => conn,
            Held::Writing { conn, .. } | Held::Single(conn) => conn,
        }
    }

    /// What came of the statement. After an answer of the server the session is usable again.
    pub(super) fn settle<T>(
        &mut self,
        answer: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, DbError> {
        let outcome = answer.map_err(|_| late())?;
        self.is_busy = outcome.as_ref().is_err_and(|error| error.as_database_error().is_none());
        Ok(outcome?)
    }

    /// Commits, and announces the newest event to every node. A transaction in which a statement
    /// failed does not get past the first of the two: its `COMMIT` would be answered by a silent
    /// rollback. A commit that waits for a replica is not cut by `statement_timeout`, which the server
    /// disarms before it: our own limit ends the wait, and then nobody knows.
    pub(super) async fn commit(mut self, head: Option<i64>) -> Result<(), DbError> {
        let text = head.map_or_else(
            || "SELECT 1; COMMIT".to_owned(),
            |head| format!("SELECT pg_notify('{CHANNEL}', '{head}'); COMMIT"),
        );
        let limit = self.limit;
        let answer = timeout(limit, self.begin().execute(AssertSqlSafe(text))).await;
        self.settle(answer)?;
        if let Some(Held::Writing { conn, mut slot, .. }) = self.held.take() {
            *slot = Some(conn);
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match self.held.take() {
            // Out of the pool, so that nobody waits for its answer.
            Some(Held::Pooled(conn)) if self.is_busy => drop(conn.detach()),
            Some(Held::Writing { mut conn, mut slot, rollbacks }) if !self.is_busy => {
                let Ok(runtime) = Handle::try_current() else { return };
                let limit = self.limit;
                let rollback = async move {
                    if let Ok(Ok(_)) = timeout(limit, conn.execute("ROLLBACK")).await {
                        *slot = Some(conn);
                    }
                };
                rollbacks.spawn_on(rollback, &runtime);
            }
            Some(Held::Pooled(_) | Held::Writing { .. } | Held::Single(_)) | None => {}
        }
    }
}
