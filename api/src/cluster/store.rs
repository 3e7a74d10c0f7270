//! What the view counts in the store.

use protocol::id::DeviceId;
use protocol::time::Timestamp;

use super::{AGES, OLDER};
use crate::db::{Conn, DbError, millis, sql};

/// Commands that may go out and have no ack, by age. A command's age begins when nothing was awaited
/// any more.
pub(super) async fn unacked(
    conn: &mut Conn,
    now: Timestamp,
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let mut counts = Vec::with_capacity(AGES.len() + 1);
    let mut younger = 0;
    let ages = AGES.iter().map(|(name, age)| (*name, millis(now.minus(*age))));
    for (name, since) in ages.chain([(OLDER, i64::MIN)]) {
        let row = sql(
            "SELECT COUNT(*) FROM commands WHERE state IN ('queued', 'sent') AND queued_at >= $1",
        )
        .bind(since)
        .fetch_one(conn)
        .await?;
        let all = u64::try_from(row.try_get::<i64>(0)?).unwrap_or(0);
        counts.push((name, all.saturating_sub(younger)));
        younger = all;
    }
    Ok(counts)
}

/// Devices that are not revoked, in the order of their ids.
pub(super) async fn enrolled(
    conn: &mut Conn,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<Vec<DeviceId>, DbError> {
    let after = after.unwrap_or_else(|| DeviceId::from_uuid(uuid::Uuid::nil()));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows =
        sql("SELECT id FROM devices WHERE id > $1 AND revoked_at IS NULL ORDER BY id LIMIT $2")
            .bind(after.as_uuid())
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.iter().map(|row| Ok(DeviceId::from_uuid(row.try_get(0)?))).collect()
}
