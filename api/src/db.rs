//! The store: one SQLite file, or a PostgreSQL database that several nodes share.
//!
//! Owns connections, migrations and transactions. Statements live in the features' `store.rs`
//! files and are plain SQL with bound values that both databases understand. A write transaction
//! cannot end without saying which events it appends, and only one runs at a time, on whichever
//! node.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use protocol::time::Timestamp;
use tokio::sync::watch;

use crate::audit::{self, Actor};
use crate::vault::{Vault, VaultError};

pub use self::conn::Conn;
use self::conn::Link;
pub use self::copy::{Copied, CopyError, Location, copy};
pub use self::migrate::{Migrated, migrate};
use self::postgres::Server;
pub use self::settings::{DatabaseConfig, DatabaseUrl};
pub(crate) use self::sql::{Row, Sql, sql};
use self::sqlite::File;
pub use self::turns::Rank;
use self::turns::Turns;
pub use self::tx::Tx;

mod alone;
mod conn;
mod copy;
mod head;
mod migrate;
mod postgres;
mod schema;
mod settings;
mod sql;
mod sqlite;
#[cfg(test)]
mod tests;
mod turns;
mod tx;

/// Values bound in one `IN (…)` list: below SQLite's bound of 32,766 parameters.
pub(crate) const CHUNK: usize = 1000;
/// Name of the SQLite file in the data folder.
pub const FILE: &str = "tocsin.db";

/// Why the store did not do what was asked. Nothing was changed then, except when the answer to a
/// commit was lost: what was committed is found again by its idempotency key.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database answered with an error: locked, full, gone.
    #[error("the store is not available")]
    Unavailable(#[from] sqlx::Error),
    /// The file of the store answered with an error: locked, full, unreadable.
    #[error("the store is not available")]
    Sqlite(#[from] rusqlite::Error),
    /// The migrations could not be applied.
    #[error("the store cannot be brought to its present shape")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A stored value is not what this version writes.
    #[error("the store holds an unreadable {0}")]
    Unreadable(&'static str),
    /// The password of the database cannot be read.
    #[error("the password of the database cannot be read")]
    Password(#[from] runtime::config::SecretError),
    /// A statement of this transaction failed before: none of it is committed.
    #[error("the store did not take a part of this")]
    Failed,
    /// A text cannot be sealed or opened.
    #[error("a secret of the store is not accessible")]
    Vault(#[from] VaultError),
    /// A text that no database should hold.
    #[error("a text has a zero character")]
    ZeroCharacter,
}

/// The store. Cloning is cheap, and clones are the same store.
#[derive(Debug, Clone)]
pub struct Db {
    base: Base,
    turns: Turns,
    head: watch::Sender<i64>,
    vault: Arc<Vault>,
}

#[derive(Debug, Clone)]
enum Base {
    Sqlite(File),
    Postgres(Arc<Server>),
}

impl DbError {
    /// Whether the database is there and answered with it: a constraint, a limit, a full disk.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Unavailable(error) => error.as_database_error().is_some(),
            Self::Sqlite(error) => error.sqlite_error_code().is_some(),
            Self::Migrate(_)
            | Self::Unreadable(_)
            | Self::Password(_)
            | Self::Failed
            | Self::Vault(_)
            | Self::ZeroCharacter => false,
        }
    }
}

impl Db {
    /// Opens the store, making the file if it is one, and applies the migrations.
    pub async fn open(config: &DatabaseConfig, data_dir: &Path) -> Result<Self, DbError> {
        let base = if config.url.is_empty() {
            Base::Sqlite(File::open(&data_dir.join(FILE)).await?)
        } else {
            migrate::server(config).await?;
            Base::Postgres(Arc::new(Server::open(config).await?))
        };
        let (turns, head) = (Turns::default(), watch::Sender::new(0));
        let db = Self { base, turns, head, vault: Arc::default() };
        db.see(audit::head(&mut db.read().await?).await?.seq);
        Ok(db)
    }

    /// A connection that reads. It sees everything that was committed before.
    pub async fn read(&self) -> Result<Conn, DbError> {
        let link = match &self.base {
            Base::Sqlite(file) => Link::Sqlite(file.read().await?),
            Base::Postgres(server) => Link::Postgres(server.read().await?),
        };
        Ok(Conn::new(link, self.vault.clone()))
    }

    /// Begins a write transaction, in the order of asking.
    pub async fn write(&self, actor: Actor, now: Timestamp) -> Result<Tx, DbError> {
        self.write_as(Rank::InOrder, actor, now).await
    }

    /// Begins a write transaction. Only one runs at a time; the others wait for it, by their ranks.
    pub async fn write_as(&self, rank: Rank, actor: Actor, now: Timestamp) -> Result<Tx, DbError> {
        let begin = async {
            let turn = self.turns.take(rank).await;
            let conn = match &self.base {
                Base::Sqlite(file) => Link::SqliteTx(file.write().await?),
                Base::Postgres(server) => Link::Postgres(server.write().await?),
            };
            let conn = Conn::new(conn, self.vault.clone());
            Ok(Tx::new((conn, turn), actor, now, self.head.clone()))
        };
        let most = match &self.base {
            Base::Sqlite(_) => sqlite::TURN,
            Base::Postgres(server) => server.turn(),
        };
        let late = |_| sqlx::Error::PoolTimedOut;
        tokio::time::timeout(most, begin).await.map_err(late)?
    }

    /// How many of that rank wait for their turn to write, in this process.
    pub fn waiting(&self, rank: Rank) -> usize {
        self.turns.waiting(rank)
    }

    /// Follows the sequence number of the newest committed event.
    pub fn events_head(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// There is an event of that number: whoever follows looks.
    fn see(&self, seq: i64) {
        tx::raise(&self.head, seq);
    }

    /// The keys of what is sealed in it.
    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Empties the log of an SQLite file, which still holds texts that were replaced; false when
    /// somebody reads, and it has to be asked again. A server keeps such texts until `VACUUM FULL`,
    /// which locks its tables and is a person's to say.
    pub(crate) async fn empty_log(&self) -> Result<bool, DbError> {
        match &self.base {
            Base::Sqlite(file) => {
                let _turn = self.turns.take(Rank::InOrder).await;
                file.empty_log().await
            }
            Base::Postgres(_) => Ok(true),
        }
    }

    /// Closes every connection; SQLite's write-ahead log is folded into its file.
    pub async fn close(&self) {
        match &self.base {
            Base::Sqlite(file) => file.close().await,
            Base::Postgres(server) => server.close().await,
        }
    }
}

/// A time as it is stored.
pub(crate) fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A stored time.
pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// A stored rate.
pub(crate) fn rate(stored: Option<i64>) -> Result<Option<NonZeroU32>, DbError> {
    let rate = |rate| u32::try_from(rate).ok().and_then(NonZeroU32::new);
    stored.map(|stored| rate(stored).ok_or(DbError::Unreadable("rate"))).transpose()
}

/// A stored JSON text.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    text: &str,
    what: &'static str,
) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|_| DbError::Unreadable(what))
}
