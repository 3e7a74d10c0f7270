//! Bringing a store to its present shape.
//!
//! Owns the migrations of both databases, which are numbered alike and leave the same tables. One
//! is never changed after it was published: its checksum is in every store.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, SqlSafeStr as _};

use super::settings::{DatabaseConfig, patient_options};
use super::{Conn, DbError, FILE, sql, sqlite};

/// How long a node waits for another one that is migrating.
const LOCK_WAIT: Duration = Duration::from_secs(10 * 60);

macro_rules! migrations {
    ($folder:literal) => {
        [
            (
                1,
                "initial",
                include_str!(concat!("../../migrations/", $folder, "/0001_initial.sql")),
            ),
            (2, "out", include_str!(concat!("../../migrations/", $folder, "/0002_out.sql"))),
            (3, "nodes", include_str!(concat!("../../migrations/", $folder, "/0003_nodes.sql"))),
            (
                4,
                "stage_proof",
                include_str!(concat!("../../migrations/", $folder, "/0004_stage_proof.sql")),
            ),
            (6, "verbs", include_str!(concat!("../../migrations/", $folder, "/0006_verbs.sql"))),
            (7, "guards", include_str!(concat!("../../migrations/", $folder, "/0007_guards.sql"))),
            (
                8,
                "checkpoints",
                include_str!(concat!("../../migrations/", $folder, "/0008_checkpoints.sql")),
            ),
            (9, "roles", include_str!(concat!("../../migrations/", $folder, "/0009_roles.sql"))),
            (10, "clones", include_str!(concat!("../../migrations/", $folder, "/0010_clones.sql"))),
            (
                11,
                "sign_in",
                include_str!(concat!("../../migrations/", $folder, "/0011_sign_in.sql")),
            ),
            (
                12,
                "escrows",
                include_str!(concat!("../../migrations/", $folder, "/0012_escrows.sql")),
            ),
            (
                14,
                "factors",
                include_str!(concat!("../../migrations/", $folder, "/0014_factors.sql")),
            ),
            (
                15,
                "advance",
                include_str!(concat!("../../migrations/", $folder, "/0015_advance.sql")),
            ),
            (16, "vault", include_str!(concat!("../../migrations/", $folder, "/0016_vault.sql"))),
            (
                17,
                "sources",
                include_str!(concat!("../../migrations/", $folder, "/0017_sources.sql")),
            ),
            (18, "waves", include_str!(concat!("../../migrations/", $folder, "/0018_waves.sql"))),
            (19, "holds", include_str!(concat!("../../migrations/", $folder, "/0019_holds.sql"))),
            (
                20,
                "freezes",
                include_str!(concat!("../../migrations/", $folder, "/0020_freezes.sql")),
            ),
            (
                21,
                "simulated",
                include_str!(concat!("../../migrations/", $folder, "/0021_simulated.sql")),
            ),
            (
                22,
                "sealed_escrows",
                include_str!(concat!("../../migrations/", $folder, "/0022_sealed_escrows.sql")),
            ),
            (
                23,
                "collections",
                include_str!(concat!("../../migrations/", $folder, "/0023_collections.sql")),
            ),
            (
                24,
                "preparations",
                include_str!(concat!("../../migrations/", $folder, "/0024_preparations.sql")),
            ),
            (25, "runs", include_str!(concat!("../../migrations/", $folder, "/0025_runs.sql"))),
            (26, "output", include_str!(concat!("../../migrations/", $folder, "/0026_output.sql"))),
            (
                27,
                "lost_collections",
                include_str!(concat!("../../migrations/", $folder, "/0027_lost_collections.sql")),
            ),
            (
                28,
                "fewer_pages",
                include_str!(concat!("../../migrations/", $folder, "/0028_fewer_pages.sql")),
            ),
        ]
    };
}

type Texts = [(i64, &'static str, &'static str); 26];

const SQLITE: Texts = migrations!("sqlite");
const POSTGRES: Texts = migrations!("postgres");

/// The present shape.
pub(super) const VERSION: i64 = 28;

/// From which version a store was brought to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0: there was nothing.
    pub from: i64,
    /// The version now.
    pub to: i64,
}

/// Brings a store to its present shape, making it if there is none.
///
/// # Errors
/// When the database is not available, or was written by a newer version of this program.
pub async fn migrate(config: &DatabaseConfig, data_dir: &Path) -> Result<Migrated, DbError> {
    if !config.url.is_empty() {
        return server(config).await;
    }
    let mut conn = sqlite::open(&data_dir.join(FILE))?;
    let migrated = self::sqlite(&mut conn)?;
    conn.close().map_err(|(_, error)| error)?;
    Ok(migrated)
}

/// As the driver of the server does it, in the same table: stores of before had both by it.
const LIST: &str = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (version BIGINT PRIMARY KEY, \
     description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
     success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)";

pub(super) fn sqlite(conn: &mut Connection) -> Result<Migrated, DbError> {
    // Of two processes at once one does it, and the other finds it done.
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(LIST)?;
    let mut applied: BTreeMap<i64, Vec<u8>> = tx
        .prepare("SELECT version, checksum FROM _sqlx_migrations")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let from = applied.keys().copied().max().unwrap_or(0);
    for migration in migrations(SQLITE) {
        match applied.remove(&migration.version) {
            Some(checksum) if checksum == *migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version).into()),
            None => {
                tx.execute_batch(migration.sql.as_str())?;
                tx.execute(
                    "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                     execution_time) VALUES (?, ?, TRUE, ?, 0)",
                    (migration.version, &migration.description, &migration.checksum[..]),
                )?;
            }
        }
    }
    if let Some(version) = applied.into_keys().next() {
        return Err(MigrateError::VersionMissing(version).into());
    }
    tx.commit()?;
    Ok(Migrated { from, to: VERSION })
}

/// By a connection of its own, which may take its time. Of several nodes one migrates; the others
/// wait for it.
pub(super) async fn server(config: &DatabaseConfig) -> Result<Migrated, DbError> {
    let options = patient_options(config)?;
    let late = |_| sqlx::Error::PoolTimedOut;
    let connect = tokio::time::timeout(config.connect_timeout, options.connect());
    let mut conn: PgConnection = connect.await.map_err(late)??;
    let migrated =
        tokio::time::timeout(LOCK_WAIT, run(&mut conn, POSTGRES)).await.map_err(late)??;
    conn.close().await?;
    Ok(migrated)
}

async fn run(conn: &mut impl Migrate, texts: Texts) -> Result<Migrated, DbError> {
    let migrator = migrator(texts);
    conn.lock().await?;
    conn.ensure_migrations_table(&migrator.table_name).await?;
    let applied = conn.list_applied_migrations(&migrator.table_name).await?;
    let from = applied.iter().map(|migration| migration.version).max().unwrap_or(0);
    migrator.run_direct(None, conn, false).await?;
    conn.unlock().await?;
    Ok(Migrated { from, to: VERSION })
}

/// The version of an open store.
pub(super) async fn version(conn: &mut Conn) -> Result<i64, DbError> {
    let row = sql("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(conn).await?;
    row.try_get(0)
}

fn migrations(texts: Texts) -> Vec<Migration> {
    let migration = |(version, description, sql): (_, _, &'static str)| {
        let description = Cow::Borrowed(description);
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    };
    texts.map(migration).to_vec()
}

fn migrator(texts: Texts) -> Migrator {
    Migrator { migrations: Cow::Owned(migrations(texts)), ..Migrator::DEFAULT }
}

#[cfg(test)]
mod tests;
