//! The job: everything that is sealed is sealed by the present key, in time.
//!
//! Owns when a data key follows another, and the pass that goes through the store after that. A
//! pass keeps no record of how far it is: what it has done is told by the texts themselves, so one
//! that was killed, or whose node lost the job, is begun again and finds only the rest. At its end
//! the former keys are forgotten, and with the first one of a store whatever lay in the clear.

use std::sync::Arc;

use protocol::time::Timestamp;
use serde_json::json;

use super::store::{self, KeyRow, RowKey};
use super::{CLEAR, Column, SEALED};
use crate::app::App;
use crate::audit::Kind;
use crate::db::{DbError, timestamp};
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;
use crate::metrics;

/// The name of the job, which one node does for all.
pub(crate) const JOB: &str = "vault";
/// Texts of one write transaction: orders wait for its end.
const BATCH: i64 = 100;

/// Reads the keys anew, and, where the job is this node's, goes through the store.
pub(crate) async fn keep(app: App) -> Result<Found, Problem> {
    app.db.refresh_vault().await?;
    let Some(lease) = app.leases.of(JOB) else { return Ok(Found::Nothing) };
    let keys = store::keys(&mut app.db.read().await?).await?;
    let now = app.now();
    if is_due(&app, &keys, now) {
        if let Some(mut tx) = lease.write(&app, now).await? {
            let id = app.db.make_next(&mut tx).await?;
            tx.commit().await?;
            tracing::info!(data_key = id, "the data key of the vault was rotated");
        }
        return Ok(Found::More);
    }
    pass(&app, lease, keys).await
}

fn is_due(app: &App, keys: &[KeyRow], now: Timestamp) -> bool {
    let every = app.config.vault.rotate_every;
    keys.iter().any(|key| key.is_present && timestamp(key.created_at).plus(every) <= now)
}

/// Goes through every column once, if there is a key to be forgotten.
async fn pass(app: &App, lease: Lease, keys: Vec<KeyRow>) -> Result<Found, Problem> {
    let (present, former): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.is_present);
    let former: Vec<_> = former.into_iter().map(|key| key.id).collect();
    let Some(present) = present.first().filter(|_| !former.is_empty()) else {
        metrics::vault_waiting(0);
        return Ok(Found::Nothing);
    };
    let vault = app.db.vault().opened().map_err(DbError::Vault)?;
    if vault.stuck.load().as_deref() == Some(&present.id) {
        return Ok(Found::Nothing);
    }
    let mark = super::seal::mark(&present.id);
    let mut is_whole = true;
    // For people only: a count that takes too long keeps nothing from being sealed.
    let counted = store::count_stale(&mut app.db.read().await?, &mark).await;
    let mut waiting = counted.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "texts to seal were not counted");
        0
    });
    metrics::vault_waiting(waiting);
    tracing::info!(texts = waiting, data_key = present.id, "sealing texts by the present key");
    for column in &SEALED {
        let mut after: Option<RowKey> = None;
        loop {
            if app.drain.is_draining() {
                return Ok(Found::Nothing);
            }
            let begin = (mark.as_str(), after.as_ref(), BATCH);
            let texts = store::stale(&mut app.db.read().await?, column, begin).await?;
            let Some((last, _)) = texts.last() else { break };
            after = Some(last.clone());
            let Some(sealed) = seal(app, lease, column, &texts).await? else {
                return Ok(Found::Nothing);
            };
            is_whole &= sealed.is_whole;
            waiting = waiting.saturating_sub(sealed.texts);
            metrics::vault_waiting(waiting);
        }
    }
    if !is_whole {
        // The former keys stay: what was moved can be moved back.
        vault.stuck.store(Some(Arc::new(present.id.clone())));
        return Ok(Found::Nothing);
    }
    if former.iter().any(|id| id == CLEAR) && !app.db.empty_log().await? {
        tracing::warn!("the store is in use, and what lay in the clear is not overwritten yet");
        return Ok(Found::Nothing);
    }
    forget(app, lease, &present.id, &former).await
}

/// What came of a batch.
#[derive(Debug, Default)]
struct Sealed {
    texts: u64,
    is_whole: bool,
}

/// Seals texts anew; `None` when the job is another node's by now.
async fn seal(
    app: &App,
    lease: Lease,
    column: &Column,
    texts: &[(RowKey, String)],
) -> Result<Option<Sealed>, DbError> {
    let Some(mut tx) = lease.write(app, app.now()).await? else { return Ok(None) };
    let sealer = tx.sealer().await?;
    let mark = sealer.mark();
    let mut sealed = Sealed { texts: 0, is_whole: true };
    for (row, former) in texts.iter().filter(|(_, text)| !text.starts_with(&mark)) {
        let bytes = match tx.conn().unseal(column, row, former).await {
            Ok(bytes) => bytes,
            // One that somebody altered must not keep the others from being sealed.
            Err(DbError::Vault(error)) => {
                tracing::error!(column = column.name, %row, %error, "a text does not open");
                sealed.is_whole = false;
                continue;
            }
            Err(error) => return Err(error),
        };
        let text = sealer.seal(column, row, &bytes)?;
        sealed.texts += store::replace(&mut tx, column, row, (former, &text)).await?;
    }
    tx.commit().await?;
    Ok(Some(sealed))
}

/// Forgets the keys that were former ones at the begin of a pass which is done now. Since that
/// begin nothing was sealed by them: every transaction seals by what is present in itself.
async fn forget(
    app: &App,
    lease: Lease,
    present: &str,
    former: &[String],
) -> Result<Found, Problem> {
    let Some(mut tx) = lease.write(app, app.now()).await? else { return Ok(Found::Nothing) };
    if store::present(tx.conn()).await?.as_deref() != Some(present) {
        return Ok(Found::More);
    }
    store::forget(&mut tx, former).await?;
    let payload = json!({ "data_key": present, "former": former });
    tx.append(Kind::SecretsSealed, "store", payload);
    tx.commit().await?;
    app.db.refresh_vault().await?;
    tracing::info!(data_key = present, "every secret is sealed by the present key");
    Ok(Found::Nothing)
}
