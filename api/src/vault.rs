//! The vault: secrets in the store are sealed, and bound to where they lie.
//!
//! Envelope encryption. Texts are sealed by a data key, data keys lie in the store, wrapped by a
//! key-encryption key that does not ([`Kms`]). Owns which columns are sealed, the keys, and which
//! of them seals. Must not know what the texts mean; statements of features stay in their stores.
//!
//! For a feature: name the column in `SEALED`, write what `Sealer::seal` answers, and hand what
//! was read to `Conn::unseal`. Whoever writes to the database cannot move a text to another row:
//! it is sealed together with its table, column and row.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use runtime::Entropy;
use runtime::config::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::db::{Conn, DbError, Tx};

pub use self::kms::{DataKeyBytes, KeyError, Kms, KmsError, LocalKms, add_key};
pub use self::manage::{Progress, Status, rotate, status};
pub(crate) use self::open::First;
pub use self::open::UnlockError;
pub(crate) use self::pass::{JOB, keep};
use self::seal::{DataKey, SealedText};

mod kms;
mod manage;
mod open;
mod pass;
mod seal;
pub(crate) mod store;
#[cfg(test)]
mod tests;

/// Name of the key file in the data folder, where no other is configured.
pub const KEY_FILE: &str = "vault.key";
/// Under this name the list of keys says that there may be texts in the clear.
const CLEAR: &str = "clear";

/// How secrets in the store are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VaultConfig {
    /// The key-encryption keys, one a line, the first of which wraps: in place (from the
    /// environment), `file:/path` or `credential:name`. None: `vault.key` in the data folder,
    /// which the first start makes.
    pub key: Option<Secret>,
    /// How old a data key becomes before the next one takes its place.
    #[serde(with = "runtime::config::duration")]
    pub rotate_every: Duration,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self { key: None, rotate_every: Duration::from_secs(90 * 24 * 60 * 60) }
    }
}

/// A column whose texts are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) name: &'static str,
    /// The column that names the row.
    pub(crate) key: Key,
    /// Begins with ` AND `: which rows are sealed, where not all are.
    pub(crate) only: &'static str,
    /// Whether it is older than the vault: then older rows are in the clear until they are sealed.
    pub(crate) was_clear: bool,
}

/// What names a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Uuid(&'static str),
    Text(&'static str),
}

impl Column {
    const fn older(table: &'static str, name: &'static str, only: &'static str) -> Self {
        Self { table, name, key: Key::Uuid("id"), only, was_clear: true }
    }

    const fn of_row(table: &'static str, name: &'static str) -> Self {
        Self { table, name, key: Key::Uuid("id"), only: "", was_clear: false }
    }

    const fn of_operator(table: &'static str, name: &'static str) -> Self {
        Self { table, name, key: Key::Text("operator"), only: "", was_clear: false }
    }

    /// What a text of that row is bound to.
    fn place(&self, row: &impl Display) -> String {
        format!("tocsin vault 1\0{}\0{}\0{row}", self.table, self.name)
    }
}

/// A script, as it was ordered.
pub(crate) const SCRIPT: Column = Column::older("orders", "script", "");
/// An envelope, where it carries a script; no other holds anything secret.
pub(crate) const ENVELOPE: Column =
    Column::older("commands", "envelope", " AND verb = 'run_script'");
/// What a device signed at the end: evidence, what a script said.
pub(crate) const RECEIPT: Column = Column::older("commands", "receipt", "");
/// The same, as the control plane reads it.
pub(crate) const OUTCOME: Column = Column::older("commands", "outcome", "");
/// What a device signed before the end.
pub(crate) const STAGE_PROOF: Column = Column::older("commands", "stage_proof", "");
/// What a script has said last, while it runs.
pub(crate) const OUTPUT: Column = Column::of_row("commands", "output");

/// A credential in escrow, which its device sealed to the recovery key already.
pub(crate) const ESCROW: Column = Column::older("escrows", "jws", "");

/// What the second factor of somebody shares with their app.
pub(crate) const FACTOR: Column = Column::of_operator("factors", "secret");
/// The same, of one that waits for its first code.
pub(crate) const PENDING_FACTOR: Column = Column::of_operator("factors", "pending");

/// Every column whose texts are sealed.
pub(crate) const SEALED: [Column; 9] =
    [SCRIPT, ENVELOPE, RECEIPT, OUTCOME, STAGE_PROOF, OUTPUT, ESCROW, FACTOR, PENDING_FACTOR];

/// Why a text is not sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Nobody has opened the vault: a tool, which needs nothing that is sealed.
    #[error("the vault is not open")]
    Closed,
    /// The store has no key that seals.
    #[error("the store has no data key")]
    NoKey,
    /// It is not what sealing makes.
    #[error("a sealed {0} is malformed")]
    Malformed(&'static str),
    /// Its key is not in the store.
    #[error("a {column} is sealed by the data key {key}, which is not in the store")]
    UnknownKey {
        /// Which text.
        column: &'static str,
        /// The key.
        key: String,
    },
    /// It was altered, or belongs to another row.
    #[error("a sealed {0} does not open: it was altered, or it is that of another row")]
    Refused(&'static str),
    /// It lies open where everything is sealed.
    #[error("a {0} is in the clear where every one is sealed: somebody else wrote it")]
    InClear(&'static str),
    /// The provider did not do it.
    #[error("a text cannot be sealed")]
    Sealing,
    /// A data key cannot be unwrapped.
    #[error("a data key cannot be unwrapped")]
    Kms(#[from] KmsError),
}

/// The keys of a store. Closed until [`Db::unlock`](crate::db::Db::unlock) is done.
#[derive(Default)]
pub(crate) struct Vault(OnceLock<Opened>);

struct Opened {
    kms: Arc<dyn Kms>,
    entropy: Entropy,
    ring: ArcSwap<Ring>,
    /// The data key whose pass left texts that do not open: it is not tried again and again.
    stuck: ArcSwapOption<String>,
}

/// The keys as they were read last.
#[derive(Default)]
struct Ring {
    keys: BTreeMap<String, Arc<DataKey>>,
    has_clear: bool,
}

impl fmt::Debug for Vault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.get().is_some() { "Vault(open)" } else { "Vault(closed)" })
    }
}

impl Vault {
    fn opened(&self) -> Result<&Opened, VaultError> {
        self.0.get().ok_or(VaultError::Closed)
    }
}

impl Opened {
    /// A data key, read anew if it was made since the last reading.
    async fn data_key(
        &self,
        conn: &mut Conn,
        id: &str,
        column: &'static str,
    ) -> Result<Arc<DataKey>, DbError> {
        if let Some(key) = self.ring.load().keys.get(id) {
            return Ok(key.clone());
        }
        self.read(conn).await?;
        let found = self.ring.load().keys.get(id).cloned();
        Ok(found.ok_or_else(|| VaultError::UnknownKey { column, key: id.to_owned() })?)
    }

    /// Reads the list of keys, and unwraps those that are new. One that is gone from it is kept:
    /// somebody may have read what it opens a moment ago.
    async fn read(&self, conn: &mut Conn) -> Result<(), DbError> {
        let rows = store::keys(conn).await?;
        let mut keys = self.ring.load().keys.clone();
        for row in rows.iter().filter(|row| row.id != CLEAR) {
            if !keys.contains_key(&row.id) {
                let bytes = self.kms.unwrap(&row.id, &row.wrapped_by, &row.wrapped).await;
                let bytes = bytes.map_err(VaultError::Kms)?;
                keys.insert(row.id.clone(), Arc::new(DataKey::new(&row.id, &bytes)));
            }
        }
        let has_clear = rows.iter().any(|row| row.id == CLEAR);
        self.ring.store(Arc::new(Ring { keys, has_clear }));
        Ok(())
    }
}

/// Seals by the key that is in force in a write transaction.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    key: Arc<DataKey>,
    entropy: Entropy,
}

impl Sealer {
    /// A text of that row as it is stored.
    pub(crate) fn seal(
        &self,
        column: &Column,
        row: &impl Display,
        bytes: &[u8],
    ) -> Result<String, VaultError> {
        let place = column.place(row);
        self.key.seal(place.as_bytes(), bytes, self.entropy.bytes()).ok_or(VaultError::Sealing)
    }

    /// What a text that this seals begins with.
    fn mark(&self) -> String {
        self.key.mark()
    }
}

impl Tx {
    /// Seals for this transaction. The store says by which key: write transactions are serial, so
    /// whatever begins after a rotation seals by its key, on every node, and what the rotation's
    /// pass has not found after that is not there.
    pub(crate) async fn sealer(&mut self) -> Result<Sealer, DbError> {
        if let Some(sealer) = &self.sealer {
            return Ok(sealer.clone());
        }
        let vault = self.conn().vault();
        let opened = vault.opened()?;
        let present = store::present(self.conn()).await?.ok_or(VaultError::NoKey)?;
        let key = opened.data_key(self.conn(), &present, "text").await?;
        let sealer = Sealer { key, entropy: opened.entropy.clone() };
        self.sealer = Some(sealer.clone());
        Ok(sealer)
    }

    /// Seals a text, if there is one.
    pub(crate) async fn seal(
        &mut self,
        column: &Column,
        row: &impl Display,
        text: Option<&str>,
    ) -> Result<Option<String>, DbError> {
        let Some(text) = text else { return Ok(None) };
        Ok(Some(self.sealer().await?.seal(column, row, text.as_bytes())?))
    }
}

impl Conn {
    /// What was sealed in that row of that column.
    pub(crate) async fn unseal(
        &mut self,
        column: &Column,
        row: &impl Display,
        stored: &str,
    ) -> Result<Zeroizing<Vec<u8>>, DbError> {
        let Some(sealed) = SealedText::of(stored) else {
            self.check_clear(column)?;
            return Ok(Zeroizing::new(stored.as_bytes().to_vec()));
        };
        let vault = self.vault();
        let key = vault.opened()?.data_key(self, sealed.key, column.name).await?;
        let bytes = sealed.bytes().ok_or(VaultError::Malformed(column.name))?;
        let opened = key.open(column.place(row).as_bytes(), &bytes);
        Ok(opened.ok_or(VaultError::Refused(column.name))?)
    }

    /// As [`Conn::unseal`], of what is text, if there is one.
    pub(crate) async fn unseal_text(
        &mut self,
        column: &Column,
        row: &impl Display,
        stored: Option<String>,
    ) -> Result<Option<String>, DbError> {
        let Some(stored) = stored else { return Ok(None) };
        if SealedText::of(&stored).is_none() {
            self.check_clear(column)?;
            return Ok(Some(stored));
        }
        let bytes = self.unseal(column, row, &stored).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| VaultError::Malformed(column.name))?;
        Ok(Some(text.to_owned()))
    }

    /// Whether a text may be one that is not sealed: in a row that never is, or in an older one
    /// as long as not all of those are sealed.
    fn check_clear(&self, column: &Column) -> Result<(), VaultError> {
        let vault = self.vault();
        let may_be =
            !column.only.is_empty() || column.was_clear && vault.opened()?.ring.load().has_clear;
        if may_be { Ok(()) } else { Err(VaultError::InClear(column.name)) }
    }
}
