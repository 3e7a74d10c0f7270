//! The audit log: every change of state as an event, chained by hashes.
//!
//! Owns the form of events, their hashing, appending and checking. Each event's hash covers its
//! predecessor's, so that nobody alters, removes or inserts one without breaking every later one.
//! Appending happens in the transaction of the change itself, never beside it.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use protocol::id::{DeviceId, PersonName};
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::db::{Conn, DbError, millis, sql};

pub use self::chain::{
    BrokenChain, ChainError, ChainHead, Marks, mark, verify_chain, verify_db, verify_json_lines,
    verify_store,
};
pub(crate) use self::chain::{event_of, verify_events};
pub use self::kind::Kind;

mod chain;
mod kind;
#[cfg(test)]
mod tests;

/// Values of a row.
const VALUES: usize = 8;

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A person, through an API token.
    Operator(PersonName),
    /// A device.
    Device(DeviceId),
    /// The control plane by itself: a job, the first start.
    System,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator:{name}"),
            Self::Device(id) => write!(f, "device:{id}"),
            Self::System => f.write_str("system"),
        }
    }
}

/// An event that is not in the chain yet.
#[derive(Debug, Clone)]
pub struct Draft {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What happened.
    pub kind: Kind,
    /// To what: a bare id, or a name.
    pub subject: String,
    /// The particulars.
    pub payload: Value,
}

/// An event of the chain, exactly as it is stored and exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Its place, counting from 1 without gaps.
    pub seq: i64,
    /// Milliseconds since the Unix epoch: the hashed form, not a text.
    pub at: i64,
    /// Who: `operator:<name>`, `device:<id>` or `system`.
    pub actor: String,
    /// What happened.
    pub kind: String,
    /// To what.
    pub subject: String,
    /// The particulars, as the exact JSON text that is hashed.
    pub payload: String,
    /// Hash of the event before, 64 hex digits; of the first: zeros.
    pub prev_hash: String,
    /// Hash of this event, 64 hex digits.
    pub hash: String,
}

impl Event {
    /// The hash that this event must have: SHA-256 over its fields, each with its length (64-bit
    /// big-endian) before it.
    pub fn compute_hash(&self) -> String {
        let mut context = Context::new(&SHA256);
        let seq = self.seq.to_be_bytes();
        let at = self.at.to_be_bytes();
        let fields: [&[u8]; 7] = [
            &seq,
            &at,
            self.actor.as_bytes(),
            self.kind.as_bytes(),
            self.subject.as_bytes(),
            self.payload.as_bytes(),
            self.prev_hash.as_bytes(),
        ];
        for field in fields {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            context.update(&length.to_be_bytes());
            context.update(field);
        }
        hex(context.finish().as_ref())
    }
}

/// Bytes as lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The newest event's place and hash.
pub(crate) async fn head(conn: &mut Conn) -> Result<ChainHead, DbError> {
    let row = sql("SELECT seq, hash FROM events WHERE seq = (SELECT MAX(seq) FROM events)")
        .fetch_optional(conn)
        .await?;
    match row {
        None => Ok(ChainHead::genesis()),
        Some(row) => Ok(ChainHead { seq: row.try_get(0)?, hash: row.try_get(1)? }),
    }
}

/// How many events of that kind there are about something.
pub(crate) async fn count_about(
    conn: &mut Conn,
    subject: impl ToString,
    kind: Kind,
) -> Result<i64, DbError> {
    let row = sql("SELECT COUNT(*) FROM events WHERE subject = $1 AND kind = $2")
        .bind(subject.to_string())
        .bind(kind.as_str())
        .fetch_one(conn)
        .await?;
    row.try_get(0)
}

/// How many events of that kind there are about each of some things; those with none are left out.
pub(crate) async fn count_about_each<T: ToString>(
    conn: &mut Conn,
    subjects: &[T],
    kind: Kind,
) -> Result<BTreeMap<String, i64>, DbError> {
    let mut select = sql("SELECT subject, COUNT(*) FROM events WHERE kind = ");
    select.push_bind(kind.as_str()).push(" AND subject IN ");
    select.push_list(subjects.iter().map(ToString::to_string)).push(" GROUP BY subject");
    let rows = select.fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The particulars of the newest event of that kind about something.
pub(crate) async fn latest_about(
    conn: &mut Conn,
    subject: impl ToString,
    kind: Kind,
) -> Result<Option<Value>, DbError> {
    let row = sql("SELECT payload FROM events WHERE subject = $1 AND kind = $2 \
         ORDER BY seq DESC LIMIT 1")
    .bind(subject.to_string())
    .bind(kind.as_str())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let payload: &str = row.try_get(0)?;
    serde_json::from_str(payload).map(Some).map_err(|_| DbError::Unreadable("event"))
}

/// Chains drafts to the newest event, and answers the new head; `None` when there are none.
pub(crate) async fn append(conn: &mut Conn, drafts: &[Draft]) -> Result<Option<i64>, DbError> {
    if drafts.is_empty() {
        return Ok(None);
    }
    let mut head = head(conn).await?;
    for rows in drafts.chunks(conn.rows_at_once(drafts.len(), VALUES)) {
        let events = rows.iter().map(|draft| chained(draft, &mut head)).collect::<Vec<_>>();
        let mut insert =
            sql("INSERT INTO events (seq, at, actor, kind, subject, payload, prev_hash, hash) ");
        insert.push_rows(events, |row, event| {
            row.push_bind(event.seq)
                .push_bind(event.at)
                .push_bind(event.actor)
                .push_bind(event.kind)
                .push_bind(event.subject)
                .push_bind(event.payload)
                .push_bind(event.prev_hash)
                .push_bind(event.hash);
        });
        insert.execute(&mut *conn).await?;
    }
    Ok(Some(head.seq))
}

fn chained(draft: &Draft, head: &mut ChainHead) -> Event {
    let mut event = Event {
        seq: head.seq + 1,
        at: millis(draft.at),
        actor: draft.actor.to_string(),
        kind: draft.kind.as_str().to_owned(),
        subject: draft.subject.clone(),
        payload: draft.payload.to_string(),
        prev_hash: std::mem::take(&mut head.hash),
        hash: String::new(),
    };
    event.hash = event.compute_hash();
    *head = ChainHead { seq: event.seq, hash: event.hash.clone() };
    event
}
