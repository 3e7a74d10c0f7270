//! Sequence numbers per device, lane and enrollment generation.

use std::collections::BTreeMap;

use protocol::enrollment::DeviceIdentity;
use protocol::id::DeviceId;
use protocol::state::Lane;

use crate::commands::queue::Fresh;
use crate::db::{CHUNK, DbError, Sql, Tx, millis, sql};

/// Where a device's lane stands: what its next command gets, and what that one follows.
#[derive(Debug, Clone, Copy)]
pub(in crate::commands) struct Line {
    next: u64,
    after: u64,
}

impl Line {
    /// The next number, and the newest before it whose command has not ended.
    pub(in crate::commands) const fn take(&mut self) -> (u64, u64) {
        let taken = (self.next, self.after);
        self.after = self.next;
        self.next = self.next.saturating_add(1);
        taken
    }
}

/// Draws numbers of the lane for each device: as many as it has commands.
pub(in crate::commands) async fn draw(
    tx: &mut Tx,
    lane: Lane,
    fresh: &[&Fresh],
) -> Result<BTreeMap<DeviceId, Line>, DbError> {
    let mut wanted: BTreeMap<(DeviceId, u32), u32> = BTreeMap::new();
    for fresh in fresh {
        *wanted.entry((fresh.device, fresh.generation)).or_default() += 1;
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let now = millis(tx.now());
    let mut lines = BTreeMap::new();
    for wanted in wanted.chunks(CHUNK) {
        let counts: BTreeMap<_, _> = wanted.iter().map(|((id, _), count)| (*id, *count)).collect();
        let mut upsert = sql("INSERT INTO lane_seqs (device_id, generation, lane, last_seq) ");
        upsert.push_rows(wanted, |row, ((device, generation), count)| {
            row.push_bind(device.as_uuid())
                .push_bind(*generation)
                .push_bind(lane.as_str())
                .push_bind(*count);
        });
        upsert.push(
            " ON CONFLICT (device_id, generation, lane) \
             DO UPDATE SET last_seq = lane_seqs.last_seq + excluded.last_seq \
             RETURNING device_id, last_seq, ",
        );
        push_newest_open(&mut upsert, now);
        for row in upsert.fetch_all(tx.conn()).await? {
            let device = DeviceId::from_uuid(row.try_get(0)?);
            let count = counts.get(&device).copied().unwrap_or(1);
            let first = row.try_get::<i64>(1)?.saturating_sub(i64::from(count)).saturating_add(1);
            let next = u64::try_from(first).map_err(|_| DbError::Unreadable("sequence number"))?;
            let after: Option<i64> = row.try_get(2)?;
            let after = after.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
            lines.insert(device, Line { next, after });
        }
    }
    Ok(lines)
}

/// Raises the lane's newest number, so that the next one is above it. Never lowers it; says
/// whether it was below.
pub(in crate::commands) async fn raise(
    tx: &mut Tx,
    identity: DeviceIdentity,
    lane: Lane,
    to: u64,
) -> Result<bool, DbError> {
    let raised = sql(
        "INSERT INTO lane_seqs (device_id, generation, lane, last_seq) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (device_id, generation, lane) DO UPDATE SET last_seq = excluded.last_seq \
         WHERE lane_seqs.last_seq < excluded.last_seq",
    )
    .bind(identity.device.as_uuid())
    .bind(identity.generation)
    .bind(lane.as_str())
    .bind(i64::try_from(to).unwrap_or(i64::MAX))
    .execute(tx.conn())
    .await?;
    Ok(raised > 0)
}

/// The newest number in the lane of a row of `lane_seqs` whose command has not ended; none where none is. A
/// device that is said to have it and has it not must ask before it takes what comes after. Down the index
/// of those that are out to the first that fits: asked for all devices of a list at once, SQLite goes through
/// everything that each of them was ever sent.
fn push_newest_open(query: &mut Sql, now: i64) {
    query.push(
        "(SELECT MAX(c.seq) FROM commands c WHERE c.device_id = lane_seqs.device_id \
         AND c.generation = lane_seqs.generation AND c.lane = lane_seqs.lane AND ",
    );
    query.push(is_out!("c.")).push(" AND c.expires_at > ").push_bind(now).push(")");
}
