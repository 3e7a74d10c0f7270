//! Who the provider's subjects are here, and which id tokens were used.

use protocol::id::PersonName;
use serde_json::json;
use uuid::Uuid;

use crate::audit::Kind;
use crate::db::{Conn, DbError, Tx, millis, sql};
use crate::operators::ApiTokenView;

pub(super) async fn operator(
    conn: &mut Conn,
    issuer: &str,
    subject: &str,
) -> Result<Option<PersonName>, DbError> {
    let row = sql("SELECT operator FROM identities WHERE issuer = $1 AND subject = $2")
        .bind(issuer)
        .bind(subject)
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let name: String = row.try_get(0)?;
    name.parse().map(Some).map_err(|_| DbError::Unreadable("operator"))
}

/// Makes the operator who that subject is; `false` when somebody else has the name.
pub(super) async fn bind(
    tx: &mut Tx,
    (issuer, subject): (&str, &str),
    name: &PersonName,
) -> Result<bool, DbError> {
    let now = millis(tx.now());
    let made =
        sql("INSERT INTO operators (name, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name.as_str())
            .bind(now)
            .execute(tx.conn())
            .await?;
    if made == 0 {
        return Ok(false);
    }
    sql("INSERT INTO identities (issuer, subject, operator, created_at) VALUES ($1, $2, $3, $4)")
        .bind(issuer)
        .bind(subject)
        .bind(name.as_str())
        .bind(now)
        .execute(tx.conn())
        .await?;
    tx.append(Kind::OperatorCreated, name, json!({ "issuer": issuer, "subject": subject }));
    Ok(true)
}

pub(super) async fn is_used(conn: &mut Conn, hash: &[u8]) -> Result<bool, DbError> {
    let row = sql("SELECT 1 FROM api_tokens WHERE id_token_hash = $1").bind(hash.to_vec());
    Ok(row.fetch_optional(conn).await?.is_some())
}

pub(super) async fn record_use(tx: &mut Tx, token: Uuid, hash: &[u8]) -> Result<(), DbError> {
    sql("UPDATE api_tokens SET id_token_hash = $1 WHERE id = $2")
        .bind(hash.to_vec())
        .bind(token)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Revokes what sign-ins gave somebody, and says how many.
pub(super) async fn end_tokens(tx: &mut Tx, operator: &PersonName) -> Result<u64, DbError> {
    let now = millis(tx.now());
    sql("UPDATE api_tokens SET revoked_at = $1 WHERE operator = $2 \
         AND id_token_hash IS NOT NULL AND revoked_at IS NULL AND expires_at > $1")
    .bind(now)
    .bind(operator.as_str())
    .execute(tx.conn())
    .await
}

/// Revokes what earlier sign-ins gave the same person, where it is not the same as this.
pub(super) async fn end_other_tokens(tx: &mut Tx, token: &ApiTokenView) -> Result<(), DbError> {
    let now = millis(tx.now());
    let scopes = serde_json::to_string(&token.scopes).map_err(|_| DbError::Unreadable("scope"))?;
    sql("UPDATE api_tokens SET revoked_at = $1 WHERE operator = $2 AND scopes <> $3 \
         AND id_token_hash IS NOT NULL AND revoked_at IS NULL AND expires_at > $1")
    .bind(now)
    .bind(token.operator.as_str())
    .bind(scopes)
    .execute(tx.conn())
    .await?;
    Ok(())
}
