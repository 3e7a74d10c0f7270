//! Versions of the trust root.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::TrustView;
use crate::db::{DbError, Tx, json, millis};

const COLUMNS: &str = "SELECT version, signed, root FROM trust_roots";

pub(super) async fn current(conn: &mut SqliteConnection) -> Result<Option<TrustView>, DbError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY version DESC LIMIT 1")))
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(view).transpose()
}

pub(super) async fn after(
    conn: &mut SqliteConnection,
    version: u32,
    limit: i64,
) -> Result<Vec<TrustView>, DbError> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "{COLUMNS} WHERE version > ? ORDER BY version LIMIT ?"
    )))
    .bind(version)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(view).collect()
}

pub(super) async fn insert(tx: &mut Tx, view: &TrustView) -> Result<(), DbError> {
    let encode =
        |value: serde_json::Result<String>| value.map_err(|_| DbError::Unreadable("trust root"));
    let now = millis(tx.now());
    sqlx::query("INSERT INTO trust_roots (version, signed, root, created_at) VALUES (?, ?, ?, ?)")
        .bind(view.version)
        .bind(encode(serde_json::to_string(&view.signed))?)
        .bind(encode(serde_json::to_string(&view.root))?)
        .bind(now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

fn view(row: &SqliteRow) -> Result<TrustView, DbError> {
    Ok(TrustView {
        version: row.try_get(0)?,
        signed: json(row.try_get(1)?, "trust root")?,
        root: json(row.try_get(2)?, "trust root")?,
    })
}
