//! Enrollment tokens in the store.

use protocol::id::{DeviceId, GroupName, PersonName};
use serde_json::json;
use sqlx::Row as _;
use uuid::Uuid;

use super::CreatedEnrollmentToken;
use crate::audit::Kind;
use crate::auth::SecretHash;
use crate::db::{DbError, Tx, millis};

pub(super) async fn insert(
    tx: &mut Tx,
    token: &CreatedEnrollmentToken,
    hash: &SecretHash,
    by: &PersonName,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    sqlx::query(
        "INSERT INTO enrollment_tokens \
         (id, secret_hash, group_name, created_by, created_at, expires_at) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(token.id)
    .bind(hash.as_bytes())
    .bind(token.group.as_ref().map(GroupName::as_str))
    .bind(by.as_str())
    .bind(now)
    .bind(millis(token.expires_at.0))
    .execute(tx.conn())
    .await?;
    let payload = json!({ "group": token.group, "expires_at": token.expires_at });
    tx.append(Kind::EnrollmentTokenCreated, token.id, payload);
    Ok(())
}

/// A token that was just used up.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) group: Option<GroupName>,
}

/// Uses a token up, in one step: of two claims at once exactly one gets it.
pub(super) async fn claim(tx: &mut Tx, hash: &SecretHash) -> Result<Option<Claimed>, DbError> {
    let now = millis(tx.now());
    let row = sqlx::query(
        "UPDATE enrollment_tokens SET used_at = ? \
         WHERE secret_hash = ? AND used_at IS NULL AND expires_at > ? \
         RETURNING id, group_name",
    )
    .bind(now)
    .bind(hash.as_bytes())
    .bind(now)
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let group: Option<String> = row.try_get(1)?;
    let group = group.map(|name| name.parse()).transpose();
    let group = group.map_err(|_| DbError::Unreadable("group"))?;
    Ok(Some(Claimed { id: row.try_get(0)?, group }))
}

pub(super) async fn record_user(tx: &mut Tx, token: Uuid, device: DeviceId) -> Result<(), DbError> {
    sqlx::query("UPDATE enrollment_tokens SET used_by = ? WHERE id = ?")
        .bind(device.as_uuid())
        .bind(token)
        .execute(tx.conn())
        .await?;
    Ok(())
}
