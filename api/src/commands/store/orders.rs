//! Orders in the store, and the writing of their commands.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::action::Action;
use protocol::id::{CommandId, DeviceId, OrderId, PersonName};
use protocol::manifest::Manifest;
use protocol::state::CommandState;
use protocol::time::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::audit::Kind;
use crate::auth::Reach;
use crate::commands::plan::Plan;
use crate::commands::queue::{Fresh, Signed};
use crate::commands::wire::{ApprovalView, OrderView};
use crate::db::{CHUNK, Conn, DbError, Tx, json, millis, sql, timestamp};
use crate::time::Time;

/// The first redelivery comes this long after queueing.
pub(in crate::commands) const FIRST_REDELIVERY: Duration = Duration::from_secs(2);

/// An order's row.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: OrderId,
    pub(crate) operator: PersonName,
    pub(crate) manifest: Manifest,
    pub(crate) reason: Option<String>,
    pub(crate) script: Option<String>,
    pub(crate) created_at: Timestamp,
}

fn encode<T: Serialize>(value: &T) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|_| DbError::Unreadable("manifest"))
}

pub(in crate::commands) async fn insert(
    tx: &mut Tx,
    operator: &PersonName,
    plan: &Plan,
) -> Result<Order, DbError> {
    let order = Order {
        id: plan.manifest().order_id,
        operator: operator.clone(),
        manifest: plan.manifest().clone(),
        reason: plan.reason().map(str::to_owned),
        script: plan.script().map(str::to_owned),
        created_at: tx.now(),
    };
    let now = millis(tx.now());
    sql("INSERT INTO orders \
         (id, operator, verb, manifest, reason, device_count, created_at, expires_at, script) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
    .bind(order.id.as_uuid())
    .bind(operator.as_str())
    .bind(order.manifest.action.verb().as_str())
    .bind(encode(&order.manifest)?)
    .bind(&order.reason)
    .bind(order.manifest.device_count)
    .bind(now)
    .bind(millis(order.manifest.expires_at))
    .bind(&order.script)
    .execute(tx.conn())
    .await?;
    let payload = json!({ "manifest": order.manifest, "reason": order.reason });
    tx.append(Kind::OrderCreated, order.id, payload);
    let loud = match &order.manifest.action {
        Action::Freeze(freeze) => Some((Kind::FreezeOrdered, Some(Time(freeze.until)))),
        Action::Thaw(_) => Some((Kind::ThawOrdered, None)),
        Action::Lock(_)
        | Action::Unlock(_)
        | Action::Quarantine(_)
        | Action::Release(_)
        | Action::Wipe(_)
        | Action::SelectiveWipe(_)
        | Action::Plan(_)
        | Action::Reboot(_)
        | Action::RunScript(_)
        | Action::CollectEvidence(_)
        | Action::Refresh(_)
        | Action::Cancel(_) => None,
    };
    if let Some((kind, until)) = loud {
        let payload = json!({
            "until": until,
            "devices": order.manifest.device_count,
            "reason": order.reason,
        });
        tracing::warn!(order.id = %order.id, kind = kind.as_str(), "freeze changes");
        tx.append(kind, order.id, payload);
    }
    Ok(order)
}

/// Writes commands that wait for approvals.
pub(in crate::commands) async fn insert_waiting(
    tx: &mut Tx,
    order: &Order,
    waiting: &[Fresh],
) -> Result<(), DbError> {
    let now = millis(tx.now());
    for chunk in waiting.chunks(CHUNK) {
        let proofs = chunk.iter().map(|f| encode(&f.proof)).collect::<Result<Vec<_>, _>>()?;
        let mut insert =
            sql("INSERT INTO commands (id, order_id, device_id, generation, verb, lane, \
             approvals_needed, proof, state, created_at, expires_at) ");
        let verb = order.manifest.action.verb();
        insert.push_rows(chunk.iter().zip(proofs), |row, (fresh, proof)| {
            row.push_bind(fresh.id.as_uuid())
                .push_bind(order.id.as_uuid())
                .push_bind(fresh.device.as_uuid())
                .push_bind(fresh.generation)
                .push_bind(verb.as_str())
                .push_bind(verb.lane().as_str())
                .push_bind(fresh.approvals_needed)
                .push_bind(proof)
                .push_bind(CommandState::AwaitingApproval.as_str())
                .push_bind(now)
                .push_bind(millis(order.manifest.expires_at));
        });
        insert.execute(tx.conn()).await?;
    }
    for fresh in waiting {
        let payload = json!({
            "order_id": order.id,
            "device_id": fresh.device,
            "approvals_needed": fresh.approvals_needed,
        });
        tx.append(Kind::CommandAwaitsApproval, fresh.id, payload);
    }
    Ok(())
}

/// Writes commands that need no approval, already numbered and signed.
pub(in crate::commands) async fn insert_queued(
    tx: &mut Tx,
    order: &Order,
    signed: &[Signed],
) -> Result<(), DbError> {
    let now = millis(tx.now());
    let redeliver_at = millis(tx.now().plus(FIRST_REDELIVERY));
    let verb = order.manifest.action.verb();
    for chunk in signed.chunks(CHUNK) {
        let mut insert =
            sql("INSERT INTO commands (id, order_id, device_id, generation, verb, lane, \
             approvals_needed, proof, state, seq, envelope, envelope_sha256, created_at, \
             expires_at, queued_at, redeliver_at) ");
        insert.push_rows(chunk, |row, signed| {
            row.push_bind(signed.fresh.id.as_uuid())
                .push_bind(order.id.as_uuid())
                .push_bind(signed.fresh.device.as_uuid())
                .push_bind(signed.fresh.generation)
                .push_bind(verb.as_str())
                .push_bind(verb.lane().as_str())
                .push("0, ''")
                .push_bind(CommandState::Queued.as_str())
                .push_bind(i64::try_from(signed.seq).unwrap_or(i64::MAX))
                .push_bind(signed.frame.jws.as_str())
                .push_bind(signed.frame.jws.sha256())
                .push_bind(now)
                .push_bind(millis(order.manifest.expires_at))
                .push_bind(now)
                .push_bind(redeliver_at);
        });
        insert.execute(tx.conn()).await?;
    }
    append_queued(tx, order, signed);
    Ok(())
}

fn append_queued(tx: &mut Tx, order: &Order, signed: &[Signed]) {
    for signed in signed {
        let payload = json!({
            "order_id": order.id,
            "device_id": signed.fresh.device,
            "seq": signed.seq,
            "envelope_sha256": signed.frame.jws.sha256(),
        });
        tx.append(Kind::CommandQueued, signed.fresh.id, payload);
    }
}

/// The commands of an order that wait for approvals.
pub(in crate::commands) async fn waiting(
    tx: &mut Tx,
    order: OrderId,
) -> Result<Vec<Fresh>, DbError> {
    let rows = sql("SELECT id, device_id, generation, approvals_needed, proof FROM commands \
         WHERE order_id = $1 AND state = 'awaiting_approval' ORDER BY id")
    .bind(order.as_uuid())
    .fetch_all(tx.conn())
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Fresh {
                id: CommandId::from_uuid(row.try_get(0)?),
                device: DeviceId::from_uuid(row.try_get(1)?),
                generation: row.number(2)?,
                approvals_needed: row.number(3)?,
                proof: json(row.try_get(4)?, "inclusion proof")?,
            })
        })
        .collect()
}

/// Writes that waiting commands are numbered and signed now.
pub(in crate::commands) async fn queue_waiting(
    tx: &mut Tx,
    order: &Order,
    signed: &[Signed],
) -> Result<(), DbError> {
    let now = tx.now();
    for signed in signed {
        sql(
            "UPDATE commands SET state = 'queued', seq = $1, envelope = $2, envelope_sha256 = $3, \
             queued_at = $4, redeliver_at = $5 WHERE id = $6 AND state = 'awaiting_approval'",
        )
        .bind(i64::try_from(signed.seq).unwrap_or(i64::MAX))
        .bind(signed.frame.jws.as_str())
        .bind(signed.frame.jws.sha256())
        .bind(millis(now))
        .bind(millis(now.plus(FIRST_REDELIVERY)))
        .bind(signed.fresh.id.as_uuid())
        .execute(tx.conn())
        .await?;
    }
    append_queued(tx, order, signed);
    Ok(())
}

/// An order, if at least one of its devices is within reach.
pub(crate) async fn find_order(
    conn: &mut Conn,
    reach: &Reach,
    id: OrderId,
) -> Result<Option<Order>, DbError> {
    let mut select =
        sql("SELECT o.id, o.operator, o.manifest, o.reason, o.created_at, o.script FROM orders o \
         WHERE o.id = ");
    select.push_bind(id.as_uuid());
    select.push(" AND EXISTS (SELECT 1 FROM commands c WHERE c.order_id = o.id");
    reach.filter(&mut select, "c.device_id");
    select.push(")");
    let row = select.fetch_optional(conn).await?;
    let Some(row) = row else { return Ok(None) };
    let operator: String = row.try_get(1)?;
    Ok(Some(Order {
        id: OrderId::from_uuid(row.try_get(0)?),
        operator: operator.parse().map_err(|_| DbError::Unreadable("operator"))?,
        manifest: json(row.try_get(2)?, "manifest")?,
        reason: row.try_get(3)?,
        created_at: timestamp(row.try_get(4)?),
        script: row.try_get(5)?,
    }))
}

/// The devices of an order that are within reach, with their names, sorted by id.
pub(in crate::commands) async fn devices(
    conn: &mut Conn,
    reach: &Reach,
    id: OrderId,
) -> Result<Vec<(DeviceId, String)>, DbError> {
    let mut select =
        sql("SELECT d.id, d.name FROM commands c JOIN devices d ON d.id = c.device_id \
         WHERE c.order_id = ");
    select.push_bind(id.as_uuid());
    reach.filter(&mut select, "d.id");
    select.push(" ORDER BY d.id");
    let rows = select.fetch_all(conn).await?;
    rows.iter().map(|row| Ok((DeviceId::from_uuid(row.try_get(0)?), row.try_get(1)?))).collect()
}

/// An order as it is answered.
pub(crate) async fn order_view(conn: &mut Conn, order: &Order) -> Result<OrderView, DbError> {
    let rows =
        sql("SELECT state, COUNT(*), MAX(approvals_needed) FROM commands WHERE order_id = $1 \
         GROUP BY state")
        .bind(order.id.as_uuid())
        .fetch_all(&mut *conn)
        .await?;
    let mut states = BTreeMap::new();
    let mut approvals_needed = 0;
    for row in rows {
        states.insert(row.try_get(0)?, row.number(1)?);
        approvals_needed = approvals_needed.max(row.number::<u8>(2)?);
    }
    Ok(OrderView {
        id: order.id,
        operator: order.operator.clone(),
        action: order.manifest.action.clone(),
        reason: order.reason.clone(),
        created_at: order.created_at.into(),
        expires_at: order.manifest.expires_at.into(),
        device_count: order.manifest.device_count,
        approvals_needed,
        approvals: approvals(conn, order.id).await?,
        states,
    })
}

async fn approvals(conn: &mut Conn, order: OrderId) -> Result<Vec<ApprovalView>, DbError> {
    let rows = sql(
        "SELECT person, received_at FROM approvals WHERE order_id = $1 ORDER BY received_at, person",
    )
    .bind(order.as_uuid())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let person: String = row.try_get(0)?;
            Ok(ApprovalView {
                person: person.parse().map_err(|_| DbError::Unreadable("person"))?,
                received_at: timestamp(row.try_get(1)?).into(),
            })
        })
        .collect()
}
