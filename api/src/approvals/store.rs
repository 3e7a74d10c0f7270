//! Approvals in the store.

use protocol::id::{OrderId, PersonName};
use protocol::jws::CompactJws;

use crate::db::{DbError, Tx, millis, sql};

pub(super) async fn of_person(
    tx: &mut Tx,
    order: OrderId,
    person: &PersonName,
) -> Result<Option<CompactJws>, DbError> {
    let row = sql("SELECT jws FROM approvals WHERE order_id = $1 AND person = $2")
        .bind(order.as_uuid())
        .bind(person.as_str())
        .fetch_optional(tx.conn())
        .await?;
    row.map(|row| Ok(CompactJws::from_text(row.try_get(0)?))).transpose()
}

pub(super) async fn of_order(tx: &mut Tx, order: OrderId) -> Result<Vec<CompactJws>, DbError> {
    let rows = sql("SELECT jws FROM approvals WHERE order_id = $1 ORDER BY received_at, person")
        .bind(order.as_uuid())
        .fetch_all(tx.conn())
        .await?;
    rows.iter().map(|row| Ok(CompactJws::from_text(row.try_get(0)?))).collect()
}

pub(super) async fn has_waiting(tx: &mut Tx, order: OrderId) -> Result<bool, DbError> {
    let row = sql("SELECT COUNT(*) FROM commands WHERE order_id = $1 \
             AND state IN ('awaiting_approval', 'awaiting_wave')")
    .bind(order.as_uuid())
    .fetch_one(tx.conn())
    .await?;
    Ok(row.try_get::<i64>(0)? > 0)
}

/// Forgets a person's approval; whether there was one.
pub(super) async fn remove(
    tx: &mut Tx,
    order: OrderId,
    person: &PersonName,
) -> Result<bool, DbError> {
    let removed = sql("DELETE FROM approvals WHERE order_id = $1 AND person = $2")
        .bind(order.as_uuid())
        .bind(person.as_str())
        .execute(tx.conn())
        .await?;
    Ok(removed > 0)
}

/// Writes a person's approval, in place of a former one.
pub(super) async fn put(
    tx: &mut Tx,
    order: OrderId,
    person: &PersonName,
    jws: &CompactJws,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("INSERT INTO approvals (order_id, person, jws, received_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (order_id, person) DO UPDATE SET jws = excluded.jws, \
         received_at = excluded.received_at")
    .bind(order.as_uuid())
    .bind(person.as_str())
    .bind(jws.as_str())
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(())
}
