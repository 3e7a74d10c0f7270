//! Collections in the store.

use std::collections::BTreeSet;

use protocol::action::Action;
use protocol::collection::Collection;
use protocol::enrollment::DeviceIdentity;
use protocol::id::{CommandId, DeviceId};
use protocol::manifest::{Hash, Manifest};
use protocol::time::Timestamp;

use super::CollectionView;
use crate::auth::{Permit, ability};
use crate::db::{Conn, DbError, Row, Tx, json, millis, sql, timestamp};

/// How far a collection is.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// What the device signed for.
    pub(super) said: Collection,
    /// How many chunks are here.
    pub(super) arrived: u32,
    /// Whether that is all of it.
    pub(super) is_whole: bool,
    /// Whether its device has lost it.
    pub(super) is_lost: bool,
}

pub(super) async fn expect(
    tx: &mut Tx,
    (command, device, generation): (CommandId, DeviceId, u32),
    said: &Collection,
    kept_until: Timestamp,
) -> Result<(), DbError> {
    let said = serde_json::to_string(said).map_err(|_| DbError::Unreadable("collection"))?;
    sql("INSERT INTO collections (command_id, device_id, generation, said, arrived, \
         arrived_bytes, kept_until) VALUES ($1, $2, $3, $4, 0, 0, $5) \
         ON CONFLICT (command_id) DO NOTHING")
    .bind(command.as_uuid())
    .bind(device.as_uuid())
    .bind(generation)
    .bind(&said)
    .bind(millis(kept_until))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The collection of a command, if it is this device's in this enrollment.
pub(super) async fn find(
    conn: &mut Conn,
    identity: DeviceIdentity,
    command: CommandId,
) -> Result<Option<Standing>, DbError> {
    let row = sql("SELECT said, arrived, whole_at, lost_at FROM collections \
         WHERE command_id = $1 AND device_id = $2 AND generation = $3")
    .bind(command.as_uuid())
    .bind(identity.device.as_uuid())
    .bind(identity.generation)
    .fetch_optional(conn)
    .await?;
    let standing = |row: Row| {
        Ok(Standing {
            said: json(row.try_get(0)?, "collection")?,
            arrived: row.number(1)?,
            is_whole: row.try_get::<Option<i64>>(2)?.is_some(),
            is_lost: row.try_get::<Option<i64>>(3)?.is_some(),
        })
    };
    row.map(standing).transpose()
}

/// Chunks of the largest collection that the order of a command has its device make.
pub(super) async fn ordered_chunks(conn: &mut Conn, command: CommandId) -> Result<u32, DbError> {
    let row = sql("SELECT o.manifest FROM commands c JOIN orders o ON o.id = c.order_id \
         WHERE c.id = $1")
    .bind(command.as_uuid())
    .fetch_one(conn)
    .await?;
    let manifest: Manifest = json(row.try_get(0)?, "manifest")?;
    let Action::CollectEvidence(collect) = manifest.action else { return Ok(0) };
    Ok(collect.most_chunks())
}

/// Whether that command of this device has its receipt: a collection that is not here then never is.
pub(super) async fn is_over(
    conn: &mut Conn,
    identity: DeviceIdentity,
    command: CommandId,
) -> Result<bool, DbError> {
    let row = sql("SELECT id FROM commands WHERE id = $1 AND device_id = $2 AND generation = $3 \
         AND receipt IS NOT NULL")
    .bind(command.as_uuid())
    .bind(identity.device.as_uuid())
    .bind(identity.generation)
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// The numbers of the chunks that are here.
pub(super) async fn numbers(conn: &mut Conn, command: CommandId) -> Result<BTreeSet<u32>, DbError> {
    let rows = sql("SELECT number FROM chunks WHERE command_id = $1")
        .bind(command.as_uuid())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| row.number(0)).collect()
}

/// The hash of a chunk that is here.
pub(super) async fn hash(
    conn: &mut Conn,
    command: CommandId,
    number: u32,
) -> Result<Option<Vec<u8>>, DbError> {
    let row = sql("SELECT sha256 FROM chunks WHERE command_id = $1 AND number = $2")
        .bind(command.as_uuid())
        .bind(number)
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// The hashes of the chunks that are here, in their order.
pub(super) async fn hashes(conn: &mut Conn, command: CommandId) -> Result<Vec<Hash>, DbError> {
    let rows = sql("SELECT sha256 FROM chunks WHERE command_id = $1 ORDER BY number")
        .bind(command.as_uuid())
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            let bytes: Vec<u8> = row.try_get(0)?;
            bytes.try_into().map(Hash::new).map_err(|_| DbError::Unreadable("hash of a chunk"))
        })
        .collect()
}

/// Bytes of all chunks that are here, of all collections.
pub(super) async fn held_bytes(conn: &mut Conn) -> Result<u64, DbError> {
    // A sum is a NUMERIC in PostgreSQL.
    let row = sql("SELECT CAST(COALESCE(SUM(arrived_bytes), 0) AS BIGINT) FROM collections")
        .fetch_one(conn)
        .await?;
    row.number(0)
}

pub(super) async fn insert(
    tx: &mut Tx,
    (command, number): (CommandId, u32),
    sha256: &[u8],
    sealed: Vec<u8>,
) -> Result<(), DbError> {
    let length = i64::try_from(sealed.len()).unwrap_or(i64::MAX);
    sql("INSERT INTO chunks (command_id, number, sha256, sealed) VALUES ($1, $2, $3, $4)")
        .bind(command.as_uuid())
        .bind(number)
        .bind(sha256)
        .bind(sealed)
        .execute(tx.conn())
        .await?;
    sql("UPDATE collections SET arrived = arrived + 1, arrived_bytes = arrived_bytes + $1 \
         WHERE command_id = $2")
    .bind(length)
    .bind(command.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// All of it is here.
pub(super) async fn finish(tx: &mut Tx, command: CommandId) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE collections SET whole_at = $1 WHERE command_id = $2")
        .bind(now)
        .bind(command.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The device says that it cannot read what it collected any more: nothing of it is expected from now on, and what is here
/// of it is of no use. Whether that is news; what is whole stays.
pub(crate) async fn lose(
    tx: &mut Tx,
    (command, device, generation): (CommandId, DeviceId, u32),
) -> Result<bool, DbError> {
    let now = millis(tx.now());
    let lost = sql("UPDATE collections SET lost_at = $1 WHERE command_id = $2 AND device_id = $3 \
         AND generation = $4 AND whole_at IS NULL AND lost_at IS NULL")
    .bind(now)
    .bind(command.as_uuid())
    .bind(device.as_uuid())
    .bind(generation)
    .execute(tx.conn())
    .await?;
    if lost > 0 {
        empty(tx, command).await?;
    }
    Ok(lost > 0)
}

/// Nothing of it is here any more.
pub(super) async fn empty(tx: &mut Tx, command: CommandId) -> Result<(), DbError> {
    sql("DELETE FROM chunks WHERE command_id = $1")
        .bind(command.as_uuid())
        .execute(tx.conn())
        .await?;
    sql("UPDATE collections SET arrived = 0, arrived_bytes = 0 WHERE command_id = $1")
        .bind(command.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

pub(super) async fn remove(tx: &mut Tx, command: CommandId) -> Result<(), DbError> {
    empty(tx, command).await?;
    sql("DELETE FROM collections WHERE command_id = $1")
        .bind(command.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Collections that were kept long enough, and whether all of each was here.
pub(super) async fn past_their_end(
    conn: &mut Conn,
    now: Timestamp,
    most: i64,
) -> Result<Vec<(CommandId, bool)>, DbError> {
    let rows = sql("SELECT command_id, whole_at FROM collections WHERE kept_until <= $1 \
         ORDER BY kept_until LIMIT $2")
    .bind(millis(now))
    .bind(most)
    .fetch_all(conn)
    .await?;
    let over = |row: &Row| {
        let whole: Option<i64> = row.try_get(1)?;
        Ok((CommandId::from_uuid(row.try_get(0)?), whole.is_some()))
    };
    rows.iter().map(over).collect()
}

/// How it stands with a collection, if its device is within reach.
pub(super) async fn view(
    conn: &mut Conn,
    permit: &Permit<ability::Read>,
    command: CommandId,
) -> Result<Option<CollectionView>, DbError> {
    let mut select =
        sql("SELECT device_id, said, arrived, arrived_bytes, whole_at, kept_until, lost_at \
         FROM collections WHERE command_id = ");
    select.push_bind(command.as_uuid());
    permit.reach().filter(&mut select, "device_id");
    let Some(row) = select.fetch_optional(conn).await? else { return Ok(None) };
    let said: Collection = json(row.try_get(1)?, "collection")?;
    Ok(Some(CollectionView {
        command_id: command,
        device_id: DeviceId::from_uuid(row.try_get(0)?),
        chunks: said.chunks,
        bytes: said.bytes,
        arrived: row.number(2)?,
        arrived_bytes: row.number(3)?,
        whole_at: row.try_get::<Option<i64>>(4)?.map(|at| timestamp(at).into()),
        kept_until: timestamp(row.try_get(5)?).into(),
        lost_at: row.try_get::<Option<i64>>(6)?.map(|at| timestamp(at).into()),
    }))
}

/// One chunk, if the device is within reach.
pub(super) async fn chunk(
    conn: &mut Conn,
    permit: &Permit<ability::Read>,
    (command, number): (CommandId, u32),
) -> Result<Option<Vec<u8>>, DbError> {
    let mut select = sql("SELECT k.sealed FROM chunks k JOIN collections c \
         ON c.command_id = k.command_id WHERE k.command_id = ");
    select.push_bind(command.as_uuid());
    select.push(" AND k.number = ").push_bind(number);
    permit.reach().filter(&mut select, "c.device_id");
    let row = select.fetch_optional(conn).await?;
    row.map(|row| row.try_get(0)).transpose()
}
