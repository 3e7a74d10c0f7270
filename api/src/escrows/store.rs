//! Escrows in the store.

use aws_lc_rs::digest::{SHA256, digest};
use protocol::escrow::Escrow;
use protocol::id::{CommandId, DeviceId};
use protocol::jws::CompactJws;
use uuid::Uuid;

use super::list::EscrowQuery;
use super::{EscrowState, EscrowView, OpenEscrow};
use crate::auth::{Permit, ability};
use crate::db::{Conn, DbError, Row, Tx, json, millis, sql, timestamp};
use crate::http::Page;
use crate::vault::ESCROW;

const VIEW: &str = "SELECT e.id, e.command_id, e.device_id, d.name, e.generation, e.subjects, \
     e.recovery_key, e.state, e.received_at, e.jws FROM escrows e \
     JOIN devices d ON d.id = e.device_id WHERE 1 = 1";

/// SHA-256 of what is sealed, in lowercase hexadecimal: as the device's evidence names it.
pub(super) fn name_of(sealed: &str) -> String {
    let hash = digest(&SHA256, sealed.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn is_held(
    tx: &mut Tx,
    command: CommandId,
    sealed_sha256: &str,
) -> Result<bool, DbError> {
    let row = sql("SELECT COUNT(*) FROM escrows WHERE command_id = $1 AND sealed_sha256 = $2")
        .bind(command.as_uuid())
        .bind(sealed_sha256)
        .fetch_one(tx.conn())
        .await?;
    Ok(row.try_get::<i64>(0)? > 0)
}

pub(super) async fn count(tx: &mut Tx, command: CommandId) -> Result<i64, DbError> {
    let row = sql("SELECT COUNT(*) FROM escrows WHERE command_id = $1")
        .bind(command.as_uuid())
        .fetch_one(tx.conn())
        .await?;
    row.try_get(0)
}

pub(super) async fn insert(
    tx: &mut Tx,
    id: Uuid,
    (escrow, jws): (&Escrow, &CompactJws),
    sealed_sha256: &str,
) -> Result<(), DbError> {
    let subjects = serde_json::to_string(&escrow.subjects);
    let subjects = subjects.map_err(|_| DbError::Unreadable("subjects"))?;
    let jws = tx.seal(&ESCROW, &id, Some(jws.as_str())).await?;
    let now = millis(tx.now());
    sql("INSERT INTO escrows (id, command_id, device_id, generation, sealed_sha256, subjects, \
         recovery_key, jws, state, received_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
    .bind(id)
    .bind(escrow.command_id.as_uuid())
    .bind(escrow.iss.as_uuid())
    .bind(i64::from(escrow.generation))
    .bind(sealed_sha256)
    .bind(&subjects)
    .bind(escrow.recovery_key.to_string())
    .bind(jws)
    .bind(EscrowState::Held.as_str())
    .bind(now)
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(super) async fn settle(
    tx: &mut Tx,
    command: CommandId,
    sealed_sha256: Option<&str>,
    state: EscrowState,
) -> Result<(), DbError> {
    let mut update = sql("UPDATE escrows SET state = ");
    update.push_bind(state.as_str());
    update.push(" WHERE command_id = ").push_bind(command.as_uuid());
    if let Some(sealed_sha256) = sealed_sha256 {
        update.push(" AND sealed_sha256 = ").push_bind(sealed_sha256.to_owned());
    }
    update.execute(tx.conn()).await?;
    Ok(())
}

/// What was in force for the same on the same device is so no more.
pub(super) async fn supersede(
    tx: &mut Tx,
    command: CommandId,
    sealed_sha256: &str,
) -> Result<(), DbError> {
    sql("UPDATE escrows SET state = $1 WHERE state = $2 AND EXISTS (SELECT 1 FROM escrows e \
         WHERE e.command_id = $3 AND e.sealed_sha256 = $4 AND e.device_id = escrows.device_id \
         AND e.subjects = escrows.subjects AND e.id <> escrows.id)")
    .bind(EscrowState::Superseded.as_str())
    .bind(EscrowState::InForce.as_str())
    .bind(command.as_uuid())
    .bind(sealed_sha256)
    .execute(tx.conn())
    .await?;
    Ok(())
}

fn view(row: &Row) -> Result<EscrowView, DbError> {
    Ok(EscrowView {
        id: row.try_get(0)?,
        command_id: CommandId::from_uuid(row.try_get(1)?),
        device_id: DeviceId::from_uuid(row.try_get(2)?),
        device_name: row.try_get(3)?,
        generation: row.number(4)?,
        subjects: json(row.try_get(5)?, "subjects")?,
        recovery_key: row.try_get(6)?,
        state: EscrowState::from_name(row.try_get(7)?)
            .ok_or(DbError::Unreadable("escrow state"))?,
        received_at: timestamp(row.try_get(8)?).into(),
    })
}

/// A page of escrows whose devices are within reach.
pub(super) async fn list(
    conn: &mut Conn,
    permit: &Permit<ability::Escrows>,
    page: &Page<Uuid>,
    query: &EscrowQuery,
) -> Result<Vec<EscrowView>, DbError> {
    let mut select = sql(VIEW);
    if let Some(after) = page.after {
        select.push(" AND e.id > ").push_bind(after);
    }
    if let Some(device) = query.device {
        select.push(" AND e.device_id = ").push_bind(device.as_uuid());
    }
    if let Some(command) = query.command {
        select.push(" AND e.command_id = ").push_bind(command.as_uuid());
    }
    permit.reach().filter(&mut select, "e.device_id");
    select.push(" ORDER BY e.id LIMIT ").push_bind(page.rows());
    select.fetch_all(conn).await?.iter().map(view).collect()
}

/// One escrow with what is sealed, if its device is within reach.
pub(super) async fn find(
    conn: &mut Conn,
    permit: &Permit<ability::Escrows>,
    id: Uuid,
) -> Result<Option<OpenEscrow>, DbError> {
    let mut select = sql(VIEW);
    select.push(" AND e.id = ").push_bind(id);
    permit.reach().filter(&mut select, "e.device_id");
    let Some(row) = select.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let Some(jws) = conn.unseal_text(&ESCROW, &id, row.try_get(9)?).await? else { return Ok(None) };
    Ok(Some(OpenEscrow { escrow: view(&row)?, jws: CompactJws::from_text(jws) }))
}
