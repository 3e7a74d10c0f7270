//! Lockdown: a switch in the store that only somebody on the server's console turns back.
//!
//! Owns its rows and what they forbid. No route turns it: whoever stole a token, or every token,
//! meets it and cannot lift it. Also how far the freeze has come that the brake orders with one.

use axum::http::Method;
use protocol::id::DeviceId;
use protocol::state::VerbClass;
use protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::audit::Kind;
use crate::db::{Conn, DbError, Tx, millis, sql, timestamp};
use crate::http::{Problem, ProblemKind};

/// What is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Orders that destroy.
    Destructive,
    /// Everything that changes anything, but what stops or withdraws.
    Everything,
}

impl Level {
    /// The level as the store and the command line spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Destructive => "destructive",
            Self::Everything => "everything",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Destructive, Self::Everything].into_iter().find(|level| level.as_str() == name)
    }
}

/// A lockdown in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockdown {
    /// What is stopped.
    pub level: Level,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

/// What is in force.
pub(crate) async fn in_force(conn: &mut Conn) -> Result<Vec<Lockdown>, DbError> {
    let rows = sql("SELECT level, since, reason FROM lockdowns ORDER BY level");
    let rows = rows.fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let level = Level::from_name(row.try_get(0)?);
            Ok(Lockdown {
                level: level.ok_or(DbError::Unreadable("lockdown"))?,
                since: timestamp(row.try_get(1)?),
                reason: row.try_get(2)?,
            })
        })
        .collect()
}

/// Begins it; whether it was not in force already.
pub(crate) async fn begin(tx: &mut Tx, level: Level, reason: &str) -> Result<bool, DbError> {
    if in_force(tx.conn()).await?.iter().any(|lockdown| lockdown.level == level) {
        return Ok(false);
    }
    let now = millis(tx.now());
    sql("INSERT INTO lockdowns (level, since, reason) VALUES ($1, $2, $3)")
        .bind(level.as_str())
        .bind(now)
        .bind(reason)
        .execute(tx.conn())
        .await?;
    tx.append(Kind::LockdownBegan, level.as_str(), json!({ "reason": reason }));
    Ok(true)
}

/// A freeze that belongs to a lockdown and has not reached every device.
#[derive(Debug)]
pub(crate) struct OwedFreeze {
    /// When it ends.
    pub(crate) until: Timestamp,
    /// Why there is a lockdown.
    pub(crate) reason: String,
    /// The last device that has it, in the order of their ids.
    pub(crate) after: Option<DeviceId>,
}

/// Has every device be frozen as well, as long as what destroys is locked down.
pub(crate) async fn owe_freeze(tx: &mut Tx, until: Timestamp) -> Result<(), DbError> {
    sql("UPDATE lockdowns SET freeze_until = $1, freeze_after = NULL WHERE level = $2")
        .bind(millis(until))
        .bind(Level::Destructive.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The freeze that is owed, if there is one.
pub(crate) async fn owed_freeze(conn: &mut Conn) -> Result<Option<OwedFreeze>, DbError> {
    let row = sql("SELECT freeze_until, reason, freeze_after FROM lockdowns \
         WHERE freeze_until IS NOT NULL")
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(OwedFreeze {
        until: timestamp(row.try_get(0)?),
        reason: row.try_get(1)?,
        after: row.try_get::<Option<Uuid>>(2)?.map(DeviceId::from_uuid),
    }))
}

/// Writes how far the freeze has come; `None`: it is owed to nobody any more.
pub(crate) async fn record_freeze(tx: &mut Tx, after: Option<DeviceId>) -> Result<(), DbError> {
    let statement = match after {
        Some(after) => sql("UPDATE lockdowns SET freeze_after = $1 WHERE freeze_until IS NOT NULL")
            .bind(after.as_uuid()),
        None => sql("UPDATE lockdowns SET freeze_until = NULL WHERE freeze_until IS NOT NULL"),
    };
    statement.execute(tx.conn()).await?;
    Ok(())
}

/// Ends whatever is in force, and answers it.
pub(crate) async fn end(tx: &mut Tx) -> Result<Vec<Lockdown>, DbError> {
    let ended = in_force(tx.conn()).await?;
    for lockdown in &ended {
        sql("DELETE FROM lockdowns WHERE level = $1")
            .bind(lockdown.level.as_str())
            .execute(tx.conn())
            .await?;
        tx.append(Kind::LockdownEnded, lockdown.level.as_str(), json!({}));
    }
    Ok(ended)
}

/// Whether an order of that class may be given or released now.
///
/// # Errors
/// [`ProblemKind::Locked`].
pub(crate) async fn admit(conn: &mut Conn, class: VerbClass) -> Result<(), Problem> {
    let stops = |lockdown: &Lockdown| match lockdown.level {
        Level::Everything => true,
        Level::Destructive => class == VerbClass::Destructive,
    };
    match in_force(conn).await?.into_iter().find(stops) {
        Some(lockdown) => Err(refusal(&lockdown.reason)),
        None => Ok(()),
    }
}

/// Whether a request may go on under a lockdown of everything: it looks, stops or withdraws.
pub(crate) fn spares(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET | Method::HEAD => true,
        Method::POST => ["/cancel", "/reject", "/withdraw"].iter().any(|end| path.ends_with(end)),
        Method::DELETE => path.starts_with("/v1/tokens/"),
        _ => false,
    }
}

/// What is answered in a lockdown.
pub(crate) fn refusal(reason: &str) -> Problem {
    let detail =
        format!("lockdown: {reason}. Only `tocsin lockdown off` on the server's console ends it");
    Problem::new(ProblemKind::Locked, detail)
}
