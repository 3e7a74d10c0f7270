//! Second factors in the store: one row of each person who has, had or may add one.

use protocol::id::PersonName;
use protocol::time::Timestamp;
use uuid::Uuid;

use super::kept::Kept;
use super::totp::TotpSecret;
use crate::auth::SecretHash;
use crate::db::{Conn, DbError, Tx, millis, sql, timestamp};
use crate::vault::{FACTOR, PENDING_FACTOR};

/// What is known of a person's second factor.
#[derive(Debug)]
pub(super) struct Factor {
    /// The one that counts.
    pub(super) secret: Option<Kept>,
    /// Since when.
    pub(super) confirmed_at: Option<Timestamp>,
    /// The step of the last code that was taken.
    pub(super) last_step: i64,
    /// One that was added, and of which no code was seen.
    pub(super) pending: Option<Pending>,
    /// What lets its person add one, and until when.
    pub(super) invitation: Option<(Vec<u8>, Timestamp)>,
    /// Codes that were refused since the last that was taken.
    pub(super) failures: u32,
    /// Until when no code is taken.
    pub(super) locked_until: Option<Timestamp>,
}

/// A factor that was added.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) secret: Kept,
    /// Until when it can be confirmed.
    ends: Timestamp,
    /// By whom alone.
    token: Uuid,
}

impl Pending {
    /// Whether it still waits, for that token.
    pub(super) fn waits_for(&self, token: Uuid, now: Timestamp) -> bool {
        self.token == token && now < self.ends
    }
}

impl Factor {
    /// Whether that is the invitation, and it is not over.
    pub(super) fn is_invited(&self, code: &str, now: Timestamp) -> bool {
        let is_it =
            |(hash, ends): &(Vec<u8>, Timestamp)| SecretHash::of(code).matches(hash) && now < *ends;
        self.invitation.as_ref().is_some_and(is_it)
    }
}

pub(super) async fn find(
    conn: &mut Conn,
    operator: &PersonName,
) -> Result<Option<Factor>, DbError> {
    let row = sql("SELECT secret, confirmed_at, last_step, pending, invitation_hash, \
         invitation_ends, failures, locked_until, pending_ends, pending_token FROM factors \
         WHERE operator = $1")
    .bind(operator.as_str())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let secret = |index| Ok::<_, DbError>(row.try_get::<Option<String>>(index)?.map(Kept));
    let time = |index| Ok::<_, DbError>(row.try_get::<Option<i64>>(index)?.map(timestamp));
    let invitation: Option<Vec<u8>> = row.try_get(4)?;
    let token: Option<Uuid> = row.try_get(9)?;
    let pending = secret(3)?.zip(time(8)?).zip(token);
    Ok(Some(Factor {
        secret: secret(0)?,
        confirmed_at: time(1)?,
        last_step: row.try_get(2)?,
        pending: pending.map(|((secret, ends), token)| Pending { secret, ends, token }),
        invitation: invitation.zip(time(5)?),
        failures: row.number(6)?,
        locked_until: time(7)?,
    }))
}

pub(super) async fn is_operator(conn: &mut Conn, name: &PersonName) -> Result<bool, DbError> {
    let row = sql("SELECT 1 FROM operators WHERE name = $1").bind(name.as_str());
    Ok(row.fetch_optional(conn).await?.is_some())
}

/// Lets somebody add a factor; whatever waited to be confirmed is gone.
pub(super) async fn invite(
    tx: &mut Tx,
    operator: &PersonName,
    hash: &SecretHash,
    ends: Timestamp,
) -> Result<(), DbError> {
    sql("INSERT INTO factors (operator, last_step, invitation_hash, invitation_ends, failures) \
         VALUES ($1, 0, $2, $3, 0) ON CONFLICT (operator) DO UPDATE SET pending = NULL, \
         failures = 0, locked_until = NULL, invitation_hash = excluded.invitation_hash, invitation_ends = excluded.invitation_ends")
    .bind(operator.as_str())
    .bind(hash.as_bytes())
    .bind(millis(ends))
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(super) async fn add(
    tx: &mut Tx,
    operator: &PersonName,
    secret: &TotpSecret,
    (token, ends): (Uuid, Timestamp),
) -> Result<(), DbError> {
    let kept = Kept::of(tx, &PENDING_FACTOR, operator, secret).await?;
    sql("UPDATE factors SET pending = $1, pending_token = $2, pending_ends = $3 \
         WHERE operator = $4")
    .bind(kept.0)
    .bind(token)
    .bind(millis(ends))
    .bind(operator.as_str())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What was added counts, from a step on, and what was given with another one does not any more.
pub(super) async fn confirm(
    tx: &mut Tx,
    operator: &PersonName,
    (secret, step): (&TotpSecret, i64),
) -> Result<(), DbError> {
    let now = millis(tx.now());
    let kept = Kept::of(tx, &FACTOR, operator, secret).await?;
    sql("UPDATE factors SET secret = $1, pending = NULL, pending_token = NULL, \
         pending_ends = NULL, confirmed_at = $2, last_step = $3, invitation_hash = NULL, \
         invitation_ends = NULL, failures = 0, locked_until = NULL WHERE operator = $4")
    .bind(kept.0)
    .bind(now)
    .bind(step)
    .bind(operator.as_str())
    .execute(tx.conn())
    .await?;
    end_step_ups(tx, operator).await
}

pub(super) async fn remove(tx: &mut Tx, operator: &PersonName) -> Result<(), DbError> {
    sql("DELETE FROM factors WHERE operator = $1")
        .bind(operator.as_str())
        .execute(tx.conn())
        .await?;
    end_step_ups(tx, operator).await
}

async fn end_step_ups(tx: &mut Tx, operator: &PersonName) -> Result<(), DbError> {
    sql("UPDATE api_tokens SET stepped_up_until = NULL \
         WHERE operator = $1 AND stepped_up_until IS NOT NULL")
    .bind(operator.as_str())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A code of that step is used up; whether it was not before.
pub(super) async fn use_up(tx: &mut Tx, operator: &PersonName, step: i64) -> Result<bool, DbError> {
    let done = sql("UPDATE factors SET last_step = $1, failures = 0, locked_until = NULL \
         WHERE operator = $2 AND last_step < $1")
    .bind(step)
    .bind(operator.as_str())
    .execute(tx.conn())
    .await?;
    Ok(done == 1)
}

pub(super) async fn fail(
    tx: &mut Tx,
    operator: &PersonName,
    failures: u32,
    locked_until: Option<Timestamp>,
) -> Result<(), DbError> {
    sql("UPDATE factors SET failures = $1, locked_until = $2 WHERE operator = $3")
        .bind(i64::from(failures))
        .bind(locked_until.map(millis))
        .bind(operator.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

pub(super) async fn step_up(tx: &mut Tx, token: Uuid, until: Timestamp) -> Result<(), DbError> {
    sql("UPDATE api_tokens SET stepped_up_until = $1 WHERE id = $2")
        .bind(millis(until))
        .bind(token)
        .execute(tx.conn())
        .await?;
    Ok(())
}
