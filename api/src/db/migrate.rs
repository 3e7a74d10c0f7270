//! Bringing a store to its present shape.
//!
//! Owns the migrations of both databases, which are numbered alike and leave the same tables. One
//! is never changed after it was published: its checksum is in every store.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, SqlSafeStr as _, SqliteConnection};

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
        ]
    };
}

type Texts = [(i64, &'static str, &'static str); 20];

const SQLITE: Texts = migrations!("sqlite");
const POSTGRES: Texts = migrations!("postgres");

/// The present shape.
pub(super) const VERSION: i64 = 22;

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
    let options = sqlite::options(&data_dir.join(FILE)).create_if_missing(true);
    let mut conn = options.connect().await?;
    let migrated = self::sqlite(&mut conn).await?;
    conn.close().await?;
    Ok(migrated)
}

pub(super) async fn sqlite(conn: &mut SqliteConnection) -> Result<Migrated, DbError> {
    run(conn, SQLITE).await
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

fn migrator(texts: Texts) -> Migrator {
    let migrations = texts.map(|(version, description, sql)| {
        let description = Cow::Borrowed(description);
        Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator { migrations: Cow::Owned(migrations.to_vec()), ..Migrator::DEFAULT }
}
