//! A write transaction and the events that belong to it.
//!
//! Owns the rule that state and events are committed together. Dropping it rolls back.

use protocol::time::Timestamp;
use serde_json::Value;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use super::DbError;
use crate::audit::{self, Actor, Draft, Kind};

/// A write transaction.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Sqlite>,
    actor: Actor,
    now: Timestamp,
    drafts: Vec<Draft>,
    head: watch::Sender<i64>,
}

impl Tx {
    pub(super) const fn new(
        inner: Transaction<'static, Sqlite>,
        actor: Actor,
        now: Timestamp,
        head: watch::Sender<i64>,
    ) -> Self {
        Self { inner, actor, now, drafts: Vec::new(), head }
    }

    /// When the transaction began; every time it stores is this one.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The connection, for the statements of a store.
    pub fn conn(&mut self) -> &mut SqliteConnection {
        &mut self.inner
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
        let head = audit::append(&mut self.inner, &self.drafts).await?;
        self.inner.commit().await?;
        if let Some(head) = head {
            self.head.send_if_modified(|seen| {
                let is_newer = head > *seen;
                *seen = head.max(*seen);
                is_newer
            });
        }
        Ok(())
    }
}
