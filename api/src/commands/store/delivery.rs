//! What has to be delivered, and what was.

use std::collections::BTreeMap;

use protocol::action::Verb;
use protocol::frame::CommandFrame;
use protocol::id::{BootId, CommandId, DeviceId, OrderId};
use protocol::jws::CompactJws;
use protocol::run::Heard;
use protocol::state::{Lane, PerLane};
use protocol::time::Timestamp;
use uuid::Uuid;

use super::{IS_ENDING, lane};
use crate::commands::{Pending, hold};
use crate::db::{CHUNK, Conn, DbError, Row, Sql, Tx, json, millis, sql, timestamp};
use crate::vault::ENVELOPE;

/// A device that asked, with everything that waits for it.
#[derive(Debug)]
pub(in crate::commands) struct Asking {
    pub(in crate::commands) generation: u32,
    pub(in crate::commands) revoked_through: u32,
    pub(in crate::commands) trust_version: u32,
    pub(in crate::commands) newest_trust: u32,
    pub(in crate::commands) agent_version: Option<String>,
    pub(in crate::commands) boots: Boots,
    pub(in crate::commands) capabilities: Vec<String>,
    pub(in crate::commands) degraded_since: Option<Timestamp>,
    pub(in crate::commands) last_seen_at: Option<Timestamp>,
    /// The newest numbers that were given.
    pub(in crate::commands) last_seq: PerLane<u64>,
    /// The newest numbers that it is said to have had on disk for a while.
    pub(in crate::commands) had_seq: PerLane<u64>,
    pub(in crate::commands) out: Vec<Out>,
}

/// The boots that a device was heard from, and whether two machines say they are it.
#[derive(Debug, Clone, Default)]
pub(in crate::commands) struct Boots {
    /// The one it was in when it was heard of last.
    pub(in crate::commands) present: Option<BootId>,
    /// The one before.
    pub(in crate::commands) former: Option<BootId>,
    /// The epoch of the first session of the present one.
    pub(in crate::commands) epoch: u64,
    /// Whether it was found out already.
    pub(in crate::commands) is_cloned: bool,
    /// What its agent said of itself in the present one.
    pub(in crate::commands) heard: Option<Heard>,
}

/// A command that left or may leave, and has not ended.
#[derive(Debug)]
pub(in crate::commands) struct Out {
    pub(in crate::commands) seq: u64,
    /// The device is said to have it on disk.
    pub(in crate::commands) is_taken: bool,
    /// It was said to have it a while ago.
    pub(in crate::commands) is_settled: bool,
    /// It changes the device, and nobody ordered it knowing of a second machine.
    pub(in crate::commands) is_held_of_clones: bool,
    pub(in crate::commands) frame: CommandFrame,
}

/// Everything that up to a thousand devices may need to be told, with one statement. Commands
/// come in order, urgent lane first; the caller says which of them follows which. What a device
/// had counts when it had it before `settled`.
pub(in crate::commands) async fn asking(
    conn: &mut Conn,
    devices: &[DeviceId],
    (now, settled): (Timestamp, Timestamp),
) -> Result<BTreeMap<DeviceId, Asking>, DbError> {
    let mut select = sql("SELECT d.id, d.generation, d.revoked_through, d.trust_version, \
         (SELECT COALESCE(MAX(version), 0) FROM trust_roots), d.agent_version, d.boot_id, \
         d.capabilities, d.degraded_since, d.last_seen_at, c.id, c.lane, c.seq, c.envelope, \
         c.state IN ('acked', 'running'), \
         (SELECT s.last_seq FROM lane_seqs s WHERE s.device_id = d.id \
          AND s.generation = d.generation AND s.lane = 'urgent'), \
         (SELECT s.last_seq FROM lane_seqs s WHERE s.device_id = d.id \
          AND s.generation = d.generation AND s.lane = 'bulk'), \
         d.former_boot_id, d.boot_epoch, d.cloned_at IS NOT NULL, ");
    push_held_of_clones(&mut select);
    select.push(", d.run_started_us, d.run_at_us");
    for lane in [Lane::Urgent, Lane::Bulk] {
        // Down the index of the lane, to the first that fits.
        select.push(
            ", (SELECT h.seq FROM commands h WHERE h.device_id = d.id \
             AND h.generation = d.generation AND h.lane = ",
        );
        select.push_bind(lane.as_str()).push(" AND (h.acked_at < ").push_bind(millis(settled));
        select.push(" OR h.state IN ('succeeded', 'failed') AND h.finished_at < ");
        select.push_bind(millis(settled)).push(") ORDER BY h.seq DESC LIMIT 1)");
    }
    select.push(", c.acked_at < ").push_bind(millis(settled));
    select.push(
        " FROM devices d LEFT JOIN commands c ON c.device_id = d.id \
         AND c.generation = d.generation AND ",
    );
    select.push(is_out!("c.")).push(" AND c.expires_at > ").push_bind(millis(now));
    select.push(" LEFT JOIN orders o ON o.id = c.order_id WHERE d.id IN ");
    select.push_list(devices.iter().map(|device| device.as_uuid()));
    select.push(" ORDER BY d.id, c.lane DESC, c.seq");
    let mut answers: BTreeMap<DeviceId, Asking> = BTreeMap::new();
    for row in select.fetch_all(&mut *conn).await? {
        let id = DeviceId::from_uuid(row.try_get(0)?);
        let asking = match answers.entry(id) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(device(&row)?),
        };
        let Some(command_id) = row.try_get(10)? else { continue };
        let Some(jws) = envelope(conn, command_id, row.try_get(13)?).await? else { continue };
        let lane = lane(row.try_get(11)?)?;
        let seq = u64::try_from(row.try_get::<i64>(12)?).unwrap_or(0);
        asking.out.push(Out {
            seq,
            is_taken: row.try_get(14)?,
            is_settled: row.try_get::<Option<bool>>(25)?.unwrap_or_default(),
            is_held_of_clones: row.try_get(20)?,
            frame: CommandFrame {
                command_id: CommandId::from_uuid(command_id),
                lane,
                after_seq: 0,
                jws,
            },
        });
    }
    Ok(answers)
}

fn device(row: &Row) -> Result<Asking, DbError> {
    let time = |index: usize| -> Result<Option<Timestamp>, DbError> {
        Ok(row.try_get::<Option<i64>>(index)?.map(timestamp))
    };
    let number = |index: usize| -> Result<u64, DbError> {
        let number: Option<i64> = row.try_get(index)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0))
    };
    Ok(Asking {
        generation: row.number(1)?,
        revoked_through: row.number(2)?,
        trust_version: row.number(3)?,
        newest_trust: row.number(4)?,
        agent_version: row.try_get(5)?,
        boots: Boots {
            present: row.try_get::<Option<Uuid>>(6)?.map(BootId::from_uuid),
            former: row.try_get::<Option<Uuid>>(17)?.map(BootId::from_uuid),
            epoch: number(18)?,
            is_cloned: row.try_get(19)?,
            heard: match row.try_get::<Option<i64>>(21)? {
                Some(_) => Some(Heard { started_us: number(21)?, at_us: number(22)? }),
                None => None,
            },
        },
        capabilities: json(row.try_get(7)?, "capability")?,
        degraded_since: time(8)?,
        last_seen_at: time(9)?,
        last_seq: PerLane { urgent: number(15)?, bulk: number(16)? },
        had_seq: PerLane { urgent: number(23)?, bulk: number(24)? },
        out: Vec::new(),
    })
}

/// Undelivered commands whose next delivery is due, in the order of their lanes. Each says which
/// command that has not ended it follows: also one that its device is said to have, because a
/// device that has it not must ask before it takes what comes after.
pub(in crate::commands) async fn due(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<Pending>, DbError> {
    let now = millis(now);
    let mut select = sql("SELECT c.device_id, c.id, c.lane, c.seq, c.envelope, \
         (SELECT MAX(p.seq) FROM commands p WHERE p.device_id = c.device_id \
          AND p.generation = c.generation AND p.lane = c.lane AND p.seq < c.seq \
          AND ");
    select.push(is_out!("p.")).push(" AND p.expires_at > ").push_bind(now).push(
        ") FROM commands c JOIN devices d ON d.id = c.device_id JOIN orders o ON o.id = c.order_id \
         WHERE c.state IN ('queued', 'sent') AND c.redeliver_at <= ",
    );
    select.push_bind(now).push(" AND c.expires_at > ").push_bind(now);
    select.push(" AND NOT (d.cloned_at IS NOT NULL AND ");
    push_held_of_clones(&mut select);
    select.push(") ORDER BY c.lane DESC, c.redeliver_at, c.device_id, c.seq LIMIT ");
    select.push_bind(limit);
    let rows = select.fetch_all(&mut *conn).await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        let before: Option<i64> = row.try_get(5)?;
        let id: Uuid = row.try_get(1)?;
        let Some(jws) = envelope(conn, id, row.try_get(4)?).await? else { continue };
        let frame = CommandFrame {
            command_id: CommandId::from_uuid(id),
            lane: lane(row.try_get(2)?)?,
            after_seq: before.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0),
            jws,
        };
        due.push(Pending { device: DeviceId::from_uuid(row.try_get(0)?), frame });
    }
    Ok(due)
}

/// An envelope, which is sealed where it carries a script. `None` for one that does not open: those of other
/// commands go out all the same.
async fn envelope(
    conn: &mut Conn,
    command: Uuid,
    stored: String,
) -> Result<Option<CompactJws>, DbError> {
    match conn.unseal_text(&ENVELOPE, &command, Some(stored)).await {
        Ok(opened) => Ok(opened.map(CompactJws::from_text)),
        Err(DbError::Vault(error)) => {
            tracing::error!(%command, %error, "an envelope does not open and is not sent");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes that sessions took those commands then, and answers the ones that were not sent before.
pub(in crate::commands) async fn mark_sent(
    tx: &mut Tx,
    at: Timestamp,
    ids: &[CommandId],
) -> Result<Vec<CommandId>, DbError> {
    let now = millis(at);
    let mut first = Vec::new();
    for ids in ids.chunks(CHUNK) {
        let mut update = sql("UPDATE commands SET sends = sends + 1, redeliver_at = ");
        // As `due_after` says.
        update.push_bind(now);
        update.push(" + 4000 * (1 << CAST(CASE WHEN sends < 6 THEN sends ELSE 6 END AS INTEGER))");
        update.push(" WHERE state = 'sent' AND id IN ");
        push_ids(&mut update, ids);
        update.execute(tx.conn()).await?;

        let mut update = sql("UPDATE commands SET state = 'sent', sent_at = ");
        update.push_bind(now).push(", sends = 1, redeliver_at = ");
        update.push_bind(due_after(now, 0));
        update.push(" WHERE state = 'queued' AND id IN ");
        push_ids(&mut update, ids);
        update.push(" RETURNING id");
        for row in update.fetch_all(tx.conn()).await? {
            first.push(CommandId::from_uuid(row.try_get(0)?));
        }
    }
    Ok(first)
}

/// When a command is due again that was sent then, and so often before: 2 s after the first sending, 8 s
/// after the second, and so on up to about four minutes.
pub(super) fn due_after(at: i64, sends: i64) -> i64 {
    let wait = if sends == 0 { 2000 } else { 4000_i64 << sends.clamp(0, 6) };
    at.saturating_add(wait)
}

/// Puts the next look at undelivered commands off, unless it was put off already: their device
/// came meanwhile, and they were sent to it.
pub(in crate::commands) async fn put_off(
    tx: &mut Tx,
    ids: &[CommandId],
    until: Timestamp,
) -> Result<(), DbError> {
    for ids in ids.chunks(CHUNK) {
        let now = millis(tx.now());
        let mut update = sql("UPDATE commands SET redeliver_at = ");
        update.push_bind(millis(until)).push(" WHERE redeliver_at <= ").push_bind(now);
        update.push(" AND id IN ");
        push_ids(&mut update, ids);
        update.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Takes commands back that their device was said to have and has not: they are on their way
/// again, due then. Answers which were.
pub(in crate::commands) async fn take_back(
    tx: &mut Tx,
    ids: &[CommandId],
    due: Timestamp,
) -> Result<Vec<CommandId>, DbError> {
    let mut taken_back = Vec::new();
    for ids in ids.chunks(CHUNK) {
        let mut update =
            sql("UPDATE commands SET state = 'sent', acked_at = NULL, running_at = NULL, \
             stage = NULL, advance = NULL, output = NULL, redeliver_at = ");
        update.push_bind(millis(due)).push(" WHERE state IN ('acked', 'running') AND id IN ");
        push_ids(&mut update, ids);
        update.push(" RETURNING id");
        for row in update.fetch_all(tx.conn()).await? {
            taken_back.push(CommandId::from_uuid(row.try_get(0)?));
        }
    }
    Ok(taken_back)
}

/// Makes undelivered commands due by then at the latest.
pub(in crate::commands) async fn make_due(
    tx: &mut Tx,
    ids: &[CommandId],
    by: Timestamp,
) -> Result<(), DbError> {
    for ids in ids.chunks(CHUNK) {
        let mut update = sql("UPDATE commands SET redeliver_at = ");
        update.push_bind(millis(by)).push(" WHERE redeliver_at > ").push_bind(millis(by));
        update.push(" AND state IN ('queued', 'sent') AND id IN ");
        push_ids(&mut update, ids);
        update.execute(tx.conn()).await?;
    }
    Ok(())
}

/// That a command `c` of an order `o` leaves for no device that is a clone.
fn push_held_of_clones(query: &mut Sql) {
    let verbs = Verb::ALL.into_iter().filter(|verb| hold::concerns(*verb));
    query.push("(o.accept_cloned = 0 AND c.verb IN ");
    query.push_list(verbs.map(Verb::as_str)).push(")");
}

/// The commands that are held because their device is a clone, each with its order.
pub(in crate::commands) async fn held(
    tx: &mut Tx,
    device: DeviceId,
) -> Result<Vec<(CommandId, OrderId)>, DbError> {
    let mut select = sql("SELECT c.id, c.order_id FROM commands c \
         JOIN orders o ON o.id = c.order_id WHERE ");
    select.push(IS_ENDING).push(" AND c.device_id = ").push_bind(device.as_uuid()).push(" AND ");
    push_held_of_clones(&mut select);
    select.push(" ORDER BY c.id");
    let rows = select.fetch_all(tx.conn()).await?;
    let ids = |row: &Row| {
        Ok((CommandId::from_uuid(row.try_get(0)?), OrderId::from_uuid(row.try_get(1)?)))
    };
    rows.iter().map(ids).collect()
}

fn push_ids(query: &mut Sql, ids: &[CommandId]) {
    query.push_list(ids.iter().map(|id| id.as_uuid()));
}
