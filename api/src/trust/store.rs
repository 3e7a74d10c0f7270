//! Versions of the trust root.

use super::TrustView;
use crate::db::{Conn, DbError, Row, Tx, json, millis, sql};

const COLUMNS: &str = "SELECT version, signed, root FROM trust_roots";

pub(super) async fn current(conn: &mut Conn) -> Result<Option<TrustView>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(" ORDER BY version DESC LIMIT 1");
    select.fetch_optional(conn).await?.as_ref().map(view).transpose()
}

/// The number of the one in force.
pub(super) async fn version(conn: &mut Conn) -> Result<Option<u32>, DbError> {
    let row = sql("SELECT COALESCE(MAX(version), 0) FROM trust_roots").fetch_one(conn).await?;
    row.number(0).map(|version: u32| (version > 0).then_some(version))
}

pub(super) async fn after(
    conn: &mut Conn,
    version: u32,
    limit: i64,
) -> Result<Vec<TrustView>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(" WHERE version > ").push_bind(version);
    select.push(" ORDER BY version LIMIT ").push_bind(limit);
    select.fetch_all(conn).await?.iter().map(view).collect()
}

pub(super) async fn insert(tx: &mut Tx, view: &TrustView) -> Result<(), DbError> {
    let encode =
        |value: serde_json::Result<String>| value.map_err(|_| DbError::Unreadable("trust root"));
    let now = millis(tx.now());
    sql("INSERT INTO trust_roots (version, signed, root, created_at) VALUES ($1, $2, $3, $4)")
        .bind(view.version)
        .bind(encode(serde_json::to_string(&view.signed))?)
        .bind(encode(serde_json::to_string(&view.root))?)
        .bind(now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

fn view(row: &Row) -> Result<TrustView, DbError> {
    Ok(TrustView {
        version: row.number(0)?,
        signed: json(row.try_get(1)?, "trust root")?,
        root: json(row.try_get(2)?, "trust root")?,
    })
}
