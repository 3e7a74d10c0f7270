//! Data keys in the store, and the texts that wait for another one.

use super::{Column, Key, SEALED};
use crate::db::{Conn, DbError, Row, Sql, Tx, millis, sql};

/// The data key that seals.
const PRESENT: &str = "present";
/// One that only opens, until nothing is left that it sealed.
const FORMER: &str = "former";

/// A data key's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRow {
    pub(super) id: String,
    pub(super) is_present: bool,
    pub(super) wrapped: String,
    pub(super) wrapped_by: String,
    pub(super) created_at: i64,
}

/// All of them, oldest first.
pub(super) async fn keys(conn: &mut Conn) -> Result<Vec<KeyRow>, DbError> {
    let rows = sql("SELECT id, state, wrapped, wrapped_by, created_at FROM vault_keys \
         ORDER BY created_at, id");
    let row = |row: &Row| {
        let state: &str = row.try_get(1)?;
        Ok(KeyRow {
            id: row.try_get(0)?,
            is_present: state == PRESENT,
            wrapped: row.try_get(2)?,
            wrapped_by: row.try_get(3)?,
            created_at: row.try_get(4)?,
        })
    };
    rows.fetch_all(conn).await?.iter().map(row).collect()
}

/// The one that seals.
pub(super) async fn present(conn: &mut Conn) -> Result<Option<String>, DbError> {
    let row = sql("SELECT id FROM vault_keys WHERE state = 'present'").fetch_optional(conn).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Makes it the one that seals, in place of what does.
pub(super) async fn put_present(
    tx: &mut Tx,
    id: &str,
    (wrapped, wrapped_by): (&str, &str),
) -> Result<(), DbError> {
    sql("UPDATE vault_keys SET state = 'former' WHERE state = 'present'")
        .execute(tx.conn())
        .await?;
    insert(tx, id, PRESENT, (wrapped, wrapped_by)).await
}

/// There may be texts in the clear.
pub(super) async fn put_clear(tx: &mut Tx) -> Result<(), DbError> {
    insert(tx, super::CLEAR, FORMER, ("", "")).await
}

async fn insert(
    tx: &mut Tx,
    id: &str,
    state: &'static str,
    (wrapped, wrapped_by): (&str, &str),
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("INSERT INTO vault_keys (id, state, wrapped, wrapped_by, created_at) \
         VALUES ($1, $2, $3, $4, $5)")
    .bind(id)
    .bind(state)
    .bind(wrapped)
    .bind(wrapped_by)
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Another vault key has wrapped it.
pub(super) async fn rewrap(
    tx: &mut Tx,
    id: &str,
    (wrapped, wrapped_by): (&str, &str),
) -> Result<(), DbError> {
    sql("UPDATE vault_keys SET wrapped = $1, wrapped_by = $2 WHERE id = $3")
        .bind(wrapped)
        .bind(wrapped_by)
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets keys that open nothing any more.
pub(super) async fn forget(tx: &mut Tx, ids: &[String]) -> Result<(), DbError> {
    let mut delete = sql("DELETE FROM vault_keys WHERE state = 'former' AND id IN ");
    delete.push_list(ids.iter().map(String::as_str));
    delete.execute(tx.conn()).await?;
    Ok(())
}

/// What names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowKey {
    Uuid(uuid::Uuid),
    Text(String),
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(id) => id.fmt(out),
            Self::Text(name) => out.write_str(name),
        }
    }
}

impl RowKey {
    fn push(&self, statement: &mut Sql) {
        match self {
            Self::Uuid(id) => statement.push_bind(*id),
            Self::Text(name) => statement.push_bind(name),
        };
    }
}

impl Key {
    const fn column(self) -> &'static str {
        match self {
            Self::Uuid(column) | Self::Text(column) => column,
        }
    }
}

/// Texts of a column that do not begin with `mark`, in the order of their rows.
pub(crate) async fn stale(
    conn: &mut Conn,
    column: &Column,
    (mark, after, limit): (&str, Option<&RowKey>, i64),
) -> Result<Vec<(RowKey, String)>, DbError> {
    let key = column.key.column();
    let mut select = sql("SELECT ");
    select.push(key).push(", ").push(column.name);
    push_stale(&mut select, column, mark);
    if let Some(after) = after {
        select.push(" AND ").push(key).push(" > ");
        after.push(&mut select);
    }
    select.push(" ORDER BY ").push(key).push(" LIMIT ").push_bind(limit);
    let row = |row: &Row| {
        let key = match column.key {
            Key::Uuid(_) => RowKey::Uuid(row.try_get(0)?),
            Key::Text(_) => RowKey::Text(row.try_get(0)?),
        };
        Ok((key, row.try_get(1)?))
    };
    select.fetch_all(conn).await?.iter().map(row).collect()
}

/// Whether there is any text at all.
pub(super) async fn has_any(conn: &mut Conn) -> Result<bool, DbError> {
    for column in &SEALED {
        let mut select = sql("SELECT 1 FROM ");
        select.push(column.table).push(" WHERE ").push(column.name).push(" IS NOT NULL");
        select.push(column.only).push(" LIMIT 1");
        if select.fetch_optional(&mut *conn).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many texts do not begin with `mark`, over all columns.
pub(super) async fn count_stale(conn: &mut Conn, mark: &str) -> Result<u64, DbError> {
    let mut total = 0;
    for column in &SEALED {
        let mut select = sql("SELECT COUNT(*)");
        push_stale(&mut select, column, mark);
        total += select.fetch_one(conn).await?.number::<u64>(0)?;
    }
    Ok(total)
}

fn push_stale(select: &mut Sql, column: &Column, mark: &str) {
    select.push(" FROM ").push(column.table).push(" WHERE ").push(column.name);
    select.push(" IS NOT NULL AND ").push(column.name).push(" NOT LIKE ");
    select.push_bind(format!("{mark}%")).push(column.only);
}

/// Puts a text in the place of another, if that is still there.
pub(crate) async fn replace(
    tx: &mut Tx,
    column: &Column,
    row: &RowKey,
    (former, text): (&str, &str),
) -> Result<u64, DbError> {
    let mut update = sql("UPDATE ");
    update.push(column.table).push(" SET ").push(column.name).push(" = ").push_bind(text);
    update.push(" WHERE ").push(column.key.column()).push(" = ");
    row.push(&mut update);
    update.push(" AND ").push(column.name).push(" = ").push_bind(former);
    update.execute(tx.conn()).await
}
