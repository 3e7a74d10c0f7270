//! Which node of a shared store does which job: timed claims, in the store itself.
//!
//! Owns claiming, renewing and the fence. Clocks decide only who claims when: whether a node may
//! still write for a job is read inside the very transaction that writes, and write transactions
//! are serial, so a node that was paused beyond its claim writes nothing for it any more.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::time::Timestamp;
use uuid::Uuid;

use crate::app::App;
use crate::audit::Actor;
use crate::db::{Conn, DbError, Tx, millis, sql};

/// How long a claim lasts.
const LASTS: Duration = Duration::from_secs(6);
/// How often it is renewed, and others' are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The jobs that one node does for all.
pub(crate) const JOBS: [&str; 13] = [
    "checkpoints",
    crate::collections::JOB,
    "eviction",
    "expiry",
    "file sink",
    "first waves",
    crate::commands::FREEZE_JOB,
    "large orders",
    "redelivery",
    "syslog sink",
    "tidying",
    crate::vault::JOB,
    "webhook sink",
];

/// The claims of this node.
#[derive(Debug)]
pub struct Leases {
    node: String,
    /// This start of the node: two never have the same.
    holder: Uuid,
    held: Mutex<BTreeSet<&'static str>>,
}

/// This node's claim on a job, as far as it knows.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    job: &'static str,
    holder: Uuid,
}

impl Leases {
    /// No claims yet.
    pub const fn new(node: String, holder: Uuid) -> Self {
        Self { node, holder, held: Mutex::new(BTreeSet::new()) }
    }

    /// The claim on a job, if this node has it.
    pub fn of(&self, job: &'static str) -> Option<Lease> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.contains(job).then_some(Lease { job, holder: self.holder })
    }

    fn set(&self, job: &'static str, is_held: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let was_held = if is_held { !held.insert(job) } else { held.remove(job) };
        drop(held);
        if was_held != is_held {
            tracing::info!(job, is_held, "claim on a job changed");
        }
    }
}

impl Lease {
    /// Begins a write transaction for a run of the job that began `now`; `None` when another node
    /// has taken the job over.
    pub async fn write(self, app: &App, now: Timestamp) -> Result<Option<Tx>, DbError> {
        let mut tx = app.db.write(Actor::System, now).await?;
        let row = sql("SELECT 1 FROM job_leases WHERE name = $1 AND holder = $2")
            .bind(self.job)
            .bind(self.holder)
            .fetch_optional(tx.conn())
            .await?;
        if row.is_none() {
            app.leases.set(self.job, false);
        }
        tx.is_patient();
        Ok(row.map(|_| tx))
    }
}

/// Claims what nobody does, and renews, until the drain begins; then lets go.
pub(crate) async fn keep(app: App) -> Result<(), Infallible> {
    let mut is_first = true;
    loop {
        match claim(&app, is_first).await {
            Ok(()) => is_first = false,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "claims on jobs were not renewed");
            }
        }
        tokio::select! {
            biased;
            () = app.drain.soft().cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    if let Err(error) = release(&app).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "claims on jobs were left to run out");
    }
    Ok(())
}

/// One look. At its first, a node also takes what an earlier start of itself had: that is dead.
pub(crate) async fn claim(app: &App, is_first: bool) -> Result<(), DbError> {
    let now = app.now();
    let mut conn = app.db.read().await?;
    let kept = kept_by_others(&mut conn, app, is_first).await?;
    drop(conn);
    let free: Vec<_> = JOBS.into_iter().filter(|job| !kept.contains(*job)).collect();
    for job in JOBS.into_iter().filter(|job| kept.contains(*job)) {
        app.leases.set(job, false);
    }
    if free.is_empty() {
        return Ok(());
    }
    let mut tx = app.db.write(Actor::System, now).await?;
    // Read again inside the transaction: of two that look at once one takes it.
    let kept = kept_by_others(tx.conn(), app, is_first).await?;
    let taken: Vec<_> = free.into_iter().filter(|job| !kept.contains(*job)).collect();
    for job in &taken {
        sql("INSERT INTO job_leases (name, node, holder, expires_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE SET node = excluded.node, holder = excluded.holder, \
             expires_at = excluded.expires_at")
        .bind(*job)
        .bind(&app.leases.node)
        .bind(app.leases.holder)
        .bind(millis(now.plus(LASTS)))
        .execute(tx.conn())
        .await?;
    }
    tx.commit().await?;
    for job in taken {
        app.leases.set(job, true);
    }
    Ok(())
}

/// The jobs that other nodes have a claim on.
async fn kept_by_others(
    conn: &mut Conn,
    app: &App,
    is_first: bool,
) -> Result<BTreeSet<String>, DbError> {
    let mut select = sql("SELECT name FROM job_leases WHERE holder <> ");
    select.push_bind(app.leases.holder);
    select.push(" AND expires_at > ").push_bind(millis(app.now()));
    if is_first {
        select.push(" AND node <> ").push_bind(&app.leases.node);
    }
    select.fetch_all(conn).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Lets go of everything, so that another node need not wait.
async fn release(app: &App) -> Result<(), DbError> {
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    sql("DELETE FROM job_leases WHERE holder = $1")
        .bind(app.leases.holder)
        .execute(tx.conn())
        .await?;
    tx.commit().await
}
