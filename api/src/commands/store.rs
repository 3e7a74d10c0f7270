//! Commands in the store: reading them, and moving them on.

use std::time::Duration;

use protocol::action::Verb;
use protocol::advance::Advance;
use protocol::grade::Known;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::jws::{self, CompactJws};
use protocol::limits;
use protocol::proof::{self, Proof};
use protocol::receipt::{Evidence, Outcome};
use protocol::state::{CommandState, Lane};
use protocol::time::Timestamp;
use uuid::Uuid;

use super::list::CommandQuery;
use super::wire::{CommandView, HowFar};
use crate::auth::Reach;
use crate::db::{Conn, DbError, Row, Tx, json, millis, sql, timestamp};
use crate::http::Page;
use crate::time::Time;
use crate::vault::{OUTCOME, OUTPUT, RECEIPT, STAGE_PROOF};

/// That a command left or may leave and has not ended, in the words of the index `commands_out`.
macro_rules! is_out {
    ($of:literal) => {
        concat!(
            "(",
            $of,
            "state = 'queued' OR ",
            $of,
            "state = 'sent' OR ",
            $of,
            "state = 'acked' OR ",
            $of,
            "state = 'running')"
        )
    };
}

/// That no device is known to have a command `c` and it has not ended, in the words of `commands_ending`.
const IS_ENDING: &str = "(c.state = 'awaiting_approval' OR c.state = 'awaiting_wave' \
     OR c.state = 'queued' OR c.state = 'sent')";

pub(super) mod delivery;
pub(super) mod lanes;
pub(super) mod orders;
pub(super) mod preparations;
mod standing;
pub(super) mod waves;

pub(super) use self::standing::{
    Standing, of_order, open_of_device, past_their_end, save, standings, undelivered_destructive,
};

/// After its validity and this, a command without a receipt is called overdue.
const OVERDUE_AFTER: Duration = Duration::from_secs(15 * 60);
/// A device that was not heard of for this long is silent: longer than the longest interval of
/// its check-ins, and than we take to write down that it was here.
const SILENT_AFTER: Duration = Duration::from_secs(30 * 60);

const VIEW: &str = "SELECT c.id, c.order_id, c.device_id, d.name, c.generation, c.verb, c.lane, \
     c.seq, c.state, c.ended_by, c.approvals_needed, c.sends, c.stage, c.created_at, \
     c.expires_at, c.queued_at, c.sent_at, c.acked_at, c.running_at, c.finished_at, c.outcome, \
     c.receipt, c.stage_proof, d.last_seen_at, c.advance FROM commands c JOIN devices d ON d.id = c.device_id WHERE 1 = 1";

/// What a device signed of a command.
struct Signed {
    outcome: Option<Outcome>,
    receipt: Option<CompactJws>,
    proof: Option<CompactJws>,
}

async fn signed(conn: &mut Conn, row: &Row) -> Result<Signed, DbError> {
    let id: Uuid = row.try_get(0)?;
    let outcome = conn.unseal_text(&OUTCOME, &id, row.try_get(20)?).await?;
    let receipt = conn.unseal_text(&RECEIPT, &id, row.try_get(21)?).await?;
    let proof = conn.unseal_text(&STAGE_PROOF, &id, row.try_get(22)?).await?;
    Ok(Signed {
        outcome: outcome.map(|text| json(&text, "outcome")).transpose()?,
        receipt: receipt.map(CompactJws::from_text),
        proof: proof.map(CompactJws::from_text),
    })
}

fn view(row: &Row, signed: Signed, now: Timestamp) -> Result<CommandView, DbError> {
    let time = |index: usize| -> Result<Option<Time>, DbError> {
        Ok(row.try_get::<Option<i64>>(index)?.map(|at| Time(timestamp(at))))
    };
    let state = state(row.try_get(8)?)?;
    let expires_at = timestamp(row.try_get(14)?);
    let is_out = matches!(state, CommandState::Acked | CommandState::Running);
    let Signed { outcome, receipt, proof } = signed;
    let verb: &str = row.try_get(5)?;
    let verb: Verb = verb.parse().map_err(|_| DbError::Unreadable("verb"))?;
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
        advance: advance(row.try_get(24)?)?,
        created_at: timestamp(row.try_get(13)?).into(),
        expires_at: expires_at.into(),
        queued_at: time(15)?,
        sent_at: time(16)?,
        acked_at: time(17)?,
        running_at: time(18)?,
        finished_at: time(19)?,
        outcome,
        receipt,
        proof,
    })
}

fn advance(text: Option<&str>) -> Result<Option<Advance>, DbError> {
    text.map(|text| json(text, "advance")).transpose()
}

/// Where a command stands now, for whoever watches, with what it says.
pub(super) async fn how_far(conn: &mut Conn, id: CommandId) -> Result<Option<HowFar>, DbError> {
    let row = sql("SELECT state, stage, advance, output FROM commands WHERE id = $1")
        .bind(id.as_uuid())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (state, stage) = (state(row.try_get(0)?)?, row.try_get(1)?);
    let output = conn.unseal_text(&OUTPUT, &id.as_uuid(), row.try_get(3)?).await?;
    let output = output.map(|text| json(&text, "output")).transpose()?;
    let advance = advance(row.try_get(2)?)?.map(|advance| advance.output(output));
    Ok(Some(HowFar { command_id: id, state, stage, advance }))
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
    let Some(row) = select.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let signed = signed(conn, &row).await?;
    view(&row, signed, now).map(Some)
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
            .fetch_optional(&mut *conn)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let outcome = conn.unseal_text(&OUTCOME, &id.as_uuid(), row.try_get(1)?).await?;
    let Some(outcome) = outcome else { return Ok(None) };
    Ok(Some((DeviceId::from_uuid(row.try_get(0)?), json(&outcome, "outcome")?)))
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
    let rows = select.fetch_all(&mut *conn).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        let signed = signed(conn, row).await?;
        views.push(view(row, signed, now)?);
    }
    Ok(views)
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
