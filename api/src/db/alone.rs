//! Connections of tools, which have a store for themselves and may take their time.
//!
//! Owns the two transactions that a copy needs: a snapshot to read from, and a write that nobody
//! sees before its end.

use sqlx::{ConnectOptions as _, Executor as _};

use super::conn::{Conn, Link};
use super::copy::Location;
use super::postgres::{Session, begin};
use super::settings::{DatabaseConfig, PATIENCE, patient_options};
use super::{DbError, FILE, sql, sqlite};

impl Conn {
    /// Reads everything as it is now, whatever is written meanwhile.
    pub(super) async fn snapshot(from: &Location) -> Result<Self, DbError> {
        if from.database.url.is_empty() {
            let mut conn = Self::read_only(&from.data_dir.join(FILE))?;
            sql("BEGIN").execute(&mut conn).await?;
            return Ok(conn);
        }
        let mut conn = session(&from.database).await?;
        sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut conn).await?;
        Ok(conn)
    }

    /// Inside the one write transaction, for as long as it takes.
    pub(super) async fn alone(to: &Location) -> Result<Self, DbError> {
        if to.database.url.is_empty() {
            let file = sqlite::open(&to.data_dir.join(FILE))?;
            let mut conn = Self::of_tool(Link::File(Box::new(file)));
            sql("BEGIN IMMEDIATE").execute(&mut conn).await?;
            return Ok(conn);
        }
        let mut conn = patient_options(&to.database)?.connect().await?;
        conn.execute(begin()).await?;
        Ok(Self::of_tool(Link::Postgres(Session::single(conn, PATIENCE))))
    }

    /// Commits, and closes.
    pub(super) async fn finish(self) -> Result<(), DbError> {
        match self.link {
            Link::File(conn) => {
                conn.execute_batch("COMMIT")?;
                Ok(conn.close().map_err(|(_, error)| error)?)
            }
            Link::Postgres(session) => session.commit(None).await,
            Link::Sqlite(_) | Link::SqliteTx(_) => Err(DbError::Unreadable("transaction")),
        }
    }
}

async fn session(config: &DatabaseConfig) -> Result<Conn, DbError> {
    let conn = patient_options(config)?.connect().await?;
    Ok(Conn::of_tool(Link::Postgres(Session::single(conn, PATIENCE))))
}
