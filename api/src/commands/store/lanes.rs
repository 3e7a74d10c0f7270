//! Sequence numbers per device, lane and enrollment generation.

use std::collections::BTreeMap;

use protocol::enrollment::DeviceIdentity;
use protocol::id::DeviceId;
use protocol::state::Lane;

use crate::commands::queue::Fresh;
use crate::db::{CHUNK, DbError, Tx, millis, sql};

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
    let mut lines = BTreeMap::new();
    for wanted in wanted.chunks(CHUNK) {
        let counts: BTreeMap<_, _> = wanted.iter().map(|((id, _), count)| (*id, *count)).collect();
        let devices: Vec<_> = counts.keys().copied().collect();
        let before = newest_open(tx, lane, &devices).await?;
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
             RETURNING device_id, last_seq",
        );
        for row in upsert.fetch_all(tx.conn()).await? {
            let device = DeviceId::from_uuid(row.try_get(0)?);
            let count = counts.get(&device).copied().unwrap_or(1);
            let first = row.try_get::<i64>(1)?.saturating_sub(i64::from(count)).saturating_add(1);
            let next = u64::try_from(first).map_err(|_| DbError::Unreadable("sequence number"))?;
            let after = before.get(&device).copied().unwrap_or(0);
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

/// The newest number in the lane whose command has not ended, by device; none where none is. A
/// device that is said to have it and has it not must ask before it takes what comes after.
async fn newest_open(
    tx: &mut Tx,
    lane: Lane,
    devices: &[DeviceId],
) -> Result<BTreeMap<DeviceId, u64>, DbError> {
    let now = millis(tx.now());
    let mut newest = BTreeMap::new();
    let mut select = sql("SELECT device_id, MAX(seq) FROM commands WHERE ");
    select
        .push(is_out!(""))
        .push(" AND expires_at > ")
        .push_bind(now)
        .push(" AND lane = ")
        .push_bind(lane.as_str());
    select.push(" AND device_id IN ");
    select.push_list(devices.iter().map(|device| device.as_uuid()));
    select.push(" GROUP BY device_id");
    for row in select.fetch_all(tx.conn()).await? {
        let seq: i64 = row.try_get(1)?;
        newest.insert(DeviceId::from_uuid(row.try_get(0)?), u64::try_from(seq).unwrap_or(0));
    }
    Ok(newest)
}
