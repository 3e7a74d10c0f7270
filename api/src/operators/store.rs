//! Operators and API tokens in the store.

use std::num::NonZeroU32;

use protocol::id::PersonName;
use serde_json::json;
use uuid::Uuid;

use super::{ApiTokenView, OperatorView};
use crate::audit::Kind;
use crate::auth::SecretHash;
use crate::db::{self, Conn, DbError, Tx, millis, sql, timestamp};
use crate::http::Page;
use crate::time::Time;

const UNREADABLE: DbError = DbError::Unreadable("role");

pub(super) async fn ensure_operator(tx: &mut Tx, name: &PersonName) -> Result<(), DbError> {
    let now = millis(tx.now());
    let done =
        sql("INSERT INTO operators (name, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name.as_str())
            .bind(now)
            .execute(tx.conn())
            .await?;
    if done == 1 {
        tx.append(Kind::OperatorCreated, name, json!({}));
    }
    Ok(())
}

pub(super) async fn insert_token(
    tx: &mut Tx,
    token: &ApiTokenView,
    hash: &SecretHash,
) -> Result<(), DbError> {
    let scopes = serde_json::to_string(&token.scopes).map_err(|_| DbError::Unreadable("scope"))?;
    sql("INSERT INTO api_tokens \
         (id, operator, label, secret_hash, scopes, created_at, expires_at, role, rate_per_min, \
         service) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
    .bind(token.id)
    .bind(token.operator.as_str())
    .bind(&token.label)
    .bind(hash.as_bytes())
    .bind(scopes)
    .bind(millis(token.created_at.0))
    .bind(millis(token.expires_at.0))
    .bind(token.role.as_ref().map(ToString::to_string))
    .bind(token.rate_per_min.map(i64::from))
    .bind(i64::from(token.service))
    .execute(tx.conn())
    .await?;
    let payload = json!({
        "operator": token.operator,
        "scopes": token.scopes,
        "role": token.role,
        "service": token.service,
        "expires_at": token.expires_at,
    });
    tx.append(Kind::ApiTokenCreated, token.id, payload);
    Ok(())
}

pub(super) async fn operators(
    conn: &mut Conn,
    page: &Page<PersonName>,
) -> Result<Vec<OperatorView>, DbError> {
    let rows = sql("SELECT name, created_at, \
         (SELECT COUNT(*) FROM factors WHERE operator = name AND secret IS NOT NULL) \
         FROM operators WHERE name > $1 ORDER BY name LIMIT $2")
    .bind(page.after.as_ref().map_or("", PersonName::as_str))
    .bind(page.rows())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let name: String = row.try_get(0)?;
            Ok(OperatorView {
                name: name.parse().map_err(|_| DbError::Unreadable("operator"))?,
                created_at: timestamp(row.try_get(1)?).into(),
                has_factor: row.try_get::<i64>(2)? > 0,
            })
        })
        .collect()
}

pub(super) async fn tokens(
    conn: &mut Conn,
    page: &Page<Uuid>,
    whose: Option<&PersonName>,
) -> Result<Vec<ApiTokenView>, DbError> {
    let mut select =
        sql("SELECT id, operator, label, scopes, created_at, expires_at, revoked_at, \
         role, rate_per_min, last_used_at, service FROM api_tokens WHERE id > ");
    select.push_bind(page.after.unwrap_or_default());
    if let Some(operator) = whose {
        select.push(" AND operator = ").push_bind(operator.as_str().to_owned());
    }
    select.push(" ORDER BY id LIMIT ").push_bind(page.rows());
    let rows = select.fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let operator: String = row.try_get(1)?;
            let role: Option<String> = row.try_get(7)?;
            Ok(ApiTokenView {
                id: row.try_get(0)?,
                operator: operator.parse().map_err(|_| DbError::Unreadable("operator"))?,
                label: row.try_get(2)?,
                scopes: db::json(row.try_get(3)?, "scope")?,
                created_at: timestamp(row.try_get(4)?).into(),
                expires_at: timestamp(row.try_get(5)?).into(),
                revoked_at: row.try_get::<Option<i64>>(6)?.map(|at| Time(timestamp(at))),
                role: role.map(|role| role.parse()).transpose().map_err(|_| UNREADABLE)?,
                rate_per_min: db::rate(row.try_get(8)?)?.map(NonZeroU32::get),
                last_used_at: row.try_get::<Option<i64>>(9)?.map(|at| Time(timestamp(at))),
                service: row.try_get::<i64>(10)? != 0,
            })
        })
        .collect()
}

pub(super) async fn revoke_token(
    tx: &mut Tx,
    id: Uuid,
    whose: Option<&PersonName>,
) -> Result<bool, DbError> {
    let now = millis(tx.now());
    let mut update = sql("UPDATE api_tokens SET revoked_at = ");
    update.push_bind(now).push(" WHERE revoked_at IS NULL AND id = ").push_bind(id);
    if let Some(operator) = whose {
        update.push(" AND operator = ").push_bind(operator.as_str().to_owned());
    }
    Ok(update.execute(tx.conn()).await? == 1)
}
