//! Devices in the store.

use std::collections::{BTreeMap, BTreeSet};

use protocol::enrollment::DeviceIdentity;
use protocol::frame::Hello;
use protocol::id::{BootId, DeviceId, GroupName};
use protocol::key::DevicePublicKey;
use protocol::run::Heard;
use protocol::time::Timestamp;
use uuid::Uuid;

use super::DeviceQuery;
use crate::auth::{Permit, Reach, ability};
use crate::db::{CHUNK, Conn, DbError, Row, Sql, Tx, json, millis, sql, timestamp};
use crate::http::Page;

const COLUMNS: &str = "SELECT d.id, d.name, d.generation, d.revoked_through, d.enrolled_at, \
     d.revoked_at, d.certificate_expires_at, d.trust_version, d.agent_version, d.capabilities, \
     d.degraded_since, d.last_seen_at, d.public_key, d.cloned_at, d.simulated FROM devices d WHERE 1 = 1";

/// A device's row.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) generation: u32,
    pub(crate) revoked_through: u32,
    pub(crate) enrolled_at: Timestamp,
    pub(crate) revoked_at: Option<Timestamp>,
    pub(crate) certificate_expires_at: Timestamp,
    pub(crate) trust_version: u32,
    pub(crate) agent_version: Option<String>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) degraded_since: Option<Timestamp>,
    pub(crate) last_seen_at: Option<Timestamp>,
    pub(crate) public_key: DevicePublicKey,
    /// Since when two machines are known to hold its identity.
    pub(crate) cloned_at: Option<Timestamp>,
    /// Whether its token said that it acts on nothing. It never changes.
    pub(crate) is_simulated: bool,
}

impl Device {
    /// Whether its present enrollment was revoked.
    pub(crate) const fn is_revoked(&self) -> bool {
        self.revoked_through >= self.generation
    }
}

/// What signs a device's receipts now.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) generation: u32,
    pub(crate) revoked_through: u32,
    pub(crate) public: DevicePublicKey,
    /// When the certificate ends that was issued last.
    pub(crate) certificate_expires_at: Timestamp,
}

impl Key {
    /// Whether that enrollment is the present one, and not revoked.
    pub(crate) fn stands_for(&self, identity: DeviceIdentity) -> bool {
        self.generation == identity.generation && self.revoked_through < self.generation
    }
}

/// A device about to be enrolled.
#[derive(Debug)]
pub(crate) struct Enrolling<'a> {
    pub(crate) id: DeviceId,
    pub(crate) name: &'a str,
    pub(crate) key: &'a DevicePublicKey,
    pub(crate) generation: u32,
    pub(crate) certificate_expires_at: Timestamp,
    pub(crate) is_simulated: bool,
}

fn device(row: &Row) -> Result<Device, DbError> {
    let time = |index: usize| -> Result<Option<Timestamp>, DbError> {
        Ok(row.try_get::<Option<i64>>(index)?.map(timestamp))
    };
    Ok(Device {
        id: DeviceId::from_uuid(row.try_get(0)?),
        name: row.try_get(1)?,
        generation: row.number(2)?,
        revoked_through: row.number(3)?,
        enrolled_at: timestamp(row.try_get(4)?),
        revoked_at: time(5)?,
        certificate_expires_at: timestamp(row.try_get(6)?),
        trust_version: row.number(7)?,
        agent_version: row.try_get(8)?,
        capabilities: json(row.try_get(9)?, "capability")?,
        degraded_since: time(10)?,
        last_seen_at: time(11)?,
        public_key: DevicePublicKey::from_point(row.try_get(12)?)
            .map_err(|_| DbError::Unreadable("device key"))?,
        cloned_at: time(13)?,
        is_simulated: row.try_get::<i64>(14)? != 0,
    })
}

async fn fetch(select: Sql, conn: &mut Conn) -> Result<Vec<Device>, DbError> {
    select.fetch_all(conn).await?.iter().map(device).collect()
}

pub(super) async fn list(
    conn: &mut Conn,
    permit: &Permit<ability::Read>,
    page: &Page<DeviceId>,
    query: &DeviceQuery,
) -> Result<Vec<Device>, DbError> {
    let mut select = sql(COLUMNS);
    if let Some(after) = page.after {
        select.push(" AND d.id > ").push_bind(after.as_uuid());
    }
    if let Some(group) = &query.group {
        select.push(
            " AND EXISTS (SELECT 1 FROM device_groups g WHERE g.device_id = d.id \
             AND g.group_name = ",
        );
        select.push_bind(group.as_str().to_owned()).push(")");
    }
    if let Some(name) = &query.name {
        select.push(" AND d.name = ").push_bind(name.clone());
    }
    permit.reach().filter(&mut select, "d.id");
    select.push(" ORDER BY d.id LIMIT ").push_bind(page.rows());
    fetch(select, conn).await
}

/// One device, if it is within reach.
pub(crate) async fn find(
    conn: &mut Conn,
    reach: &Reach,
    id: DeviceId,
) -> Result<Option<Device>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(" AND d.id = ").push_bind(id.as_uuid());
    reach.filter(&mut select, "d.id");
    Ok(fetch(select, conn).await?.into_iter().next())
}

/// The device that has that key.
pub(crate) async fn find_by_key(
    conn: &mut Conn,
    key: &DevicePublicKey,
) -> Result<Option<Device>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(" AND d.key_id = ").push_bind(key.id().as_str().to_owned());
    Ok(fetch(select, conn).await?.into_iter().next())
}

/// Those of the ids that exist, whoever may see them: the caller checks.
pub(crate) async fn with_ids(conn: &mut Conn, ids: &[DeviceId]) -> Result<Vec<Device>, DbError> {
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(CHUNK) {
        let mut select = sql(COLUMNS);
        push_ids(&mut select, " AND d.id IN ", ids);
        found.extend(fetch(select, conn).await?);
    }
    Ok(found)
}

/// The generations of those of the devices whose enrollment stands.
pub(crate) async fn standing_generations(
    conn: &mut Conn,
    ids: &[DeviceId],
) -> Result<BTreeMap<DeviceId, u32>, DbError> {
    let mut found = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let mut select =
            sql("SELECT id, generation FROM devices WHERE revoked_through < generation");
        push_ids(&mut select, " AND id IN ", ids);
        for row in select.fetch_all(conn).await? {
            found.insert(DeviceId::from_uuid(row.try_get(0)?), row.number(1)?);
        }
    }
    Ok(found)
}

/// Those of the devices whose identity two machines hold.
pub(crate) async fn cloned(
    conn: &mut Conn,
    ids: &[DeviceId],
) -> Result<BTreeSet<DeviceId>, DbError> {
    let mut found = BTreeSet::new();
    for ids in ids.chunks(CHUNK) {
        let mut select = sql("SELECT id FROM devices WHERE cloned_at IS NOT NULL");
        push_ids(&mut select, " AND id IN ", ids);
        for row in select.fetch_all(conn).await? {
            found.insert(DeviceId::from_uuid(row.try_get(0)?));
        }
    }
    Ok(found)
}

/// The devices with those names, whoever may see them: the caller checks.
pub(crate) async fn with_names(conn: &mut Conn, names: &[String]) -> Result<Vec<Device>, DbError> {
    let mut found = Vec::with_capacity(names.len());
    for names in names.chunks(CHUNK) {
        let mut select = sql(COLUMNS);
        select.push(" AND d.revoked_through < d.generation AND d.name IN ");
        select.push_list(names);
        found.extend(fetch(select, conn).await?);
    }
    Ok(found)
}

/// The enrolled devices of a group.
pub(crate) async fn in_group(conn: &mut Conn, group: &GroupName) -> Result<Vec<Device>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(
        " AND d.revoked_through < d.generation AND EXISTS (SELECT 1 FROM device_groups g \
         WHERE g.device_id = d.id AND g.group_name = ",
    );
    select.push_bind(group.as_str().to_owned()).push(")");
    fetch(select, conn).await
}

/// So many enrolled devices after that one, in the order of their ids.
pub(crate) async fn enrolled_after(
    conn: &mut Conn,
    after: Option<DeviceId>,
    limit: i64,
) -> Result<Vec<Device>, DbError> {
    let mut select = sql(COLUMNS);
    select.push(" AND d.revoked_through < d.generation AND d.simulated = 0 AND d.id > ");
    select.push_bind(after.map_or(Uuid::nil(), |id| id.as_uuid()));
    select.push(" ORDER BY d.id LIMIT ").push_bind(limit);
    fetch(select, conn).await
}

/// The groups of those devices.
pub(crate) async fn groups_of(
    conn: &mut Conn,
    ids: &[DeviceId],
) -> Result<BTreeMap<DeviceId, Vec<GroupName>>, DbError> {
    let mut groups: BTreeMap<DeviceId, Vec<GroupName>> = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let mut select = sql("SELECT device_id, group_name FROM device_groups");
        push_ids(&mut select, " WHERE device_id IN ", ids);
        select.push(" ORDER BY group_name");
        for row in select.fetch_all(&mut *conn).await? {
            let name: String = row.try_get(1)?;
            let name = name.parse().map_err(|_| DbError::Unreadable("group"))?;
            groups.entry(DeviceId::from_uuid(row.try_get(0)?)).or_default().push(name);
        }
    }
    Ok(groups)
}

/// The keys of those devices.
pub(crate) async fn keys(
    conn: &mut Conn,
    ids: &[DeviceId],
) -> Result<BTreeMap<DeviceId, Key>, DbError> {
    let mut keys = BTreeMap::new();
    for ids in ids.chunks(CHUNK) {
        let mut select =
            sql("SELECT id, generation, revoked_through, public_key, certificate_expires_at \
             FROM devices");
        push_ids(&mut select, " WHERE id IN ", ids);
        for row in select.fetch_all(&mut *conn).await? {
            let public = DevicePublicKey::from_point(row.try_get(3)?)
                .map_err(|_| DbError::Unreadable("device key"))?;
            let key = Key {
                generation: row.number(1)?,
                revoked_through: row.number(2)?,
                public,
                certificate_expires_at: timestamp(row.try_get(4)?),
            };
            keys.insert(DeviceId::from_uuid(row.try_get(0)?), key);
        }
    }
    Ok(keys)
}

/// Enrolled devices that reported an older trust root than the newest, with their version.
pub(crate) async fn behind_on_trust(
    conn: &mut Conn,
    after: Option<DeviceId>,
) -> Result<Vec<(DeviceId, u32)>, DbError> {
    let rows = sql(
        "SELECT id, trust_version FROM devices WHERE id > $1 AND revoked_through < generation \
         AND trust_version < (SELECT MAX(version) FROM trust_roots) ORDER BY id LIMIT $2",
    )
    .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
    .bind(500_i64)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((DeviceId::from_uuid(row.try_get(0)?), row.number(1)?))).collect()
}

/// Devices whose present enrollment was revoked while its certificate still counts, with the
/// generation through which they are.
pub(crate) async fn revoked_with_certificate(
    conn: &mut Conn,
    after: Option<DeviceId>,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(DeviceId, u32)>, DbError> {
    let rows = sql("SELECT id, revoked_through FROM devices WHERE revoked_through > 0 \
         AND revoked_at IS NOT NULL AND id > $1 AND certificate_expires_at > $2 \
         ORDER BY id LIMIT $3")
    .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
    .bind(millis(now))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok((DeviceId::from_uuid(row.try_get(0)?), row.number(1)?))).collect()
}

/// Writes a device that was never seen before.
pub(crate) async fn enroll_new(tx: &mut Tx, new: &Enrolling<'_>) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("INSERT INTO devices \
         (id, name, key_id, public_key, generation, certificate_expires_at, enrolled_at, \
         simulated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
    .bind(new.id.as_uuid())
    .bind(new.name)
    .bind(new.key.id().as_str())
    .bind(new.key.as_point())
    .bind(new.generation)
    .bind(millis(new.certificate_expires_at))
    .bind(now)
    .bind(i64::from(new.is_simulated))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes the next generation of a known device.
pub(crate) async fn enroll_again(tx: &mut Tx, known: &Enrolling<'_>) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE devices SET name = $1, generation = $2, certificate_expires_at = $3, \
         enrolled_at = $4, revoked_at = NULL, trust_version = 0, boot_id = NULL, \
         former_boot_id = NULL, boot_epoch = 0, cloned_at = NULL, run_started_us = NULL, \
         run_at_us = NULL WHERE id = $5")
    .bind(known.name)
    .bind(known.generation)
    .bind(millis(known.certificate_expires_at))
    .bind(now)
    .bind(known.id.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes the end of a renewed certificate.
pub(crate) async fn record_certificate(
    tx: &mut Tx,
    id: DeviceId,
    expires_at: Timestamp,
) -> Result<(), DbError> {
    sql("UPDATE devices SET certificate_expires_at = $1 WHERE id = $2")
        .bind(millis(expires_at))
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Writes that the present enrollment ended.
pub(crate) async fn revoke(tx: &mut Tx, device: &Device) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE devices SET revoked_through = $1, revoked_at = $2 WHERE id = $3")
        .bind(device.generation)
        .bind(now)
        .bind(device.id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Writes what a device said of itself, and that it was heard of.
pub(crate) async fn record_facts(
    tx: &mut Tx,
    id: DeviceId,
    hello: &Hello,
    heard: Option<Heard>,
) -> Result<(), DbError> {
    let micros = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
    let capabilities = serde_json::to_string(&hello.capabilities)
        .map_err(|_| DbError::Unreadable("capability"))?;
    let now = millis(tx.now());
    sql("UPDATE devices SET agent_version = $1, boot_id = $2, trust_version = $3, \
         capabilities = $4, degraded_since = $5, last_seen_at = $6, run_started_us = $7, \
         run_at_us = $8 WHERE id = $9")
    .bind(&hello.agent)
    .bind(hello.boot_id.as_uuid())
    .bind(hello.trust_version)
    .bind(capabilities)
    .bind(hello.degraded_since.map(millis))
    .bind(now)
    .bind(heard.map(|heard| micros(heard.started_us)))
    .bind(heard.map(|heard| micros(heard.at_us)))
    .bind(id.as_uuid())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Writes that the boot before the present one was `former`, and since which session.
pub(crate) async fn record_boot(
    tx: &mut Tx,
    id: DeviceId,
    former: Option<BootId>,
    epoch: u64,
) -> Result<(), DbError> {
    sql("UPDATE devices SET former_boot_id = $1, boot_epoch = $2 WHERE id = $3")
        .bind(former.map(|boot| boot.as_uuid()))
        .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Writes that two machines hold the identity of a device.
pub(crate) async fn record_clone(tx: &mut Tx, id: DeviceId) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("UPDATE devices SET cloned_at = $1 WHERE id = $2 AND cloned_at IS NULL")
        .bind(now)
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Replaces the groups of a device.
pub(super) async fn set_groups(
    tx: &mut Tx,
    id: DeviceId,
    groups: &[GroupName],
) -> Result<(), DbError> {
    sql("DELETE FROM device_groups WHERE device_id = $1")
        .bind(id.as_uuid())
        .execute(tx.conn())
        .await?;
    for group in groups {
        add_to_group(tx, id, group).await?;
    }
    Ok(())
}

/// Adds a device to a group.
pub(crate) async fn add_to_group(
    tx: &mut Tx,
    id: DeviceId,
    group: &GroupName,
) -> Result<(), DbError> {
    sql("INSERT INTO device_groups (device_id, group_name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id.as_uuid())
        .bind(group.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Adds an `IN (…)` list of ids to a statement, from its opening words to its end.
fn push_ids(select: &mut Sql, opening: &'static str, ids: &[DeviceId]) {
    select.push(opening).push_list(ids.iter().map(|id| id.as_uuid()));
}
