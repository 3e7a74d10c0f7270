//! Sequence numbers per device, lane and enrollment generation.

use std::collections::BTreeMap;

use protocol::enrollment::DeviceIdentity;
use protocol::id::DeviceId;
use protocol::state::Lane;

use crate::commands::queue::Fresh;
use crate::db::{CHUNK, DbError, Tx, millis, sql};

/// Draws the next number of the lane for each command's device.
pub(in crate::commands) async fn draw(
    tx: &mut Tx,
    lane: Lane,
    fresh: &[Fresh],
) -> Result<BTreeMap<DeviceId, u64>, DbError> {
    let mut numbers = BTreeMap::new();
    for fresh in fresh.chunks(CHUNK) {
        let mut upsert = sql("INSERT INTO lane_seqs (device_id, generation, lane, last_seq) ");
        upsert.push_rows(fresh, |row, fresh| {
            row.push_bind(fresh.device.as_uuid())
                .push_bind(fresh.generation)
                .push_bind(lane.as_str())
                .push("1");
        });
        upsert.push(
            " ON CONFLICT (device_id, generation, lane) \
             DO UPDATE SET last_seq = lane_seqs.last_seq + 1 RETURNING device_id, last_seq",
        );
        for row in upsert.fetch_all(tx.conn()).await? {
            let seq: i64 = row.try_get(1)?;
            let seq = u64::try_from(seq).map_err(|_| DbError::Unreadable("sequence number"))?;
            numbers.insert(DeviceId::from_uuid(row.try_get(0)?), seq);
        }
    }
    Ok(numbers)
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
pub(in crate::commands) async fn newest_open(
    tx: &mut Tx,
    lane: Lane,
    fresh: &[Fresh],
) -> Result<BTreeMap<DeviceId, u64>, DbError> {
    let now = millis(tx.now());
    let mut newest = BTreeMap::new();
    for fresh in fresh.chunks(CHUNK) {
        let mut select = sql("SELECT device_id, MAX(seq) FROM commands \
             WHERE state IN ('queued', 'sent', 'acked', 'running') AND expires_at > ");
        select.push_bind(now).push(" AND lane = ").push_bind(lane.as_str());
        select.push(" AND device_id IN ");
        select.push_list(fresh.iter().map(|fresh| fresh.device.as_uuid()));
        select.push(" GROUP BY device_id");
        for row in select.fetch_all(tx.conn()).await? {
            let seq: i64 = row.try_get(1)?;
            newest.insert(DeviceId::from_uuid(row.try_get(0)?), u64::try_from(seq).unwrap_or(0));
        }
    }
    Ok(newest)
}
