//! Which commands sessions took, on the way into the store.
//!
//! Owns what was sent and is not written down yet. It is written with what its device says next, or
//! shortly after, whichever comes first: no sending waits for a commit. What is lost of it is sent
//! again, which does no harm. Whoever has only just been sent to answers in a moment, and its command is
//! not written twice for that.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
/// How long they wait for their devices, at least, and twice as long at most.
const WAIT: Duration = Duration::from_millis(200);

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    waiting: Mutex<Waiting>,
    news: Notify,
}

/// What waits to be written down.
#[derive(Debug, Default)]
struct Waiting {
    /// When the last of them was sent.
    at: Option<Timestamp>,
    /// Those whose devices had time to answer.
    settled: Vec<CommandId>,
    fresh: Vec<CommandId>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.settled.len() + self.fresh.len()
    }

    /// Takes those that are named, and so many of the settled others.
    fn take(&mut self, most: usize, named: &BTreeSet<CommandId>) -> Batch {
        let mut ids = Vec::new();
        for of in [&mut self.settled, &mut self.fresh] {
            ids.extend(of.extract_if(.., |id| named.contains(id)));
        }
        let room = most.saturating_sub(ids.len()).min(self.settled.len());
        ids.extend(self.settled.drain(..room));
        let at = self.at.filter(|_| !ids.is_empty());
        Batch { at, ids }
    }

    /// From now on all of them count as settled.
    fn settle(&mut self) {
        self.settled.append(&mut self.fresh);
    }
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
        let mut waiting = self.lock();
        let room = WAITING.saturating_sub(waiting.len());
        waiting.fresh.extend(ids.into_iter().take(room));
        if waiting.len() == 0 {
            return;
        }
        waiting.at = Some(now);
        drop(waiting);
        self.news.notify_one();
    }

    /// How many wait to be written down.
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest of them, so many at most.
    fn take(&self, most: usize) -> Batch {
        let mut waiting = self.lock();
        waiting.settle();
        waiting.take(most, &BTreeSet::new())
    }

    /// Whether there are some whose devices had time to answer. If not, all have it from now on.
    fn has_settled(&self) -> bool {
        let mut waiting = self.lock();
        let has_settled = !waiting.settled.is_empty();
        if !has_settled {
            waiting.settle();
        }
        has_settled
    }

    /// Those whose devices had time to answer, so many at most. After the last of them what came since has
    /// it from now on.
    fn take_settled(&self, most: usize) -> Batch {
        let mut waiting = self.lock();
        let batch = waiting.take(most, &BTreeSet::new());
        if batch.ids.len() < most {
            waiting.settle();
        }
        batch
    }

    /// Those that are named, and the oldest of the others that had time, up to so many in all.
    fn take_with(&self, most: usize, named: &BTreeSet<CommandId>) -> Batch {
        self.lock().take(most, named)
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
        while app.sent.waiting() > 0 && !app.drain.soft().is_cancelled() {
            tokio::time::sleep(WAIT).await;
            write_settled(&app).await;
        }
    }
}

/// Writes down what devices had time to answer, and did not.
async fn write_settled(app: &App) {
    while app.sent.has_settled() && write_taken(app, Sent::take_settled).await == PIECE {}
}

/// Writes down a piece of what waits, and answers how many those were. They are taken only when it is our turn
/// to write: whoever withdraws commands goes first, and must find what has left.
async fn write_taken(app: &App, take: fn(&Sent, usize) -> Batch) -> usize {
    let written = async {
        let mut tx = app.db.write(Actor::System, app.now()).await?;
        let Batch { at: Some(at), ids } = take(&app.sent, PIECE) else { return Ok(0) };
        record(&mut tx, at, &ids).await?;
        tx.commit().await?;
        Ok::<_, DbError>(ids.len())
    };
    written.await.unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "sending was not written down");
        0
    })
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
    while app.sent.waiting() > 0 && write_taken(app, Sent::take).await == PIECE {}
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
