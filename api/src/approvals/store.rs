//! Approvals in the store.

use protocol::id::{OrderId, PersonName};
use protocol::jws::CompactJws;

use crate::db::{DbError, Tx, millis};

pub(super) async fn of_person(
    tx: &mut Tx,
    order: OrderId,
    person: &PersonName,
) -> Result<Option<CompactJws>, DbError> {
    let jws: Option<String> =
        sqlx::query_scalar("SELECT jws FROM approvals WHERE order_id = ? AND person = ?")
            .bind(order.as_uuid())
            .bind(person.as_str())
            .fetch_optional(tx.conn())
            .await?;
    Ok(jws.map(CompactJws::from_text))
}

pub(super) async fn of_order(tx: &mut Tx, order: OrderId) -> Result<Vec<CompactJws>, DbError> {
    let jws: Vec<String> = sqlx::query_scalar(
        "SELECT jws FROM approvals WHERE order_id = ? ORDER BY received_at, person",
    )
    .bind(order.as_uuid())
    .fetch_all(tx.conn())
    .await?;
    Ok(jws.into_iter().map(CompactJws::from_text).collect())
}

pub(super) async fn has_waiting(tx: &mut Tx, order: OrderId) -> Result<bool, DbError> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM commands WHERE order_id = ? AND state = 'awaiting_approval'",
    )
    .bind(order.as_uuid())
    .fetch_one(tx.conn())
    .await?;
    Ok(count > 0)
}

pub(super) async fn insert(
    tx: &mut Tx,
    order: OrderId,
    person: &PersonName,
    jws: &CompactJws,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sqlx::query("INSERT INTO approvals (order_id, person, jws, received_at) VALUES (?, ?, ?, ?)")
        .bind(order.as_uuid())
        .bind(person.as_str())
        .bind(jws.as_str())
        .bind(now)
        .execute(tx.conn())
        .await?;
    Ok(())
}
