//! Commands in the store: reading them, and moving them on.

use std::time::Duration;

use protocol::action::Verb;
use protocol::grade::Known;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::limits;
use protocol::proof::{self, Proof};
use protocol::receipt::{Evidence, Outcome};
use protocol::state::{CommandState, Lane, VerbClass};
use protocol::time::Timestamp;

use super::list::CommandQuery;
use super::wire::CommandView;
use crate::auth::Reach;
use crate::db::{Conn, DbError, Row, Sql, Tx, json, millis, sql, timestamp};
use crate::http::Page;
use crate::time::Time;

pub(super) mod delivery;
pub(super) mod lanes;
pub(super) mod orders;

/// After its validity and this, a command without a receipt is called overdue.
const OVERDUE_AFTER: Duration = Duration::from_secs(15 * 60);
/// A device that was not heard of for this long is silent: longer than the longest interval of
/// its check-ins, and than we take to write down that it was here.
const SILENT_AFTER: Duration = Duration::from_secs(30 * 60);

const VIEW: &str = "SELECT c.id, c.order_id, c.device_id, d.name, c.generation, c.verb, c.lane, \
     c.seq, c.state, c.ended_by, c.approvals_needed, c.sends, c.stage, c.created_at, \
     c.expires_at, c.queued_at, c.sent_at, c.acked_at, c.running_at, c.finished_at, c.outcome, \
     c.receipt, c.stage_proof, d.last_seen_at FROM commands c JOIN devices d ON d.id = c.device_id WHERE 1 = 1";

fn view(row: &Row, now: Timestamp) -> Result<CommandView, DbError> {
    let time = |index: usize| -> Result<Option<Time>, DbError> {
        Ok(row.try_get::<Option<i64>>(index)?.map(|at| Time(timestamp(at))))
    };
    let state = state(row.try_get(8)?)?;
    let expires_at = timestamp(row.try_get(14)?);
    let is_out = matches!(state, CommandState::Acked | CommandState::Running);
    let outcome: Option<&str> = row.try_get(20)?;
    let verb: &str = row.try_get(5)?;
    let verb: Verb = verb.parse().map_err(|_| DbError::Unreadable("verb"))?;
    let outcome: Option<Outcome> = outcome.map(|text| json(text, "outcome")).transpose()?;
    let proof = row.try_get::<Option<String>>(22)?.map(CompactJws::from_text);
    let proved = proof.as_ref().and_then(proved_by);
    let heard_at = [time(17)?, time(18)?, time(23)?].into_iter().flatten().map(|at| at.0).max();
    let known = Known {
        class: verb.class(),
        state,
        outcome: outcome.as_ref(),
        proved: proved.as_ref(),
        is_silent: heard_at.is_some_and(|at| at.plus(SILENT_AFTER) < now),
    };
    Ok(CommandView {
        grade: known.grade(),
        id: CommandId::from_uuid(row.try_get(0)?),
        order_id: OrderId::from_uuid(row.try_get(1)?),
        device_id: DeviceId::from_uuid(row.try_get(2)?),
        device_name: row.try_get(3)?,
        generation: row.number(4)?,
        verb,
        lane: lane(row.try_get(6)?)?,
        seq: row.try_get::<Option<i64>>(7)?.and_then(|seq| u64::try_from(seq).ok()),
        state,
        ended_by: row.try_get(9)?,
        approvals_needed: row.number(10)?,
        sends: row.number(11)?,
        overdue: is_out && expires_at.plus(OVERDUE_AFTER) < now,
        stage: row.try_get(12)?,
        created_at: timestamp(row.try_get(13)?).into(),
        expires_at: expires_at.into(),
        queued_at: time(15)?,
        sent_at: time(16)?,
        acked_at: time(17)?,
        running_at: time(18)?,
        finished_at: time(19)?,
        outcome,
        receipt: row.try_get::<Option<String>>(21)?.map(CompactJws::from_text),
        proof,
    })
}

/// What a proof says. It was verified before it was kept.
fn proved_by(proof: &CompactJws) -> Option<Evidence> {
    let parsed = jws::parse(proof, proof::TYP, limits::RECEIPT_BYTES).ok()?;
    parsed.claims::<Proof>().ok().map(|proof| proof.evidence)
}

fn state(text: &str) -> Result<CommandState, DbError> {
    CommandState::from_name(text).ok_or(DbError::Unreadable("command state"))
}

fn lane(text: &str) -> Result<Lane, DbError> {
    Lane::from_name(text).ok_or(DbError::Unreadable("lane"))
}

/// One command, if its device is within reach.
pub(super) async fn find(
    conn: &mut Conn,
    reach: &Reach,
    id: CommandId,
    now: Timestamp,
) -> Result<Option<CommandView>, DbError> {
    let mut select = sql(VIEW);
    select.push(" AND c.id = ").push_bind(id.as_uuid());
    reach.filter(&mut select, "c.device_id");
    select.fetch_optional(conn).await?.map(|row| view(&row, now)).transpose()
}

/// What the device of a plan signed, and which device.
pub(super) async fn signed_plan(
    conn: &mut Conn,
    id: CommandId,
) -> Result<Option<(DeviceId, Outcome)>, DbError> {
    let row =
        sql("SELECT device_id, outcome FROM commands WHERE verb = $1 AND state = $2 AND id = $3")
            .bind(Verb::Plan.as_str())
            .bind(CommandState::Succeeded.as_str())
            .bind(id.as_uuid())
            .fetch_optional(conn)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let outcome: Option<&str> = row.try_get(1)?;
    let Some(outcome) = outcome else { return Ok(None) };
    Ok(Some((DeviceId::from_uuid(row.try_get(0)?), json(outcome, "outcome")?)))
}

/// A page of commands whose devices are within reach.
pub(super) async fn list(
    conn: &mut Conn,
    reach: &Reach,
    page: &Page<CommandId>,
    query: &CommandQuery,
    now: Timestamp,
) -> Result<Vec<CommandView>, DbError> {
    let mut select = sql(VIEW);
    if let Some(after) = page.after {
        select.push(" AND c.id > ").push_bind(after.as_uuid());
    }
    if let Some(state) = query.state {
        select.push(" AND c.state = ").push_bind(state.as_str());
    }
    if let Some(device) = query.device {
        select.push(" AND c.device_id = ").push_bind(device.as_uuid());
    }
    if let Some(order) = query.order {
        select.push(" AND c.order_id = ").push_bind(order.as_uuid());
    }
    if let Some(verb) = query.verb {
        select.push(" AND c.verb = ").push_bind(verb.as_str());
    }
    reach.filter(&mut select, "c.device_id");
    select.push(" ORDER BY c.id LIMIT ").push_bind(page.rows());
    let rows = select.fetch_all(conn).await?;
    rows.iter().map(|row| view(row, now)).collect()
}

/// What a transition needs to know of a command.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) id: CommandId,
    pub(super) order: OrderId,
    pub(super) device: DeviceId,
    pub(super) generation: u32,
    pub(super) state: CommandState,
    pub(super) receipt: Option<String>,
    pub(super) stage: Option<String>,
    /// Names the envelope that left; a receipt answers exactly that or nothing.
    pub(super) envelope_sha256: Option<String>,
    /// Whether the enrollment that it was made for has ended.
    pub(super) is_enrollment_over: bool,
}

const STANDING: &str = "SELECT c.id, c.order_id, c.device_id, c.generation, c.state, c.receipt, \
     c.envelope_sha256, c.stage, d.generation, d.revoked_through \
     FROM commands c JOIN devices d ON d.id = c.device_id WHERE ";

fn standing(row: &Row) -> Result<Standing, DbError> {
    let generation: u32 = row.number(3)?;
    let (present, revoked_through): (u32, u32) = (row.number(8)?, row.number(9)?);
    Ok(Standing {
        id: CommandId::from_uuid(row.try_get(0)?),
        order: OrderId::from_uuid(row.try_get(1)?),
        device: DeviceId::from_uuid(row.try_get(2)?),
        generation,
        state: state(row.try_get(4)?)?,
        receipt: row.try_get(5)?,
        envelope_sha256: row.try_get(6)?,
        stage: row.try_get(7)?,
        is_enrollment_over: generation < present || generation <= revoked_through,
    })
}

async fn fetch(select: Sql, conn: &mut Conn) -> Result<Vec<Standing>, DbError> {
    select.fetch_all(conn).await?.iter().map(standing).collect()
}

/// Those of the commands that exist.
pub(super) async fn standings(
    conn: &mut Conn,
    ids: &[CommandId],
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.id IN ");
    select.push_list(ids.iter().map(|id| id.as_uuid()));
    fetch(select, conn).await
}

/// The commands of an order.
pub(super) async fn of_order(conn: &mut Conn, order: OrderId) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.order_id = ").push_bind(order.as_uuid()).push(" ORDER BY c.id");
    fetch(select, conn).await
}

/// The commands that destroy and that no device is known to have.
pub(super) async fn undelivered_destructive(conn: &mut Conn) -> Result<Vec<Standing>, DbError> {
    let destroys = |verb: &Verb| verb.class() == VerbClass::Destructive;
    let verbs = Verb::ALL.into_iter().filter(destroys).map(|verb| verb.as_str().to_owned());
    let mut select = sql(STANDING);
    select.push("c.state IN ('awaiting_approval', 'queued', 'sent') AND c.verb IN ");
    select.push_list(verbs);
    select.push(" ORDER BY c.id");
    fetch(select, conn).await
}

/// The commands of a device that have not ended.
pub(super) async fn open_of_device(
    conn: &mut Conn,
    device: DeviceId,
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("c.device_id = ").push_bind(device.as_uuid());
    select.push(" AND c.state IN ('awaiting_approval', 'queued', 'sent', 'acked', 'running')");
    fetch(select, conn).await
}

/// Commands that no device took, whose validity ended before those times.
pub(super) async fn past_their_end(
    conn: &mut Conn,
    now: Timestamp,
    grace: Duration,
    limit: i64,
) -> Result<Vec<Standing>, DbError> {
    let mut select = sql(STANDING);
    select.push("((c.state = 'awaiting_approval' AND c.expires_at <= ").push_bind(millis(now));
    select.push(") OR (c.state IN ('queued', 'sent') AND c.expires_at <= ");
    select.push_bind(millis(now.minus(grace))).push(")) LIMIT ").push_bind(limit);
    fetch(select, conn).await
}

/// Moves a command to a state that no receipt brings.
pub(super) async fn end(
    tx: &mut Tx,
    id: CommandId,
    state: CommandState,
    why: &str,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE commands SET state = $1, finished_at = $2, ended_by = $3 WHERE id = $4")
        .bind(state.as_str())
        .bind(now)
        .bind(why)
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Moves a command on because its device has it on disk.
pub(super) async fn ack(tx: &mut Tx, id: CommandId) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE commands SET state = 'acked', acked_at = $1, finished_at = NULL, ended_by = NULL \
         WHERE id = $2")
    .bind(now)
    .bind(id.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes the stage of a running command.
pub(super) async fn progress(tx: &mut Tx, id: CommandId, stage: &str) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE commands SET state = 'running', stage = $1, \
         running_at = COALESCE(running_at, $2), acked_at = COALESCE(acked_at, $3), \
         finished_at = NULL, ended_by = NULL WHERE id = $4")
    .bind(stage)
    .bind(now)
    .bind(now)
    .bind(id.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Keeps a proof of a stage, unless there is one. Whether there was none.
pub(super) async fn keep_proof(
    tx: &mut Tx,
    id: CommandId,
    proof: &CompactJws,
) -> Result<bool, DbError> {
    let rows = sql("UPDATE commands SET stage_proof = $1 WHERE id = $2 AND stage_proof IS NULL")
        .bind(proof.as_str())
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(rows == 1)
}

/// Ends a command by its receipt.
pub(super) async fn finish(
    tx: &mut Tx,
    id: CommandId,
    state: CommandState,
    receipt: &CompactJws,
    outcome: &str,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE commands SET state = $1, finished_at = $2, acked_at = COALESCE(acked_at, $3), \
         receipt = $4, outcome = $5, ended_by = NULL WHERE id = $6")
    .bind(state.as_str())
    .bind(now)
    .bind(now)
    .bind(receipt.as_str())
    .bind(outcome)
    .bind(id.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Keeps a receipt that came after the end as what the device says; the state stays.
pub(super) async fn keep_late_receipt(
    tx: &mut Tx,
    id: CommandId,
    receipt: &CompactJws,
    outcome: &str,
) -> Result<(), DbError> {
    sql("UPDATE commands SET receipt = $1, outcome = $2 WHERE id = $3 AND receipt IS NULL")
        .bind(receipt.as_str())
        .bind(outcome)
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}
