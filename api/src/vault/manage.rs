//! What a person asks of the vault on the server itself: how far it is, and another data key.

use std::path::Path;

use protocol::time::Timestamp;
use runtime::Entropy;

use super::open::{First, load};
use super::{CLEAR, UnlockError, VaultConfig, seal, store};
use crate::audit::Actor;
use crate::db::{Db, timestamp};

/// How a store's secrets stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The data key that seals.
    pub data_key: String,
    /// Since when.
    pub since: Timestamp,
    /// The vault key that wraps it.
    pub vault_key: String,
    /// What is left to do.
    pub progress: Progress,
}

/// What is left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Data keys that still open something.
    pub former: Vec<String>,
    /// Whether older texts may lie in the clear.
    pub has_clear: bool,
    /// Texts that another key sealed, or none.
    pub waiting: u64,
}

/// How it stands. Needs no key.
///
/// # Errors
/// When the store is not available, or was never started.
pub async fn status(db: &Db) -> Result<Status, UnlockError> {
    let mut conn = db.read().await?;
    let keys = store::keys(&mut conn).await?;
    let present = keys.iter().find(|key| key.is_present).ok_or(UnlockError::NotStarted)?;
    let former = keys.iter().filter(|key| !key.is_present && key.id != CLEAR);
    let progress = Progress {
        former: former.map(|key| key.id.clone()).collect(),
        has_clear: keys.iter().any(|key| key.id == CLEAR),
        waiting: store::count_stale(&mut conn, &seal::mark(&present.id)).await?,
    };
    Ok(Status {
        data_key: present.id.clone(),
        since: timestamp(present.created_at),
        vault_key: present.wrapped_by.clone(),
        progress,
    })
}

/// Has another data key seal from now on, also in control planes that run; they seal the rest
/// anew. Answers its id.
///
/// # Errors
/// When the vault does not open.
pub async fn rotate(
    db: &Db,
    (config, folder): (&VaultConfig, &Path),
    (now, entropy): (Timestamp, &Entropy),
) -> Result<String, UnlockError> {
    let keys = store::keys(&mut db.read().await?).await?;
    let used = keys.into_iter().find(|key| key.is_present).ok_or(UnlockError::NotStarted)?;
    let first = load((config, folder), &used.wrapped_by, entropy)?.key_id().to_owned();
    if first != used.wrapped_by {
        // A node that has not read that key yet could seal nothing any more.
        return Err(UnlockError::NotInUse { used: used.wrapped_by, first });
    }
    db.unlock((config, folder), None, First::Refuse, (now, entropy)).await?;
    let mut tx = db.write(Actor::System, now).await?;
    let id = db.make_next(&mut tx).await?;
    tx.commit().await?;
    Ok(id)
}
