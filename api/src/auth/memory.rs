//! Principals that were found a moment ago.
//!
//! Owns what is remembered, and for how long. It lets nobody do anything by itself: whoever uses it asks
//! the store again, in the transaction that has the effect, together with others who do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::time::Timestamp;
use uuid::Uuid;

use super::{Principal, SecretHash};
use crate::db::{Conn, DbError, millis, sql};

/// How long one is remembered.
const LASTS: Duration = Duration::from_secs(1);
/// How many are. Beyond it all are forgotten: nobody has so many tokens in one second.
const MOST: usize = 1000;

/// What is remembered, by the hash of the secret.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<Vec<u8>, (Instant, Principal)>>);

impl Memory {
    /// Whom that secret was of a moment ago.
    pub(super) fn find(&self, hash: &SecretHash, now: Instant) -> Option<Principal> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, principal) = known.get(hash.as_bytes())?;
        (now.duration_since(*since) < LASTS).then(|| principal.clone())
    }

    /// Remembers whom that secret is of now.
    pub(super) fn keep(&self, hash: SecretHash, principal: &Principal, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let principal = principal.remembered_by(hash.clone());
        known.insert(hash.as_bytes().to_vec(), (now, principal));
    }
}

/// Those of the tokens that stand.
pub(crate) async fn standing(
    conn: &mut Conn,
    tokens: &BTreeSet<Uuid>,
    now: Timestamp,
) -> Result<BTreeSet<Uuid>, DbError> {
    let mut select = sql("SELECT id FROM api_tokens WHERE revoked_at IS NULL AND expires_at > ");
    select.push_bind(millis(now)).push(" AND id IN ").push_list(tokens.iter().copied());
    select.fetch_all(conn).await?.iter().map(|row| row.try_get(0)).collect()
}
