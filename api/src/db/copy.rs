//! Moving a store from one database to another, whole or not at all.
//!
//! Owns the copying and its proof: the same rows in every table, and in the copy the same events,
//! checked as a chain to the same head. Both sides stay as they were when anything is wrong.

use std::path::PathBuf;

use super::conn::Conn;
use super::migrate::{self, VERSION};
use super::schema::{TABLES, Table, Type};
use super::settings::DatabaseConfig;
use super::sql::{Row, Sql, Value, sql};
use super::{DbError, migrate as bring_up};
use crate::audit::{self, ChainError, ChainHead};

/// Rows read and written at a time: 25 values each, below the bounds of both databases.
const PAGE: i64 = 500;
/// The same of a table of long values, which are held in memory.
const LONG_PAGE: i64 = 16;

/// Where a store is.
#[derive(Debug, Clone, Default)]
pub struct Location {
    /// Which database.
    pub database: DatabaseConfig,
    /// The folder of the file, when it is one.
    pub data_dir: PathBuf,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Tables with their rows.
    pub tables: Vec<(&'static str, i64)>,
    /// The newest event, in both.
    pub head: ChainHead,
}

/// Why a store was not copied. The target is as it was before, apart from empty tables.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A database is not available.
    #[error("a store is not available")]
    Store(#[from] DbError),
    /// The source has another shape.
    #[error("the source is at version {found}, this program needs {VERSION}: run `tocsin migrate`")]
    Version {
        /// Its version.
        found: i64,
    },
    /// The target holds something already.
    #[error("the target is not empty: its table {0} has rows")]
    NotEmpty(&'static str),
    /// A table did not arrive whole.
    #[error("table {table} has {expected} rows in the source and {found} in the target")]
    Rows {
        /// Which.
        table: &'static str,
        /// How many there are.
        expected: i64,
        /// How many arrived.
        found: i64,
    },
    /// The events in the target are no whole chain.
    #[error("the events are no whole chain")]
    Chain(#[from] ChainError),
    /// The chain ends elsewhere.
    #[error("the events of the source end at {expected}, those of the target at {found}")]
    Head {
        /// Where the source's end.
        expected: i64,
        /// Where the target's end.
        found: i64,
    },
    /// Somebody wrote to the source.
    #[error("the source was written to meanwhile: stop every api that uses it, and copy again")]
    Moved,
}

/// Copies a store, as it was at one moment, into one that is empty. `progress` is told of each
/// table how many rows were written.
///
/// # Errors
/// See [`CopyError`].
pub async fn copy(
    from: &Location,
    to: &Location,
    mut progress: impl FnMut(&'static str, i64),
) -> Result<Copied, CopyError> {
    let mut source = Conn::snapshot(from).await?;
    let found = migrate::version(&mut source).await?;
    if found != VERSION {
        return Err(CopyError::Version { found });
    }
    let expected = audit::head(&mut source).await?;
    bring_up(&to.database, &to.data_dir).await?;
    let mut target = Conn::alone(to).await?;
    for table in &TABLES {
        if count(&mut target, table).await? != 0 {
            return Err(CopyError::NotEmpty(table.name));
        }
    }
    let mut tables = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        let written = |rows| progress(table.name, rows);
        let rows = copy_table(&mut source, &mut target, table, written).await?;
        let (expected, found) =
            (count(&mut source, table).await?, count(&mut target, table).await?);
        if rows != expected || found != expected {
            return Err(CopyError::Rows { table: table.name, expected, found });
        }
        tables.push((table.name, found));
    }
    let head = audit::verify_events(&mut target).await?;
    if head != expected {
        return Err(CopyError::Head { expected: expected.seq, found: head.seq });
    }
    let mut source = Conn::snapshot(from).await?;
    if audit::head(&mut source).await? != expected {
        return Err(CopyError::Moved);
    }
    target.finish().await?;
    Ok(Copied { tables, head })
}

async fn copy_table(
    source: &mut Conn,
    target: &mut Conn,
    table: &Table,
    mut written: impl FnMut(i64),
) -> Result<i64, DbError> {
    let mut total = 0;
    let mut after = None;
    loop {
        let rows = page(table, after.take()).fetch_all(source).await?;
        let Some(last) = rows.last() else { return Ok(total) };
        after = Some(values(table, last)?);
        let values = rows.iter().map(|row| values(table, row)).collect::<Result<Vec<_>, _>>()?;
        total += i64::try_from(values.len()).unwrap_or(i64::MAX);
        insert(table, values).execute(target).await?;
        written(total);
    }
}

/// The rows that follow those, in the order of the key.
fn page(table: &Table, after: Option<Vec<Value>>) -> Sql {
    let mut select = sql("SELECT ");
    push_columns(&mut select, table, table.columns.len());
    select.push(" FROM ").push(table.name);
    if let Some(after) = after {
        select.push(" WHERE (");
        push_columns(&mut select, table, table.key);
        select.push(") > (");
        for (index, value) in after.into_iter().take(table.key).enumerate() {
            select.push(if index == 0 { "" } else { ", " }).push_value(value);
        }
        select.push(")");
    }
    select.push(" ORDER BY ");
    push_columns(&mut select, table, table.key);
    let rows = if table.name == "chunks" { LONG_PAGE } else { PAGE };
    select.push(" LIMIT ").push_bind(rows);
    select
}

fn insert(table: &Table, rows: Vec<Vec<Value>>) -> Sql {
    let mut insert = sql("INSERT INTO ");
    insert.push(table.name).push(" (");
    push_columns(&mut insert, table, table.columns.len());
    insert.push(") ").push_rows(rows, |row, values| {
        for value in values {
            row.push_value(value);
        }
    });
    insert
}

fn push_columns(to: &mut Sql, table: &Table, count: usize) {
    for (index, (name, _)) in table.columns.iter().take(count).enumerate() {
        to.push(if index == 0 { "" } else { ", " }).push(name);
    }
}

fn values(table: &Table, row: &Row) -> Result<Vec<Value>, DbError> {
    let columns = table.columns.iter().enumerate();
    columns
        .map(|(index, (_, kind))| {
            Ok(match kind {
                Type::Int => Value::Int(row.try_get(index)?),
                Type::Text => Value::Text(row.try_get(index)?),
                Type::Bytes => Value::Bytes(row.try_get(index)?),
                Type::Uuid => Value::Uuid(row.try_get(index)?),
            })
        })
        .collect()
}

async fn count(conn: &mut Conn, table: &Table) -> Result<i64, DbError> {
    let mut select = sql("SELECT COUNT(*) FROM ");
    select.push(table.name);
    select.fetch_one(conn).await?.try_get(0)
}
