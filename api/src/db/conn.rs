//! Connections: of either database, reading or inside a write transaction.
//!
//! Owns carrying out statements. One that went wrong in its middle is never used again.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::time::timeout;

use super::postgres::Session;
use super::sql::{KEPT_VALUES, Row, Sql};
use super::sqlite::{self, Answer, Read, Write};
use super::{CHUNK, DbError};
use crate::vault::Vault;

/// Statements that stay prepared, at most, in place of one that does not, where each goes to another thread.
const PIECES: usize = 4;

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
    /// Nobody's: a tool's own, which may take its time.
    File(Box<Connection>),
    /// Inside the one write transaction.
    SqliteTx(Write),
    /// Reads, or is inside the one write transaction.
    Postgres(Session),
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
    pub(crate) fn read_only(path: &Path) -> Result<Self, DbError> {
        Ok(Self::of_tool(Link::File(Box::new(sqlite::read_only(path)?))))
    }

    /// How many of so many rows with so many values each one statement writes. SQLite keeps the statement
    /// prepared that writes some of them, and to ask it again costs less than to read another text. A server is asked
    /// once, and so is SQLite where each question goes to another thread and there are many.
    pub(crate) const fn rows_at_once(&self, rows: usize, values: usize) -> usize {
        let kept = KEPT_VALUES / values;
        match &self.link {
            Link::SqliteTx(write) if !write.is_handed_over() || rows <= PIECES * kept => kept,
            Link::SqliteTx(_) | Link::Sqlite(_) | Link::File(_) | Link::Postgres(_) => CHUNK,
        }
    }

    /// How many rows one statement changes that changes each differently. SQLite would make a table of what comes from a
    /// list, and for a long one go through all that it could be about: it changes one after the other.
    pub(crate) const fn updates_at_once(&self) -> usize {
        match &self.link {
            Link::SqliteTx(_) => 1,
            Link::Sqlite(_) | Link::File(_) | Link::Postgres(_) => CHUNK,
        }
    }

    /// From now on every statement is carried out where it may take its time: nobody waits for it.
    pub(super) const fn is_patient(&mut self) {
        if let Link::SqliteTx(write) = &mut self.link {
            write.is_patient();
        }
    }
}

impl Sql {
    /// Carries it out, and says how many rows it changed.
    pub(crate) async fn execute(self, conn: &mut Conn) -> Result<u64, DbError> {
        if let Link::Postgres(session) = &mut conn.link {
            let query = self.for_postgres()?;
            let answer = timeout(session.limit(), query.execute(session.begin())).await;
            return Ok(session.settle(answer)?.rows_affected());
        }
        Ok(self.ask(conn, usize::MAX).await?.changes)
    }

    /// Carries it out, and answers its rows.
    pub(crate) async fn fetch_all(self, conn: &mut Conn) -> Result<Vec<Row>, DbError> {
        if let Link::Postgres(session) = &mut conn.link {
            let query = self.for_postgres()?;
            let answer = timeout(session.limit(), query.fetch_all(session.begin())).await;
            return Ok(session.settle(answer)?.into_iter().map(Row::Postgres).collect());
        }
        Ok(self.ask(conn, usize::MAX).await?.rows.into_iter().map(Row::Sqlite).collect())
    }

    /// Carries it out, and answers its first row, if there is one.
    pub(crate) async fn fetch_optional(self, conn: &mut Conn) -> Result<Option<Row>, DbError> {
        if let Link::Postgres(session) = &mut conn.link {
            let query = self.for_postgres()?;
            let answer = timeout(session.limit(), query.fetch_optional(session.begin())).await;
            return Ok(session.settle(answer)?.map(Row::Postgres));
        }
        Ok(self.ask(conn, 1).await?.rows.pop().map(Row::Sqlite))
    }

    /// Carries it out, and answers the row that it must have.
    pub(crate) async fn fetch_one(self, conn: &mut Conn) -> Result<Row, DbError> {
        self.fetch_optional(conn).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// Has SQLite carry it out, for so many rows at most.
    async fn ask(self, conn: &mut Conn, most: usize) -> Result<Answer, DbError> {
        let statement = self.for_sqlite().map(|statement| (statement, most));
        if let Ok((statement, _)) = &statement {
            tracing::trace!(statement = statement.text, "asking the file");
        }
        match (&mut conn.link, statement) {
            (Link::Sqlite(read), Ok(statement)) => read.ask(statement).await,
            (Link::SqliteTx(write), Ok(statement)) => write.ask(statement).await,
            (Link::SqliteTx(write), Err(error)) => {
                write.fail();
                Err(error)
            }
            (Link::File(conn), Ok((statement, most))) => Ok(statement.ask(conn, most)?),
            (Link::Sqlite(_) | Link::File(_), Err(error)) => Err(error),
            (Link::Postgres(_), _) => Err(DbError::Unreadable("connection")),
        }
    }
}
