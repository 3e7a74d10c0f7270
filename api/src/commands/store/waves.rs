//! First waves in the store.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{CommandId, OrderId};
use protocol::state::CommandState;

use super::state;
use crate::commands::wire::{FirstWave, WaveState};
use crate::db::{CHUNK, Conn, DbError, Tx, sql};

/// How many commands of an order, of those that left, stand where.
pub(in crate::commands) type Stands = BTreeMap<CommandState, u32>;

/// Writes that some of an order's devices go first.
pub(in crate::commands) async fn insert(
    tx: &mut Tx,
    waves: &[(OrderId, u32)],
) -> Result<(), DbError> {
    for chunk in waves.chunks(CHUNK) {
        let mut insert = sql("INSERT INTO first_waves (order_id, size, state) ");
        insert.push_rows(chunk, |row, (order, size)| {
            row.push_bind(order.as_uuid()).push_bind(*size).push_bind(WaveState::Running.as_str());
        });
        insert.execute(tx.conn()).await?;
    }
    Ok(())
}

/// The first wave of an order, if it has one.
pub(in crate::commands) async fn find(
    conn: &mut Conn,
    order: OrderId,
) -> Result<Option<FirstWave>, DbError> {
    let row = sql("SELECT size, state, why FROM first_waves WHERE order_id = $1")
        .bind(order.as_uuid())
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let state = WaveState::from_name(row.try_get(1)?).ok_or(DbError::Unreadable("first wave"))?;
    Ok(Some(FirstWave { size: row.number(0)?, state, why: row.try_get(2)? }))
}

/// Writes what became of a first wave.
pub(in crate::commands) async fn end(
    tx: &mut Tx,
    order: OrderId,
    state: WaveState,
    why: Option<&str>,
) -> Result<(), DbError> {
    sql("UPDATE first_waves SET state = $1, why = $2 WHERE order_id = $3")
        .bind(state.as_str())
        .bind(why)
        .bind(order.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Where the commands stand that left, of orders whose first wave is running: of these orders.
pub(in crate::commands) async fn running_of(
    conn: &mut Conn,
    orders: &BTreeSet<OrderId>,
) -> Result<BTreeMap<OrderId, Stands>, DbError> {
    let mut running = BTreeMap::new();
    let orders: Vec<_> = orders.iter().collect();
    for orders in orders.chunks(CHUNK) {
        let mut select = sql(RUNNING);
        select.push(" AND w.order_id IN ").push_list(orders.iter().map(|order| order.as_uuid()));
        select.push(GROUPED);
        collect(select.fetch_all(conn).await?, &mut running)?;
    }
    Ok(running)
}

/// Where the commands stand that left, of all orders whose first wave is running.
pub(in crate::commands) async fn running(
    conn: &mut Conn,
) -> Result<BTreeMap<OrderId, Stands>, DbError> {
    let mut select = sql(RUNNING);
    select.push(GROUPED);
    let mut running = BTreeMap::new();
    collect(select.fetch_all(conn).await?, &mut running)?;
    Ok(running)
}

const RUNNING: &str = "SELECT w.order_id, c.state, COUNT(*) FROM first_waves w \
     JOIN commands c ON c.order_id = w.order_id WHERE w.state = 'running' AND c.seq IS NOT NULL";
const GROUPED: &str = " GROUP BY w.order_id, c.state";

fn collect(
    rows: Vec<crate::db::Row>,
    running: &mut BTreeMap<OrderId, Stands>,
) -> Result<(), DbError> {
    for row in rows {
        let stands = running.entry(OrderId::from_uuid(row.try_get(0)?)).or_default();
        stands.insert(state(row.try_get(1)?)?, row.number(2)?);
    }
    Ok(())
}

/// Orders whose first wave has passed, and of which some devices have not followed.
pub(in crate::commands) async fn passed(conn: &mut Conn) -> Result<Vec<OrderId>, DbError> {
    let rows = sql("SELECT DISTINCT c.order_id FROM commands c \
         JOIN first_waves w ON w.order_id = c.order_id \
         WHERE c.state = 'awaiting_wave' AND w.state = 'passed'")
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(OrderId::from_uuid(row.try_get(0)?))).collect()
}

/// Whether any command of an order has left, and was not withdrawn.
pub(in crate::commands) async fn has_begun(tx: &mut Tx, order: OrderId) -> Result<bool, DbError> {
    let row = sql("SELECT 1 FROM commands WHERE order_id = $1 \
         AND seq IS NOT NULL AND state <> 'cancelled' LIMIT 1")
    .bind(order.as_uuid())
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.is_some())
}

/// Has commands wait for the first wave that waited for approvals. Answers which did.
pub(in crate::commands) async fn put_behind(
    tx: &mut Tx,
    ids: &[CommandId],
) -> Result<Vec<CommandId>, DbError> {
    let mut put = Vec::new();
    for ids in ids.chunks(CHUNK) {
        let mut update = sql(
            "UPDATE commands SET state = 'awaiting_wave' WHERE state = 'awaiting_approval' AND id IN ",
        );
        update.push_list(ids.iter().map(|id| id.as_uuid()));
        update.push(" RETURNING id");
        for row in update.fetch_all(tx.conn()).await? {
            put.push(CommandId::from_uuid(row.try_get(0)?));
        }
    }
    Ok(put)
}
