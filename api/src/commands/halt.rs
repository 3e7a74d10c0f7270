//! Stopping what destroys: the switch on the console, and the brake that pulls it by itself.
//!
//! Owns what a lockdown does to orders that were given before it.

use protocol::time::Timestamp;

use super::cancel::withdraw;
use super::store;
use crate::app::App;
use crate::audit::Actor;
use crate::budgets;
use crate::db::{Db, DbError, Rank, Tx};
use crate::http::Problem;
use crate::lockdown::{self, Level, Lockdown};
use crate::metrics;

/// Begins a lockdown, and withdraws every destructive command that no device has on disk: of one
/// that was sent its device may say otherwise. Answers how many.
///
/// # Errors
/// When the store is not available.
pub async fn halt(
    db: &Db,
    now: Timestamp,
    level: Level,
    reason: &str,
) -> Result<Option<usize>, Problem> {
    begin(db, now, (level, None), reason).await
}

/// What the brake does: nothing that destroys leaves, or is on its way, and devices are told to
/// begin nothing that they have. That freeze is owed from here on, and given by its job.
pub(super) async fn brake(app: &App, why: &str) -> Result<(), Problem> {
    let lasts = app.policy.load().budgets.brake_freeze;
    let until = (!lasts.is_zero()).then(|| app.now().plus(lasts).whole_secs());
    begin(&app.db, app.now(), (Level::Destructive, until), why).await?;
    Ok(())
}

async fn begin(
    db: &Db,
    now: Timestamp,
    (level, frozen_until): (Level, Option<Timestamp>),
    reason: &str,
) -> Result<Option<usize>, Problem> {
    let mut tx = db.write_as(Rank::First, Actor::System, now).await?;
    if !lockdown::begin(&mut tx, level, reason).await? {
        return Ok(None);
    }
    if let Some(until) = frozen_until {
        lockdown::owe_freeze(&mut tx, until).await?;
    }
    let withdrawn = withdraw_destructive(&mut tx, reason).await?;
    tx.commit().await?;
    metrics::lockdown_began();
    tracing::error!(level = level.as_str(), reason, withdrawn, "lockdown began");
    Ok(Some(withdrawn))
}

/// Ends every lockdown, and answers what was in force. What was withdrawn stays so.
///
/// # Errors
/// When the store is not available.
pub async fn resume(db: &Db, now: Timestamp) -> Result<Vec<Lockdown>, DbError> {
    let mut tx = db.write_as(Rank::First, Actor::System, now).await?;
    let ended = lockdown::end(&mut tx).await?;
    budgets::release_brake(&mut tx).await?;
    tx.commit().await?;
    Ok(ended)
}

/// What is in force.
///
/// # Errors
/// When the store is not available.
pub async fn lockdowns(db: &Db) -> Result<Vec<Lockdown>, DbError> {
    lockdown::in_force(&mut db.read().await?).await
}

async fn withdraw_destructive(tx: &mut Tx, reason: &str) -> Result<usize, Problem> {
    let why = format!("lockdown: {reason}");
    let mut count = 0;
    for known in store::undelivered_destructive(tx.conn()).await? {
        count += usize::from(withdraw(tx, &known, &why).await?);
    }
    store::preparations::withdraw_destructive(tx, &why).await?;
    Ok(count)
}
