//! The keys that all nodes of a store have in common.
//!
//! Owns the record of their fingerprints, and the rule that they are made once: by the node that
//! writes that record. Every other node is given copies of the files by a person. An authority that
//! trusts the recorded one as its predecessor takes its place.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use protocol::id::KeyId;
use protocol::key::SigningKey;
use protocol::time::Timestamp;
use protocol::trust::AuthorityPin;
use runtime::Entropy;
use serde_json::json;

use crate::audit::{Actor, Kind, hex};
use crate::db::{Conn, Db, DbError, Tx, millis, sql};
use crate::keys::{self, KeyFileError};
use crate::pki::{Authority, PkiError};
use crate::trust;

/// The files, by the names under which their fingerprints are recorded.
const CERTIFICATE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const COMMAND_KEY: &str = keys::succession::PRESENT;

/// Why a node has not the keys of its store.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The store is not available.
    #[error("the store cannot be read")]
    Store(#[from] DbError),
    /// The authority cannot be loaded or made.
    #[error("the authority cannot be loaded")]
    Authority(#[from] PkiError),
    /// The command key cannot be loaded or made.
    #[error("a key cannot be loaded")]
    Key(#[from] KeyFileError),
    /// A file is missing that the store has a record of.
    #[error(
        "{} is missing, but this store has been started before: copy ca.crt, ca.key, \
         command.key and vault.key from the data folder of a node that runs on it",
        .0.display()
    )]
    Missing(PathBuf),
    /// A file is not the one that the store has a record of.
    #[error(
        "{} is not that of this store (it has {found}, the store expects {expected}): copy \
         ca.crt, ca.key, command.key and vault.key from the data folder of a node that runs on it",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// Its fingerprint.
        found: String,
        /// The recorded one.
        expected: String,
    },
    /// Devices would not believe it.
    #[error("the trust root in force pins other authorities than {0}")]
    Unpinned(AuthorityPin),
}

/// The keys.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) authority: Authority,
    pub(crate) command_key: SigningKey,
}

impl Keys {
    /// Loads the keys of a store, and makes them if they were never made. Of several nodes that
    /// start at once on a new store exactly one makes them. A command key that is not the recorded
    /// one has to be `named` by the trust root in force.
    pub(crate) async fn settle(
        db: &Db,
        folder: &Path,
        now: Timestamp,
        entropy: &Entropy,
        named: &[KeyId],
    ) -> Result<Self, InstallationError> {
        let recorded = recorded(&mut db.read().await?).await?;
        if !recorded.is_empty() {
            let keys = Self::load(folder, entropy, &recorded, named)?;
            return keys.succeed(db, now, &recorded).await;
        }
        let mut tx = db.write(Actor::System, now).await?;
        let recorded = self::recorded(tx.conn()).await?;
        if !recorded.is_empty() {
            drop(tx);
            let keys = Self::load(folder, entropy, &recorded, named)?;
            return keys.succeed(db, now, &recorded).await;
        }
        let keys = Self {
            authority: Authority::load_or_create(folder, now, entropy.clone())?,
            command_key: keys::load_or_create(&folder.join(COMMAND_KEY), entropy)?,
        };
        record(&mut tx, &keys.fingerprints()).await?;
        tx.commit().await?;
        Ok(keys)
    }

    fn load(
        folder: &Path,
        entropy: &Entropy,
        recorded: &[(String, String)],
        named: &[KeyId],
    ) -> Result<Self, InstallationError> {
        for (name, _) in recorded {
            let path = folder.join(name);
            if !path.exists() {
                return Err(InstallationError::Missing(path));
            }
        }
        let keys = Self {
            authority: Authority::load(folder, entropy.clone())?,
            command_key: keys::load(&folder.join(COMMAND_KEY))?,
        };
        let is_successor = keys.is_successor(recorded);
        for (name, found) in keys.fingerprints() {
            if is_successor && name != COMMAND_KEY {
                continue;
            }
            let expected = recorded.iter().find(|(recorded, _)| recorded == name);
            let Some((_, expected)) = expected.filter(|(_, expected)| *expected != found) else {
                continue;
            };
            let (path, expected) = (folder.join(name), expected.clone());
            if name == COMMAND_KEY && named.contains(keys.command_key.public().id()) {
                continue;
            }
            return Err(InstallationError::Other { path, found, expected });
        }
        Ok(keys)
    }

    /// Whether the recorded authority is one that this one follows.
    fn is_successor(&self, recorded: &[(String, String)]) -> bool {
        is_successor(&self.authority, recorded)
    }

    /// Records the authority if it follows the recorded one, and a command key that does.
    async fn succeed(
        self,
        db: &Db,
        now: Timestamp,
        recorded: &[(String, String)],
    ) -> Result<Self, InstallationError> {
        let is_successor = self.is_successor(recorded);
        let is_new = |name: &str, value: &str| {
            let is_other = |(known, former): &(String, String)| known == name && former != value;
            let may_change = if name == COMMAND_KEY { true } else { is_successor };
            may_change && recorded.iter().any(is_other)
        };
        let changed = self.fingerprints().into_iter().filter(|(name, value)| is_new(name, value));
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            return Ok(self);
        }
        let mut tx = db.write(Actor::System, now).await?;
        replace(&mut tx, changed).await?;
        tx.commit().await?;
        Ok(self)
    }

    fn fingerprints(&self) -> [(&'static str, String); 3] {
        let [certificate, key] = fingerprints(&self.authority);
        [certificate, key, (COMMAND_KEY, self.command_key.public().id().to_string())]
    }
}

/// Records an authority in the place of the one that it follows; nothing where it is recorded.
///
/// # Errors
/// When it does not follow the recorded one.
pub(crate) async fn succeed(
    db: &Db,
    now: Timestamp,
    authority: &Authority,
) -> Result<(), InstallationError> {
    let mut tx = db.write(Actor::System, now).await?;
    // In one transaction: a trust root that is taken at the same time looks at what is recorded here.
    let pin = authority.trust_pin();
    if !trust::current(tx.conn()).await?.root.may_vouch(pin) {
        return Err(InstallationError::Unpinned(pin));
    }
    let recorded = recorded(tx.conn()).await?;
    let expected = |name: &str| recorded.iter().find(|(known, _)| known == name);
    let mut changed = Vec::new();
    for (name, found) in fingerprints(authority) {
        match expected(name) {
            Some((_, expected)) if *expected != found => changed.push((name, found, expected)),
            Some(_) | None => {}
        }
    }
    if let Some((name, found, expected)) = changed.first()
        && !is_successor(authority, &recorded)
    {
        let (found, expected) = (found.clone(), (*expected).clone());
        return Err(InstallationError::Other { path: PathBuf::from(name), found, expected });
    }
    let changed: Vec<_> = changed.into_iter().map(|(name, found, _)| (name, found)).collect();
    if !changed.is_empty() {
        replace(&mut tx, changed).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Whether the recorded authority is one that this one follows.
fn is_successor(authority: &Authority, recorded: &[(String, String)]) -> bool {
    let followed: Vec<_> = authority.others().iter().map(|other| sha256(other)).collect();
    recorded.iter().any(|(name, value)| name == CERTIFICATE && followed.contains(value))
}

fn fingerprints(authority: &Authority) -> [(&'static str, String); 2] {
    [
        (CERTIFICATE, sha256(authority.certificate())),
        (AUTHORITY_KEY, sha256(&authority.public_key())),
    ]
}

async fn replace(tx: &mut Tx, changed: Vec<(&'static str, String)>) -> Result<(), DbError> {
    let mut payload = serde_json::Map::new();
    for (name, value) in changed {
        if name == COMMAND_KEY {
            tx.append(Kind::CommandKeyChanged, "store", json!({ name: value }));
        } else {
            payload.insert(name.to_owned(), json!(value));
        }
        sql("UPDATE installation SET value = $1 WHERE name = $2")
            .bind(&value)
            .bind(name)
            .execute(tx.conn())
            .await?;
    }
    if !payload.is_empty() {
        tx.append(Kind::AuthorityChanged, "store", payload.into());
    }
    Ok(())
}

/// The key of the recorded authority, as a trust root pins it: another node may have taken it already.
pub(crate) async fn authority_pin(conn: &mut Conn) -> Result<Option<AuthorityPin>, DbError> {
    let recorded = recorded(conn).await?;
    let key = recorded.iter().find(|(name, _)| name == AUTHORITY_KEY);
    key.map(|(_, pin)| pin.parse().map_err(|_| DbError::Unreadable("authority"))).transpose()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

async fn recorded(conn: &mut Conn) -> Result<Vec<(String, String)>, DbError> {
    let rows = sql("SELECT name, value FROM installation ORDER BY name").fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn record(tx: &mut Tx, fingerprints: &[(&'static str, String)]) -> Result<(), DbError> {
    let now = millis(tx.now());
    let mut payload = serde_json::Map::new();
    for (name, value) in fingerprints {
        sql("INSERT INTO installation (name, value, created_at) VALUES ($1, $2, $3)")
            .bind(*name)
            .bind(value)
            .bind(now)
            .execute(tx.conn())
            .await?;
        payload.insert((*name).to_owned(), json!(value));
    }
    tx.append(Kind::KeysRecorded, "store", payload.into());
    Ok(())
}
