//! Both databases have the same shape, and addresses are shown without what is secret in them.

use std::collections::BTreeSet;
use std::path::Path;

use protocol::time::Timestamp;
use runtime::{Clock, Entropy, tls};
use sqlx::{ConnectOptions as _, Executor as _};

use super::schema::{TABLES, Type};
use super::settings::{address, postgres_options};
use super::{Conn, DatabaseConfig, DatabaseUrl, Db, FILE, sql};
use crate::fixture::PostgresServer;
use crate::pki::Authority;

/// Table, column, whether it may be NULL.
type Columns = BTreeSet<(String, String, bool)>;

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables_columns_and_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let file = Db::open(&DatabaseConfig::default(), folder.path()).await.unwrap();
    let server = PostgresServer::start();
    let config = DatabaseConfig { url: server.database().await, ..DatabaseConfig::default() };
    let shared = Db::open(&config, folder.path()).await.unwrap();

    let sqlite = columns(
        &file,
        "SELECT m.name, p.name, p.\"notnull\" = 0 FROM sqlite_master m \
         JOIN pragma_table_info(m.name) p WHERE m.type = 'table'",
    );
    let postgres = columns(
        &shared,
        "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), is_nullable = 'YES' \
         FROM information_schema.columns WHERE table_schema = 'public'",
    );
    let (sqlite, postgres) = tokio::join!(sqlite, postgres);
    assert_eq!(sqlite, postgres);
    let listed = TABLES.iter().flat_map(|table| {
        table.columns.iter().map(|(column, _)| (table.name.to_owned(), (*column).to_owned()))
    });
    let listed: BTreeSet<_> = listed.collect();
    let found = sqlite.into_iter().map(|(table, column, _)| (table, column));
    assert_eq!(listed, found.filter(|(table, _)| table != "job_leases").collect());

    let sqlite =
        names(&file, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL");
    let postgres = names(
        &shared,
        "SELECT CAST(c.relname AS TEXT) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'public' \
         AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid)",
    );
    let (sqlite, postgres) = tokio::join!(sqlite, postgres);
    assert_eq!(sqlite, postgres);
    assert!(sqlite.contains("commands_out"));
    file.close().await;
    shared.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_the_server_hold_what_is_listed() {
    let server = PostgresServer::start();
    let config = DatabaseConfig { url: server.database().await, ..DatabaseConfig::default() };
    let db = Db::open(&config, Path::new("")).await.unwrap();
    let mut conn = db.read().await.unwrap();
    let rows =
        sql("SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT), CAST(udt_name AS TEXT) \
         FROM information_schema.columns WHERE table_schema = 'public'");
    let rows = rows.fetch_all(&mut conn).await.unwrap();
    let found: BTreeSet<(String, String, String)> = rows
        .iter()
        .map(|row| (row.try_get(0).unwrap(), row.try_get(1).unwrap(), row.try_get(2).unwrap()))
        .collect();
    for table in &TABLES {
        for (column, kind) in table.columns {
            let name = match kind {
                Type::Int => "int8",
                Type::Text => "text",
                Type::Bytes => "bytea",
                Type::Uuid => "uuid",
            };
            let expected = (table.name.to_owned(), (*column).to_owned(), name.to_owned());
            assert!(found.contains(&expected), "{expected:?}");
        }
    }
}

async fn columns(db: &Db, text: &str) -> Columns {
    let rows = sql(text).fetch_all(&mut db.read().await.unwrap()).await.unwrap();
    let all = rows.iter().map(|row| {
        (row.try_get(0).unwrap(), row.try_get(1).unwrap(), row.try_get::<bool>(2).unwrap())
    });
    all.filter(|(table, ..): &(String, String, bool)| table != "_sqlx_migrations").collect()
}

async fn names(db: &Db, text: &str) -> BTreeSet<String> {
    let rows = sql(text).fetch_all(&mut db.read().await.unwrap()).await.unwrap();
    rows.iter().map(|row| row.try_get(0).unwrap()).collect()
}

#[tokio::test]
async fn published_migrations_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&DatabaseConfig::default(), folder.path()).await.unwrap();
    db.close().await;
    let mut conn = Conn::read_only(&folder.path().join(FILE)).unwrap();
    let rows = sql("SELECT checksum FROM _sqlx_migrations ORDER BY version LIMIT 2");
    let rows = rows.fetch_all(&mut conn).await.unwrap();
    let begins = rows.iter().map(|row| crate::audit::hex(&row.try_get::<&[u8]>(0).unwrap()[..8]));
    assert_eq!(begins.collect::<Vec<_>>(), ["5ef106bde59e4341", "bfdb5c099f431e4d"]);
}

/// Accounts of the machine's own socket are believed, those of the network need a password.
const ACCESS: &str = "local all all trust\nhost all all all scram-sha-256\n";

#[tokio::test(flavor = "multi_thread")]
async fn server_is_believed_by_its_authority_and_believes_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let now = Timestamp::from_millis(Clock::system().unix_millis());
        (Authority::load_or_create(&folder, now, Entropy::system()).unwrap(), now)
    };
    let (ours, now) = authority("ours");
    authority("others");
    let identity = ours.issue_server(&["localhost".to_owned()], now).unwrap();
    let path = |name: &str| folder.path().join(name);
    tls::write_certificates(&path("server.crt"), &identity.chain).unwrap();
    tls::write_key(&path("server.key"), &identity.key).unwrap();
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    // The server takes no port of the system's choice. This one is below those that the system gives away, so
    // that nobody has it by chance.
    let port = u16::try_from(10_000 + std::process::id() % 20_000).unwrap();
    let settings = ["listen_addresses=localhost", "ssl=on", &format!("port={port}")];
    let files = [
        ("server.crt", text("server.crt")),
        ("server.key", text("server.key")),
        ("pg_hba.conf", ACCESS.to_owned()),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let server = PostgresServer::start_with(&settings, &files);
    let config = DatabaseConfig { url: server.url("postgres"), ..DatabaseConfig::default() };
    let mut conn = postgres_options(&config).unwrap().port(port).connect().await.unwrap();
    conn.execute("ALTER ROLE tocsin PASSWORD 's3cret'").await.unwrap();

    std::fs::write(path("password"), "s3cret\n").unwrap();
    std::fs::write(path("wrong"), "secret\n").unwrap();
    let open = async |password: &str, authority: &str| {
        let url = format!("postgres://tocsin@localhost:{port}/postgres?sslmode=verify-full");
        let config = DatabaseConfig {
            url: DatabaseUrl::new(url),
            password_file: path(password),
            ca_file: path(authority).join("ca.crt"),
            ..DatabaseConfig::default()
        };
        Db::open(&config, Path::new("")).await
    };
    let db = open("password", "ours").await.unwrap();
    let is_tls = sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    let row = is_tls.fetch_one(&mut db.read().await.unwrap()).await.unwrap();
    assert!(row.try_get::<bool>(0).unwrap());
    db.close().await;
    assert!(open("wrong", "ours").await.is_err());
    assert!(open("password", "others").await.is_err());
}

#[test]
fn password_in_an_address_is_not_shown() {
    for (url, shown) in [
        (
            "postgres://tocsin:s3cret@db.example:5432/tocsin",
            "postgres://tocsin@db.example:5432/tocsin",
        ),
        ("postgres://tocsin:a@b:c@db/x?password=s3cret", "postgres://tocsin@db/x"),
        ("postgres://db/x?sslmode=disable", "postgres://db/x"),
    ] {
        let url = DatabaseUrl::new(url);
        assert_eq!(url.to_string(), shown);
        let config = DatabaseConfig { url, ..DatabaseConfig::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}

#[test]
fn server_elsewhere_has_to_prove_who_it_is() {
    let mode = |url: &str| {
        let config = DatabaseConfig { url: DatabaseUrl::new(url), ..DatabaseConfig::default() };
        format!("{:?}", postgres_options(&config).unwrap().get_ssl_mode())
    };
    assert_eq!(mode("postgres://tocsin@db.example/x"), "VerifyFull");
    assert_eq!(mode("postgres://tocsin@db.example/x?sslmode=disable"), "Disable");
    assert_eq!(mode("postgres://tocsin@%2Frun%2Fpostgresql/x"), "Prefer");
    let config = DatabaseConfig { url: DatabaseUrl::new("postgres://x y"), ..Default::default() };
    assert!(address(&config).is_err());
}
