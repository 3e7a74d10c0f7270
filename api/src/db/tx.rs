//! A write transaction and the events that belong to it.
//!
//! Owns the rule that state and events are committed together. Dropping it rolls back.

use protocol::time::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use super::conn::Link;
use super::turns::Turn;
use super::{Conn, DbError};
use crate::audit::{self, Actor, Draft, Kind};
use crate::vault::Sealer;

/// A write transaction.
#[derive(Debug)]
pub struct Tx {
    conn: Conn,
    actor: Actor,
    now: Timestamp,
    drafts: Vec<Draft>,
    head: watch::Sender<i64>,
    /// Seals by the key that is in force in it, once it was asked for.
    pub(crate) sealer: Option<Sealer>,
    /// Given on after everything else of it.
    _turn: Turn,
}

impl Tx {
    pub(super) fn new(
        (conn, turn): (Conn, Turn),
        actor: Actor,
        now: Timestamp,
        head: watch::Sender<i64>,
    ) -> Self {
        Self { conn, actor, now, drafts: Vec::new(), head, sealer: None, _turn: turn }
    }

    /// When the transaction was asked for; every time it stores is this one.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Has it store another time: it waited for its turn, and what it writes is newer than it.
    pub(crate) const fn restamp(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Whose transaction it is.
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The connection, for the statements of a store.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Nobody waits for it: its statements may take long, and hold nobody else up.
    pub(crate) const fn is_patient(&mut self) {
        self.conn.is_patient();
    }

    /// Appends an event by the transaction's actor.
    pub fn append(&mut self, kind: Kind, subject: impl ToString, payload: Value) {
        let actor = self.actor.clone();
        self.append_by(actor, kind, subject, payload);
    }

    /// Appends an event by somebody else, such as one of many devices in a batch.
    pub fn append_by(&mut self, actor: Actor, kind: Kind, subject: impl ToString, payload: Value) {
        let subject = subject.to_string();
        self.drafts.push(Draft { at: self.now, actor, kind, subject, payload });
    }

    /// Commits state and events. After `Ok` both are on disk.
    pub async fn commit(mut self) -> Result<(), DbError> {
        let head = audit::append(&mut self.conn, &self.drafts).await?;
        match self.conn.link {
            Link::SqliteTx(tx) => tx.commit().await?,
            Link::Postgres(session) => session.commit(head).await?,
            Link::Sqlite(_) | Link::File(_) => return Err(DbError::Unreadable("transaction")),
        }
        if let Some(head) = head {
            raise(&self.head, head);
        }
        Ok(())
    }
}

/// Tells whoever follows the events of a newer one.
pub(super) fn raise(head: &watch::Sender<i64>, seq: i64) {
    head.send_if_modified(|seen| {
        let is_newer = seq > *seen;
        *seen = seq.max(*seen);
        is_newer
    });
}
