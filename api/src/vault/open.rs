//! Opening the vault at a start: with the key that the store asks for, or not at all.
//!
//! Owns the rule that a vault key is made once, when a store has no data key yet. With another key,
//! or without, nothing starts: what was sealed stays readable for whoever brings the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use protocol::time::Timestamp;
use runtime::Entropy;
use serde_json::json;

use super::kms::{DataKeyBytes, KeyError, Kms, KmsError, LocalKms};
use super::seal::KEY;
use super::{CLEAR, KEY_FILE, Opened, VaultConfig, VaultError, store};
use crate::audit::{Actor, Kind, hex};
use crate::db::{Db, DbError, Tx};

/// Why a vault stays closed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The store is not available.
    #[error("the store cannot be read")]
    Store(#[from] DbError),
    /// The key is gone.
    #[error(
        "{} is missing, and secrets in this store are sealed by the vault key {expected} that was \
         in it: put it back from its backup, or copy it from a node that runs on this store. No \
         other key is made, so nothing is lost",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key that is asked for.
        expected: String,
    },
    /// The key cannot be read.
    #[error("the vault key cannot be used")]
    Key(#[from] KeyError),
    /// It is another one.
    #[error("this is not the vault key of this store")]
    Kms(#[from] KmsError),
    /// A vault key that no control plane uses yet.
    #[error(
        "the control planes still use the vault key {used}, and the first one here is {first}: restart \
         each of them with it before the data key is changed"
    )]
    NotInUse {
        /// The key that wraps.
        used: String,
        /// The first of the file.
        first: String,
    },
    /// A store that has never been started.
    #[error("this store has no data key yet: start the control plane on it once")]
    NotStarted,
}

/// Whether a store without data keys gets its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Make,
    Refuse,
}

impl Db {
    /// Opens the vault, for this store and its clones: by the key service that was given, or else by
    /// the keys that the configuration names. Data keys that a former vault key wrapped
    /// are wrapped by the present one.
    pub(crate) async fn unlock(
        &self,
        (config, folder): (&VaultConfig, &Path),
        given: Option<Arc<dyn Kms>>,
        first: First,
        (now, entropy): (Timestamp, &Entropy),
    ) -> Result<(), UnlockError> {
        let mut conn = self.read().await?;
        let rows = store::keys(&mut conn).await?;
        drop(conn);
        if rows.is_empty() {
            if first == First::Refuse {
                return Err(UnlockError::NotStarted);
            }
            self.make_first((config, folder), given.as_deref(), (now, entropy)).await?;
        }
        let rows = store::keys(&mut self.read().await?).await?;
        let asked = rows.iter().find(|row| row.is_present).map(|row| row.wrapped_by.as_str());
        let kms = match given {
            Some(given) => given,
            None => load((config, folder), asked.unwrap_or_default(), entropy)?,
        };
        let mut former = Vec::new();
        for row in rows.iter().filter(|row| row.id != CLEAR) {
            let bytes = kms.unwrap(&row.id, &row.wrapped_by, &row.wrapped).await?;
            if row.wrapped_by != kms.key_id() {
                former.push((row.id.clone(), bytes));
            }
        }
        if !former.is_empty() {
            let mut tx = self.write(Actor::System, now).await?;
            for (id, bytes) in &former {
                let wrapped = kms.wrap(id, bytes).await?;
                store::rewrap(&mut tx, id, (&wrapped, kms.key_id())).await?;
            }
            tx.append(Kind::VaultKeyChanged, "store", json!({ "vault_key": kms.key_id() }));
            tx.commit().await?;
        }
        let opened = Opened {
            kms,
            entropy: entropy.clone(),
            ring: ArcSwap::default(),
            stuck: ArcSwapOption::empty(),
        };
        opened.read(&mut self.read().await?).await?;
        // Opened twice it stays as it is: the store is the same.
        let _ = self.vault().0.set(opened);
        Ok(())
    }

    /// Makes the first data key, and the vault key if nobody brought one. Of several nodes that
    /// start at once exactly one does.
    async fn make_first(
        &self,
        (config, folder): (&VaultConfig, &Path),
        given: Option<&dyn Kms>,
        (now, entropy): (Timestamp, &Entropy),
    ) -> Result<(), UnlockError> {
        let mut tx = self.write(Actor::System, now).await?;
        if !store::keys(tx.conn()).await?.is_empty() {
            return Ok(());
        }
        if let Some(given) = given {
            make_data_key(&mut tx, given, entropy).await?;
        } else {
            let kms = load_or_create((config, folder), entropy)?;
            make_data_key(&mut tx, &kms, entropy).await?;
        }
        // A new store has nothing that was written before.
        if store::has_any(tx.conn()).await? {
            store::put_clear(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Has the next data key seal from now on. Answers its id.
    pub(super) async fn make_next(&self, tx: &mut Tx) -> Result<String, DbError> {
        let vault = self.vault();
        let opened = vault.opened()?;
        make_data_key(tx, &*opened.kms, &opened.entropy).await
    }

    /// Reads the list of keys anew.
    pub(super) async fn refresh_vault(&self) -> Result<(), DbError> {
        self.vault().opened()?.read(&mut self.read().await?).await
    }
}

async fn make_data_key(tx: &mut Tx, kms: &dyn Kms, entropy: &Entropy) -> Result<String, DbError> {
    let id = hex(&entropy.bytes::<8>());
    let bytes = DataKeyBytes::new(entropy.bytes::<KEY>());
    let wrapped = kms.wrap(&id, &bytes).await.map_err(VaultError::Kms)?;
    store::put_present(tx, &id, (&wrapped, kms.key_id())).await?;
    let payload = json!({ "data_key": id, "vault_key": kms.key_id() });
    tx.append(Kind::DataKeyMade, "store", payload);
    Ok(id)
}

fn load_or_create(
    (config, folder): (&VaultConfig, &Path),
    entropy: &Entropy,
) -> Result<LocalKms, KeyError> {
    let file = folder.join(KEY_FILE);
    match LocalKms::load(config.key.as_ref(), &file, entropy.clone()) {
        Err(KeyError::File(error)) if config.key.is_none() && error.is_not_found() => {
            LocalKms::create(&file, entropy.clone())
        }
        loaded => loaded,
    }
}

pub(super) fn load(
    (config, folder): (&VaultConfig, &Path),
    expected: &str,
    entropy: &Entropy,
) -> Result<Arc<dyn Kms>, UnlockError> {
    let file = folder.join(KEY_FILE);
    match LocalKms::load(config.key.as_ref(), &file, entropy.clone()) {
        Ok(kms) => Ok(Arc::new(kms)),
        Err(KeyError::File(error)) if config.key.is_none() && error.is_not_found() => {
            Err(UnlockError::Missing { path: file, expected: expected.to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}
