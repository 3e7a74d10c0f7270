//! Enrollment tokens in the store.

use std::net::IpAddr;

use protocol::id::{DeviceId, GroupName, PersonName};
use protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::{CreatedEnrollmentToken, Network};
use crate::audit::Kind;
use crate::auth::SecretHash;
use crate::db::{self, Conn, DbError, Tx, millis, sql};

pub(super) async fn insert(
    tx: &mut Tx,
    token: &CreatedEnrollmentToken,
    hash: &SecretHash,
    by: &PersonName,
) -> Result<(), DbError> {
    let now = millis(tx.now());
    let sources = serde_json::to_string(&token.from);
    let sources = sources.map_err(|_| DbError::Unreadable("network"))?;
    let sources = (!token.from.is_empty()).then_some(sources);
    sql("INSERT INTO enrollment_tokens \
         (id, secret_hash, group_name, created_by, created_at, expires_at, sources, simulated) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
    .bind(token.id)
    .bind(hash.as_bytes())
    .bind(token.group.as_ref().map(GroupName::as_str))
    .bind(by.as_str())
    .bind(now)
    .bind(millis(token.expires_at.0))
    .bind(sources)
    .bind(i64::from(token.simulated))
    .execute(tx.conn())
    .await?;
    let mut payload = json!({ "group": token.group, "expires_at": token.expires_at });
    if !token.from.is_empty() {
        payload["from"] = json!(token.from);
    }
    if token.simulated {
        payload["simulated"] = json!(true);
    }
    tx.append(Kind::EnrollmentTokenCreated, token.id, payload);
    Ok(())
}

/// What is known of a token that has not ended.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) id: Uuid,
    /// From where alone it may be used, if not from anywhere.
    sources: Option<Vec<Network>>,
    /// When it was used, and by which device.
    pub(super) used: Option<(i64, DeviceId)>,
}

impl Standing {
    /// Whether it may be used from there.
    pub(super) fn admits(&self, peer: IpAddr) -> bool {
        let sources = self.sources.as_ref();
        sources.is_none_or(|sources| sources.iter().any(|network| network.contains(peer)))
    }
}

/// A token that has not ended, used or not. For a reader: nobody unknown takes the only writer.
pub(super) async fn find(
    conn: &mut Conn,
    hash: &SecretHash,
    now: Timestamp,
) -> Result<Option<Standing>, DbError> {
    let row = sql("SELECT used_at, used_by, id, sources FROM enrollment_tokens \
         WHERE secret_hash = $1 AND expires_at > $2")
    .bind(hash.as_bytes())
    .bind(millis(now))
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let used_at: Option<i64> = row.try_get(0)?;
    let used_by = row.try_get::<Option<Uuid>>(1)?.map(DeviceId::from_uuid);
    let sources: Option<&str> = row.try_get(3)?;
    let sources = sources.map(|text| db::json(text, "network")).transpose()?;
    Ok(Some(Standing { id: row.try_get(2)?, sources, used: used_at.zip(used_by) }))
}

/// A token that was just used up.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) group: Option<GroupName>,
    pub(super) is_simulated: bool,
}

/// Uses a token up, in one step: of two claims at once exactly one gets it.
pub(super) async fn claim(tx: &mut Tx, hash: &SecretHash) -> Result<Option<Claimed>, DbError> {
    let now = millis(tx.now());
    let row = sql("UPDATE enrollment_tokens SET used_at = $1 \
         WHERE secret_hash = $2 AND used_at IS NULL AND expires_at > $3 \
         RETURNING id, group_name, simulated")
    .bind(now)
    .bind(hash.as_bytes())
    .bind(now)
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let group: Option<String> = row.try_get(1)?;
    let group = group.map(|name| name.parse()).transpose();
    let group = group.map_err(|_| DbError::Unreadable("group"))?;
    let is_simulated = row.try_get::<i64>(2)? != 0;
    Ok(Some(Claimed { id: row.try_get(0)?, group, is_simulated }))
}

pub(super) async fn record_user(tx: &mut Tx, token: Uuid, device: DeviceId) -> Result<(), DbError> {
    sql("UPDATE enrollment_tokens SET used_by = $1 WHERE id = $2")
        .bind(device.as_uuid())
        .bind(token)
        .execute(tx.conn())
        .await?;
    Ok(())
}
