//! Connections: of either database, reading or inside a write transaction.
//!
//! Owns carrying out statements. One that went wrong in its middle is never used again.

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tokio::time::timeout;

use super::DbError;
use super::postgres::Session;
use super::sql::{Row, Sql};
use super::sqlite::{Read, Write};
use crate::vault::Vault;

/// A connection. Stores of features take it, and neither know nor ask which database it is.
#[derive(Debug)]
pub struct Conn {
    pub(super) link: Link,
    vault: Arc<Vault>,
}

#[derive(Debug)]
pub(super) enum Link {
    /// Reads.
    Sqlite(Read),
    /// Nobody's: a tool's own.
    File(SqliteConnection),
    /// Inside the one write transaction.
    SqliteTx(Write),
    /// Reads, or is inside the one write transaction.
    Postgres(Session),
}

enum Raw<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut Session),
}

impl Conn {
    /// With the keys of its store.
    pub(super) const fn new(link: Link, vault: Arc<Vault>) -> Self {
        Self { link, vault }
    }

    /// A tool's: what is sealed stays so.
    pub(super) fn of_tool(link: Link) -> Self {
        Self { link, vault: Arc::default() }
    }

    /// The keys of the store.
    pub(crate) fn vault(&self) -> Arc<Vault> {
        self.vault.clone()
    }

    /// A store's file, for reading only, beside whoever else uses it.
    pub(crate) async fn read_only(path: &Path) -> Result<Self, DbError> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        Ok(Self::of_tool(Link::File(options.connect().await?)))
    }

    fn raw(&mut self) -> Raw<'_> {
        match &mut self.link {
            Link::Sqlite(read) => Raw::Sqlite(read.conn()),
            Link::File(conn) => Raw::Sqlite(conn),
            Link::SqliteTx(write) => Raw::Sqlite(write.conn()),
            Link::Postgres(session) => Raw::Postgres(session),
        }
    }
}

/// Has the connection know of a failure, before it is passed on.
fn settle<T>(conn: &mut Conn, outcome: Result<T, DbError>) -> Result<T, DbError> {
    if let Err(error) = &outcome {
        match &mut conn.link {
            Link::SqliteTx(write) => write.fail(),
            Link::Sqlite(read) => read.fail(error),
            Link::File(_) | Link::Postgres(_) => {}
        }
    }
    outcome
}

impl Sql {
    /// Carries it out, and says how many rows it changed.
    pub(crate) async fn execute(self, conn: &mut Conn) -> Result<u64, DbError> {
        let outcome = self.run(conn.raw()).await;
        settle(conn, outcome)
    }

    /// Carries it out, and answers its rows.
    pub(crate) async fn fetch_all(self, conn: &mut Conn) -> Result<Vec<Row>, DbError> {
        let outcome = self.all(conn.raw()).await;
        settle(conn, outcome)
    }

    /// Carries it out, and answers its first row, if there is one.
    pub(crate) async fn fetch_optional(self, conn: &mut Conn) -> Result<Option<Row>, DbError> {
        let outcome = self.first(conn.raw()).await;
        settle(conn, outcome)
    }

    /// Carries it out, and answers the row that it must have.
    pub(crate) async fn fetch_one(self, conn: &mut Conn) -> Result<Row, DbError> {
        self.fetch_optional(conn).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    async fn run(self, raw: Raw<'_>) -> Result<u64, DbError> {
        match raw {
            Raw::Sqlite(conn) => Ok(self.for_sqlite()?.execute(conn).await?.rows_affected()),
            Raw::Postgres(session) => {
                let query = self.for_postgres()?;
                let answer = timeout(session.limit(), query.execute(session.begin())).await;
                Ok(session.settle(answer)?.rows_affected())
            }
        }
    }

    async fn all(self, raw: Raw<'_>) -> Result<Vec<Row>, DbError> {
        match raw {
            Raw::Sqlite(conn) => {
                let rows = self.for_sqlite()?.fetch_all(conn).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Raw::Postgres(session) => {
                let query = self.for_postgres()?;
                let answer = timeout(session.limit(), query.fetch_all(session.begin())).await;
                Ok(session.settle(answer)?.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    async fn first(self, raw: Raw<'_>) -> Result<Option<Row>, DbError> {
        match raw {
            Raw::Sqlite(conn) => {
                Ok(self.for_sqlite()?.fetch_optional(conn).await?.map(Row::Sqlite))
            }
            Raw::Postgres(session) => {
                let query = self.for_postgres()?;
                let answer = timeout(session.limit(), query.fetch_optional(session.begin())).await;
                Ok(session.settle(answer)?.map(Row::Postgres))
            }
        }
    }
}
