//! Which commands sessions took, on the way into the store.
//!
//! Owns what was sent and is not written down yet. It is written with what devices say next, or
//! shortly after, whichever comes first: no sending waits for a commit. What is lost of it is sent
//! again, which does no harm.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::id::CommandId;
use protocol::time::Timestamp;
use serde_json::json;
use tokio::sync::Notify;

use super::store::delivery;
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::{DbError, Tx};

/// Commands that may wait to be written down. Beyond it they are sent again.
const WAITING: usize = 100_000;
/// Of them in one transaction beside other things, or alone.
const PIECE: usize = 500;
/// How long they wait for something else to be written.
const WAIT: Duration = Duration::from_millis(20);

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    waiting: Mutex<Batch>,
    news: Notify,
}

/// Commands, and when the last of them was sent: they are sent again counting from there.
#[derive(Debug, Default)]
struct Batch {
    at: Option<Timestamp>,
    ids: Vec<CommandId>,
}

impl Sent {
    /// Sessions took those.
    pub(super) fn note(&self, now: Timestamp, ids: impl IntoIterator<Item = CommandId>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = WAITING.saturating_sub(waiting.ids.len());
        waiting.ids.extend(ids.into_iter().take(room));
        if waiting.ids.is_empty() {
            return;
        }
        waiting.at = Some(now);
        drop(waiting);
        self.news.notify_one();
    }

    /// How many wait to be written down.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).ids.len()
    }

    /// The oldest of them, so many at most.
    fn take(&self, most: usize) -> Batch {
        self.take_with(most, &BTreeSet::new())
    }

    /// Those that are named, and the oldest of the others up to so many in all.
    fn take_with(&self, most: usize, named: &BTreeSet<CommandId>) -> Batch {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.ids.len() <= most {
            return std::mem::take(&mut *waiting);
        }
        let ids = std::mem::take(&mut waiting.ids);
        let (mut taken, others): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| named.contains(id));
        let mut others = others.into_iter();
        taken.extend(others.by_ref().take(most.saturating_sub(taken.len())));
        waiting.ids.extend(others);
        Batch { at: waiting.at, ids: taken }
    }
}

/// Writes down what was sent until the drain begins.
pub(crate) async fn write_sent(app: App) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => return Ok(()),
            () = app.sent.news.notified() => {}
        }
        tokio::time::sleep(WAIT).await;
        flush_sent(&app).await;
    }
}

/// Writes at once that sessions took those, then.
pub(super) async fn write(app: &App, at: Timestamp, ids: &[CommandId]) -> Result<(), DbError> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    record(&mut tx, at, ids).await?;
    tx.commit().await
}

/// Writes down what waits, at the end.
pub(crate) async fn flush_sent(app: &App) {
    while let Batch { at: Some(at), ids } = app.sent.take(PIECE) {
        if let Err(error) = write(app, at, &ids).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "sending was not written down");
        }
    }
}

/// Writes what waits down in a transaction of the caller, who ends or withdraws commands: one that
/// has left is not taken for one that has not.
pub(crate) async fn record_waiting(app: &App, tx: &mut Tx) -> Result<(), DbError> {
    let Batch { at: Some(at), ids } = app.sent.take(WAITING) else { return Ok(()) };
    record(tx, at, &ids).await
}

/// What waits of those that are named, which the caller writes down with what it knows of them. Some of
/// what else waits is written down in its transaction. The rest follows: the transaction is to be a short one.
pub(super) async fn take_with(
    app: &App,
    tx: &mut Tx,
    named: &BTreeSet<CommandId>,
) -> Result<Option<(Timestamp, BTreeSet<CommandId>)>, DbError> {
    let Batch { at: Some(at), ids } = app.sent.take_with(PIECE, named) else { return Ok(None) };
    let (taken, others): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| named.contains(id));
    record(tx, at, &others).await?;
    Ok(Some((at, taken.into_iter().collect())))
}

/// Writes in a transaction of the caller that sessions took those, then.
pub(super) async fn record(tx: &mut Tx, at: Timestamp, ids: &[CommandId]) -> Result<(), DbError> {
    for id in delivery::mark_sent(tx, at, ids).await? {
        tx.append(Kind::CommandSent, id, json!({}));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
