//! How the secret of a second factor is kept in the store.
//!
//! Owns the one pair of functions through which it goes there and comes back, with whose it is.

use protocol::id::PersonName;

use super::totp::TotpSecret;
use crate::db::DbError;

/// A secret, for the store.
pub(super) fn put(secret: &TotpSecret, _of: &PersonName) -> Vec<u8> {
    secret.expose().to_vec()
}

/// A secret from the store.
pub(super) fn take(stored: &[u8], _of: &PersonName) -> Result<TotpSecret, DbError> {
    TotpSecret::from_bytes(stored).ok_or(DbError::Unreadable("second factor"))
}
