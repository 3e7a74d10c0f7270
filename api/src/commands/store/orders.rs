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

use crate::audit::{Actor, Kind};
use crate::auth::Reach;
use crate::commands::plan::Plan;
use crate::commands::queue::{Fresh, Signed};
use crate::commands::wire::{ApprovalView, CommandSummary, FirstWave, OrderView};
use crate::db::{CHUNK, Conn, DbError, Sql, Tx, json, millis, sql, timestamp};
use crate::time::Time;
use crate::vault::{ENVELOPE, SCRIPT};

/// The first redelivery comes this long after queueing.
pub(in crate::commands) const FIRST_REDELIVERY: Duration = Duration::from_secs(2);

/// What commands are counted as that an order will have and that are not written yet.
const PREPARING: &str = "preparing";

const ORDER: &str = "SELECT o.id, o.operator, o.manifest, o.reason, o.created_at, o.script, \
     o.accept_cloned FROM orders o WHERE o.id = ";

/// An order's row.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: OrderId,
    pub(crate) operator: PersonName,
    pub(crate) manifest: Manifest,
    pub(crate) reason: Option<String>,
    pub(crate) script: Option<String>,
    /// It is for its devices even where two machines hold the identity of one.
    pub(crate) accept_cloned: bool,
    pub(crate) created_at: Timestamp,
}

fn encode<T: Serialize>(value: &T) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|_| DbError::Unreadable("manifest"))
}

impl Order {
    /// The order that a plan becomes, now.
    pub(in crate::commands) fn new(plan: &Plan, operator: &PersonName, now: Timestamp) -> Self {
        Self {
            id: plan.manifest().order_id,
            operator: operator.clone(),
            manifest: plan.manifest().clone(),
            reason: plan.reason().map(str::to_owned),
            script: plan.script().map(str::to_owned),
            accept_cloned: plan.accept_cloned(),
            created_at: now,
        }
    }
}

/// Writes orders.
pub(in crate::commands) async fn insert(tx: &mut Tx, orders: &[&Order]) -> Result<(), DbError> {
    for chunk in orders.chunks(tx.conn().rows_at_once(orders.len(), 10)) {
        let manifests = chunk.iter().map(|order| encode(&order.manifest));
        let manifests = manifests.collect::<Result<Vec<_>, _>>()?;
        let mut scripts = Vec::with_capacity(chunk.len());
        for order in chunk {
            scripts.push(tx.seal(&SCRIPT, &order.id.as_uuid(), order.script.as_deref()).await?);
        }
        let mut insert = sql("INSERT INTO orders \
             (id, operator, verb, manifest, reason, device_count, created_at, expires_at, script, \
             accept_cloned) ");
        let rows = chunk.iter().zip(manifests).zip(scripts);
        insert.push_rows(rows, |row, ((order, manifest), script)| {
            row.push_bind(order.id.as_uuid())
                .push_bind(order.operator.as_str())
                .push_bind(order.manifest.action.verb().as_str())
                .push_bind(manifest)
                .push_bind(&order.reason)
                .push_bind(order.manifest.device_count)
                .push_bind(millis(order.created_at))
                .push_bind(millis(order.manifest.expires_at))
                .push_bind(script)
                .push_bind(u8::from(order.accept_cloned));
        });
        insert.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Writes commands that wait: for approvals, or for the first wave.
pub(in crate::commands) async fn insert_waiting(
    tx: &mut Tx,
    waiting: &[(&Order, &Fresh)],
    state: CommandState,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    for chunk in waiting.chunks(CHUNK) {
        let proofs = chunk.iter().map(|(_, fresh)| encode(&fresh.proof));
        let proofs = proofs.collect::<Result<Vec<_>, _>>()?;
        let mut insert =
            sql("INSERT INTO commands (id, order_id, device_id, generation, verb, lane, \
             approvals_needed, proof, state, created_at, expires_at) ");
        insert.push_rows(chunk.iter().zip(proofs), |row, ((order, fresh), proof)| {
            let verb = order.manifest.action.verb();
            row.push_bind(fresh.id.as_uuid())
                .push_bind(order.id.as_uuid())
                .push_bind(fresh.device.as_uuid())
                .push_bind(fresh.generation)
                .push_bind(verb.as_str())
                .push_bind(order.manifest.action.lane().as_str())
                .push_bind(fresh.approvals_needed)
                .push_bind(proof)
                .push_bind(state.as_str())
                .push_bind(now)
                .push_bind(millis(order.manifest.expires_at));
        });
        insert.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Writes commands that need no approval, already numbered and signed.
pub(in crate::commands) async fn insert_queued(
    tx: &mut Tx,
    signed: &[(&Order, &Signed)],
) -> Result<(), DbError> {
    let now = millis(tx.now());
    let redeliver_at = millis(tx.now().plus(FIRST_REDELIVERY));
    for chunk in signed.chunks(tx.conn().rows_at_once(signed.len(), 14)) {
        let mut envelopes = Vec::with_capacity(chunk.len());
        for (order, signed) in chunk {
            envelopes.push(envelope(tx, order, signed).await?);
        }
        let mut insert =
            sql("INSERT INTO commands (id, order_id, device_id, generation, verb, lane, \
             approvals_needed, proof, state, seq, envelope, envelope_sha256, created_at, \
             expires_at, queued_at, redeliver_at) ");
        insert.push_rows(chunk.iter().zip(envelopes), |row, ((order, signed), envelope)| {
            let verb = order.manifest.action.verb();
            row.push_bind(signed.fresh.id.as_uuid())
                .push_bind(order.id.as_uuid())
                .push_bind(signed.fresh.device.as_uuid())
                .push_bind(signed.fresh.generation)
                .push_bind(verb.as_str())
                .push_bind(order.manifest.action.lane().as_str())
                .push("0, ''")
                .push_bind(CommandState::Queued.as_str())
                .push_bind(i64::try_from(signed.seq).unwrap_or(i64::MAX))
                .push_bind(envelope)
                .push_bind(&signed.sha256)
                .push_bind(now)
                .push_bind(millis(order.manifest.expires_at))
                .push_bind(now)
                .push_bind(redeliver_at);
        });
        insert.execute(tx.conn()).await?;
    }
    Ok(())
}

/// An envelope as it is stored: sealed where it carries a script.
async fn envelope(tx: &mut Tx, order: &Order, signed: &Signed) -> Result<String, DbError> {
    let jws = signed.frame.jws.as_str();
    if order.script.is_none() {
        return Ok(jws.to_owned());
    }
    let sealer = tx.sealer().await?;
    Ok(sealer.seal(&ENVELOPE, &signed.fresh.id.as_uuid(), jws.as_bytes())?)
}

/// The events of an order: that it was given, what waits, and what is on its way.
pub(in crate::commands) fn append(
    tx: &mut Tx,
    actor: &Actor,
    order: &Order,
    (waiting, behind, signed): (&[Fresh], &[Fresh], &[Signed]),
) {
    let payload = json!({ "manifest": order.manifest, "reason": order.reason });
    tx.append_by(actor.clone(), Kind::OrderCreated, order.id, payload);
    append_loud(tx, actor, order);
    append_piece(tx, actor, order, (waiting, behind, signed));
}

/// The events of some commands of an order: what waits, and what is on its way.
pub(in crate::commands) fn append_piece(
    tx: &mut Tx,
    actor: &Actor,
    order: &Order,
    (waiting, behind, signed): (&[Fresh], &[Fresh], &[Signed]),
) {
    for fresh in waiting {
        let payload = json!({
            "order_id": order.id,
            "device_id": fresh.device,
            "approvals_needed": fresh.approvals_needed,
        });
        tx.append_by(actor.clone(), Kind::CommandAwaitsApproval, fresh.id, payload);
    }
    for fresh in behind {
        let payload = json!({ "order_id": order.id, "device_id": fresh.device });
        tx.append_by(actor.clone(), Kind::CommandAwaitsWave, fresh.id, payload);
    }
    append_queued(tx, actor, order, signed);
}

/// What nobody should have to look for.
fn append_loud(tx: &mut Tx, actor: &Actor, order: &Order) {
    let (kind, until) = match &order.manifest.action {
        Action::Freeze(freeze) => (Kind::FreezeOrdered, Some(Time(freeze.until))),
        Action::Thaw(_) => (Kind::ThawOrdered, None),
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
        | Action::RotateCredentials(_)
        | Action::CryptoLock(_)
        | Action::Refresh(_)
        | Action::Cancel(_) => return,
    };
    let payload = json!({
        "until": until,
        "devices": order.manifest.device_count,
        "reason": order.reason,
    });
    tracing::warn!(order.id = %order.id, kind = kind.as_str(), "freeze changes");
    tx.append_by(actor.clone(), kind, order.id, payload);
}

fn append_queued(tx: &mut Tx, actor: &Actor, order: &Order, signed: &[Signed]) {
    for signed in signed {
        let payload = json!({
            "order_id": order.id,
            "device_id": signed.fresh.device,
            "seq": signed.seq,
            "envelope_sha256": signed.sha256,
        });
        tx.append_by(actor.clone(), Kind::CommandQueued, signed.fresh.id, payload);
    }
}

/// The commands of an order that wait, for whatever.
pub(in crate::commands) async fn waiting(
    tx: &mut Tx,
    order: OrderId,
) -> Result<Vec<Fresh>, DbError> {
    fresh(tx, order, "state IN ('awaiting_approval', 'awaiting_wave')").await
}

/// The commands of an order that wait for its first wave.
pub(in crate::commands) async fn behind(
    tx: &mut Tx,
    order: OrderId,
) -> Result<Vec<Fresh>, DbError> {
    fresh(tx, order, "state = 'awaiting_wave'").await
}

async fn fresh(tx: &mut Tx, order: OrderId, which: &'static str) -> Result<Vec<Fresh>, DbError> {
    let mut select =
        sql("SELECT id, device_id, generation, approvals_needed, proof FROM commands WHERE ");
    select.push(which).push(" AND order_id = ").push_bind(order.as_uuid());
    select.push(" ORDER BY id");
    let rows = select.fetch_all(tx.conn()).await?;
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
    for chunk in signed.chunks(CHUNK) {
        let mut envelopes = Vec::with_capacity(chunk.len());
        for signed in chunk {
            envelopes.push(envelope(tx, order, signed).await?);
        }
        let mut update = sql("WITH news (id, seq, envelope, envelope_sha256) AS (");
        update.push_rows(chunk.iter().zip(envelopes), |row, (signed, envelope)| {
            row.push_bind(signed.fresh.id.as_uuid())
                .push_bind(i64::try_from(signed.seq).unwrap_or(i64::MAX))
                .push_bind(envelope)
                .push_bind(&signed.sha256);
        });
        update.push(
            ") UPDATE commands SET state = 'queued', seq = news.seq, envelope = news.envelope, \
             envelope_sha256 = news.envelope_sha256, queued_at = ",
        );
        update.push_bind(millis(now)).push(", redeliver_at = ");
        update.push_bind(millis(now.plus(FIRST_REDELIVERY)));
        update.push(
            " FROM news WHERE commands.id = news.id \
             AND commands.state IN ('awaiting_approval', 'awaiting_wave')",
        );
        update.execute(tx.conn()).await?;
    }
    let actor = tx.actor().clone();
    append_queued(tx, &actor, order, signed);
    Ok(())
}

/// An order, if at least one of its devices is within reach.
pub(crate) async fn find_order(
    conn: &mut Conn,
    reach: &Reach,
    id: OrderId,
) -> Result<Option<Order>, DbError> {
    let mut select = sql(ORDER);
    select.push_bind(id.as_uuid());
    select.push(" AND EXISTS (SELECT 1 FROM commands c WHERE c.order_id = o.id");
    reach.filter(&mut select, "c.device_id");
    select.push(")");
    fetch(conn, select, id).await
}

/// An order that is not wholly written, and may have no command yet.
pub(super) async fn of_preparation(conn: &mut Conn, id: OrderId) -> Result<Option<Order>, DbError> {
    let mut select = sql(ORDER);
    select.push_bind(id.as_uuid());
    fetch(conn, select, id).await
}

async fn fetch(conn: &mut Conn, select: Sql, id: OrderId) -> Result<Option<Order>, DbError> {
    let row = select.fetch_optional(&mut *conn).await?;
    let Some(row) = row else { return Ok(None) };
    let operator: String = row.try_get(1)?;
    Ok(Some(Order {
        id: OrderId::from_uuid(row.try_get(0)?),
        operator: operator.parse().map_err(|_| DbError::Unreadable("operator"))?,
        manifest: json(row.try_get(2)?, "manifest")?,
        reason: row.try_get(3)?,
        created_at: timestamp(row.try_get(4)?),
        accept_cloned: row.number::<u8>(6)? > 0,
        script: conn.unseal_text(&SCRIPT, &id.as_uuid(), row.try_get(5)?).await?,
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

impl OrderView {
    /// An order that was given just now, with its commands.
    pub(in crate::commands) fn of_new(
        order: &Order,
        commands: &[CommandSummary],
        approvals_needed: u8,
        first_wave: Option<u32>,
    ) -> Self {
        let mut counts: BTreeMap<CommandState, u32> = BTreeMap::new();
        for command in commands {
            *counts.entry(command.state).or_default() += 1;
        }
        let states = counts.into_iter().map(|(state, count)| (state.as_str().to_owned(), count));
        Self {
            id: order.id,
            operator: order.operator.clone(),
            action: order.manifest.action.clone(),
            reason: order.reason.clone(),
            created_at: order.created_at.into(),
            expires_at: order.manifest.expires_at.into(),
            device_count: order.manifest.device_count,
            simulated: order.manifest.simulated,
            approvals_needed,
            approvals: Vec::new(),
            first_wave: first_wave.map(FirstWave::new),
            states: states.collect(),
        }
    }
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
    let written: u32 = states.values().sum();
    if written < order.manifest.device_count {
        states.insert(PREPARING.to_owned(), order.manifest.device_count - written);
    }
    Ok(OrderView {
        id: order.id,
        operator: order.operator.clone(),
        action: order.manifest.action.clone(),
        reason: order.reason.clone(),
        created_at: order.created_at.into(),
        expires_at: order.manifest.expires_at.into(),
        device_count: order.manifest.device_count,
        simulated: order.manifest.simulated,
        approvals_needed,
        approvals: approvals(conn, order.id).await?,
        first_wave: super::waves::find(conn, order.id).await?,
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
