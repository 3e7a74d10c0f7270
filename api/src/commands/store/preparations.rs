//! Orders that are accepted and not wholly written yet, in the store.
//!
//! Owns their rows: the list of devices, and the answer that is given in the end. A row goes with
//! the last commands of its order. How many there are already is counted among the commands: each
//! device of the list has one, in the order of the list.

use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::state::CommandState;
use serde_json::json;
use uuid::Uuid;

use super::orders::{self, Order};
use crate::audit::Kind;
use crate::commands::queue::Fresh;
use crate::db::{Conn, DbError, Tx, millis, sql};
use crate::http::idempotency::Claim;

/// A command that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) struct Planned {
    pub(in crate::commands) command: CommandId,
    pub(in crate::commands) device: DeviceId,
    pub(in crate::commands) generation: u32,
    /// Whether it waits for the first wave of its order.
    pub(in crate::commands) is_behind: bool,
}

/// Bytes of one in the list: two ids, the generation, and whether it goes first.
const BYTES: usize = 16 + 16 + 4 + 1;

fn pack(planned: &[Planned]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(planned.len() * BYTES);
    for Planned { command, device, generation, is_behind } in planned {
        bytes.extend_from_slice(command.as_uuid().as_bytes());
        bytes.extend_from_slice(device.as_uuid().as_bytes());
        bytes.extend_from_slice(&generation.to_be_bytes());
        bytes.push(u8::from(*is_behind));
    }
    bytes
}

fn unpack(bytes: &[u8]) -> Result<Vec<Planned>, DbError> {
    let broken = || DbError::Unreadable("devices of an order");
    if !bytes.len().is_multiple_of(BYTES) {
        return Err(broken());
    }
    let planned = bytes.chunks_exact(BYTES).map(|one| {
        let id = |from: usize| {
            let id = one.get(from..from + 16).ok_or_else(broken)?;
            Uuid::from_slice(id).map_err(|_| broken())
        };
        let rest = one.get(32..).and_then(|rest| rest.split_last()).ok_or_else(broken)?;
        let generation = rest.1.try_into().map_err(|_| broken())?;
        Ok(Planned {
            command: CommandId::from_uuid(id(0)?),
            device: DeviceId::from_uuid(id(16)?),
            generation: u32::from_be_bytes(generation),
            is_behind: *rest.0 != 0,
        })
    });
    planned.collect()
}

/// Writes that an order is accepted, and what is answered once it is written.
pub(in crate::commands) async fn insert(
    tx: &mut Tx,
    order: OrderId,
    planned: &[Planned],
    (claim, answer): (Option<&Claim>, &str),
) -> Result<(), DbError> {
    let now = millis(tx.now());
    let place = claim.map(|claim| claim.place().columns());
    sql("INSERT INTO preparations \
         (order_id, planned, principal, route, key, answer, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)")
    .bind(order.as_uuid())
    .bind(pack(planned))
    .bind(place.map(|place| place.0))
    .bind(place.map(|place| place.1))
    .bind(place.map(|place| place.2))
    .bind(place.map(|_| answer))
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How far an order is.
#[derive(Debug)]
pub(in crate::commands) struct Standing {
    /// So many of its commands are written.
    pub(in crate::commands) written: usize,
    /// Why the others are to end at once.
    pub(in crate::commands) ended_by: Option<String>,
}

/// How far an order is, if it is not wholly written.
pub(in crate::commands) async fn standing(
    tx: &mut Tx,
    order: OrderId,
) -> Result<Option<Standing>, DbError> {
    let row = sql("SELECT ended_by, (SELECT COUNT(*) FROM commands c \
         WHERE c.order_id = p.order_id) FROM preparations p WHERE p.order_id = $1")
    .bind(order.as_uuid())
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let written = usize::try_from(row.try_get::<i64>(1)?);
    let written = written.map_err(|_| DbError::Unreadable("number of commands"))?;
    Ok(Some(Standing { written, ended_by: row.try_get(0)? }))
}

/// Whether an order is not wholly written.
pub(in crate::commands) async fn is_being_written(
    conn: &mut Conn,
    order: OrderId,
) -> Result<bool, DbError> {
    let row = sql("SELECT 1 FROM preparations WHERE order_id = $1");
    Ok(row.bind(order.as_uuid()).fetch_optional(conn).await?.is_some())
}

/// Has what is not written yet of orders that destroy end where it is.
pub(in crate::commands) async fn withdraw_destructive(
    tx: &mut Tx,
    why: &str,
) -> Result<(), DbError> {
    let mut update = sql("UPDATE preparations SET ended_by = ");
    update
        .push_bind(why)
        .push(" WHERE ended_by IS NULL AND order_id IN (SELECT id FROM orders WHERE verb IN ");
    update.push_list(super::standing::destructive());
    update.push(")");
    update.execute(tx.conn()).await?;
    Ok(())
}

/// The orders that are not wholly written, oldest first.
pub(in crate::commands) async fn all(conn: &mut Conn) -> Result<Vec<OrderId>, DbError> {
    let rows = sql("SELECT order_id FROM preparations ORDER BY order_id").fetch_all(conn).await?;
    rows.iter().map(|row| Ok(OrderId::from_uuid(row.try_get(0)?))).collect()
}

/// An order that is not wholly written, with all of its list.
pub(in crate::commands) async fn load(
    conn: &mut Conn,
    order: OrderId,
) -> Result<Option<(Order, Vec<Planned>)>, DbError> {
    let planned = planned(conn, order).await?;
    let Some(planned) = planned else { return Ok(None) };
    let order = orders::of_preparation(conn, order).await?;
    Ok(order.map(|order| (order, planned)))
}

/// The list of an order that is not wholly written.
pub(in crate::commands) async fn planned(
    conn: &mut Conn,
    order: OrderId,
) -> Result<Option<Vec<Planned>>, DbError> {
    let row = sql("SELECT planned FROM preparations WHERE order_id = $1")
        .bind(order.as_uuid())
        .fetch_optional(conn)
        .await?;
    row.map(|row| unpack(row.try_get(0)?)).transpose()
}

/// Has what is not written of an order end at once. Whether there is any.
pub(in crate::commands) async fn withdraw(
    tx: &mut Tx,
    order: OrderId,
    why: &str,
) -> Result<bool, DbError> {
    let rows =
        sql("UPDATE preparations SET ended_by = $1 WHERE order_id = $2 AND ended_by IS NULL")
            .bind(why)
            .bind(order.as_uuid())
            .execute(tx.conn())
            .await?;
    Ok(rows > 0)
}

/// Writes commands that ended before they had a number.
pub(in crate::commands) async fn insert_ended(
    tx: &mut Tx,
    order: &Order,
    ended: &[(Fresh, CommandState, String)],
) -> Result<(), DbError> {
    let rows: Vec<_> = ended.iter().map(|(fresh, ..)| (order, fresh)).collect();
    orders::insert_waiting(tx, &rows, CommandState::AwaitingApproval).await?;
    for (fresh, state, why) in ended {
        super::end(tx, fresh.id, *state, why).await?;
        let kind = match state {
            CommandState::Expired => Kind::CommandExpired,
            CommandState::AwaitingApproval
            | CommandState::AwaitingWave
            | CommandState::Queued
            | CommandState::Sent
            | CommandState::Acked
            | CommandState::Running
            | CommandState::Succeeded
            | CommandState::Failed
            | CommandState::Refused
            | CommandState::Cancelled
            | CommandState::InDoubt => Kind::CommandCancelled,
        };
        let payload = json!({ "order_id": order.id, "device_id": fresh.device, "why": why });
        tx.append(kind, fresh.id, payload);
    }
    Ok(())
}

/// Everything is written: from now on the request has its answer.
pub(in crate::commands) async fn finish(tx: &mut Tx, order: OrderId) -> Result<(), DbError> {
    sql("UPDATE idempotency SET status = 201, \
         body = (SELECT answer FROM preparations WHERE order_id = $1) \
         WHERE (principal, route, key) IN \
         (SELECT principal, route, key FROM preparations WHERE order_id = $2)")
    .bind(order.as_uuid())
    .bind(order.as_uuid())
    .execute(tx.conn())
    .await?;
    sql("DELETE FROM preparations WHERE order_id = $1")
        .bind(order.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}
