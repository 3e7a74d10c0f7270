//! How the secret of a second factor is kept in the store: sealed, and bound to its person.
//!
//! Owns the one pair of functions through which it goes there and comes back.

use protocol::id::PersonName;

use super::totp::TotpSecret;
use crate::db::{Conn, DbError, Tx};
use crate::vault::Column;

/// A secret as the store has it.
#[derive(Debug)]
pub(super) struct Kept(pub(super) String);

impl Kept {
    /// Seals a secret for that column of its person's row.
    pub(super) async fn of(
        tx: &mut Tx,
        column: &Column,
        operator: &PersonName,
        secret: &TotpSecret,
    ) -> Result<Self, DbError> {
        let sealer = tx.sealer().await?;
        Ok(Self(sealer.seal(column, &operator.as_str(), secret.expose())?))
    }

    /// The secret that was sealed for that column of its person's row.
    pub(super) async fn open(
        &self,
        conn: &mut Conn,
        column: &Column,
        operator: &PersonName,
    ) -> Result<TotpSecret, DbError> {
        let bytes = conn.unseal(column, &operator.as_str(), &self.0).await?;
        TotpSecret::from_bytes(&bytes).ok_or(DbError::Unreadable("second factor"))
    }
}
