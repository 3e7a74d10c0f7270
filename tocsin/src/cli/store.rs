//! `tocsin store` and `tocsin migrate`: what a person does to a store itself, without a server.
//!
//! Owns how a store is named on the command line. The work is the control plane's own.

use std::path::{Path, PathBuf};

use api::db::{self, DatabaseConfig, DatabaseUrl, Location};
use api::vault::VaultConfig;
use clap::{Args, Subcommand};
use serde_json::json;

use super::check::{self, Role};
use super::{Context, Exit, Failure};
use crate::output::Tone;
use crate::platform;
use crate::roles::api_role;

/// Rows between two words on the progress of one table.
const STEP: i64 = 20_000;

/// The verbs of `tocsin store`.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Copy a whole store into an empty one, of either database, and verify the copy
    Copy(CopyArgs),
}

/// Arguments of `tocsin store copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Data folder, postgres:// URL, or configuration file of the store as it is
    #[arg(long, value_name = "PLACE")]
    pub from: String,
    /// The same of the store that it is copied into; it has to be empty
    #[arg(long, value_name = "PLACE")]
    pub to: String,
}

/// Where a store is.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("place").required(true).args(["config", "database", "data"])))]
pub struct PlaceArgs {
    /// Configuration file of the control plane or of the platform
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of a PostgreSQL database; others on this machine can see it here
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Data folder with an SQLite file
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Brings a store to the shape that this program needs.
pub async fn migrate(context: &Context, args: PlaceArgs) -> Result<Exit, Failure> {
    let location = location(&args)?;
    let done = db::migrate(&location.database, &location.data_dir).await.map_err(failed)?;
    let out = context.out;
    out.object(&json!({ "from": done.from, "to": done.to }));
    out.line(&if done.from == done.to {
        format!("the store is at version {} already", done.to)
    } else {
        format!("the store went from version {} to {}", done.from, done.to)
    });
    Ok(Exit::Success)
}

/// The store that is meant.
pub(super) fn location(args: &PlaceArgs) -> Result<Location, Failure> {
    match (&args.config, &args.database, &args.data) {
        (Some(file), _, _) => of_file(file),
        (_, Some(url), _) => Ok(of_url(url)),
        (_, _, Some(folder)) => of_folder(folder),
        (None, None, None) => Err(Failure::usage("name a store")),
    }
}

/// The store that is meant, and how its secrets are kept.
pub(super) fn vault(args: &PlaceArgs) -> Result<(Location, VaultConfig), Failure> {
    if args.database.is_some() {
        return Err(Failure::usage("the vault key is with the configuration: name that"));
    }
    let config = args.config.as_deref().map(config).transpose()?;
    Ok((location(args)?, config.map(|config| config.vault).unwrap_or_default()))
}

/// Carries out a verb on stores.
pub async fn run(context: &Context, verb: StoreVerb) -> Result<Exit, Failure> {
    match verb {
        StoreVerb::Copy(args) => copy(context, &args).await,
    }
}

async fn copy(context: &Context, args: &CopyArgs) -> Result<Exit, Failure> {
    let (from, to) = (place(&args.from)?, place(&args.to)?);
    let out = context.out;
    let mut told = ("", 0);
    let progress = |table, rows| {
        if told.0 != table || rows - told.1 >= STEP {
            told = (table, rows);
            out.note(&format!("{table}: {rows} rows …"));
        }
    };
    let copied = db::copy(&from, &to, progress).await.map_err(failed)?;
    let tables: serde_json::Map<_, _> =
        copied.tables.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    out.object(&json!({ "tables": tables, "head": copied.head }));
    for (table, rows) in &copied.tables {
        out.line(&format!("{table:<18} {rows:>9} rows"));
    }
    let whole = out.paint(Tone::Good, "whole");
    out.line(&format!("{whole}: the same rows, and the same chain of {} events", copied.head.seq));
    out.line(&format!("head {}:{}", copied.head.seq, copied.head.hash));
    out.note("start no api on the old store any more: the two would part");
    Ok(Exit::Success)
}

pub(super) fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(format!("{:#}", anyhow::Error::new(error)))
}

/// A store, as a person names it.
fn place(text: &str) -> Result<Location, Failure> {
    let path = Path::new(text);
    if DatabaseUrl::new(text).is_postgres() {
        Ok(of_url(text))
    } else if path.extension().is_some_and(|extension| extension == "toml") {
        of_file(path)
    } else {
        of_folder(path)
    }
}

fn of_url(url: &str) -> Location {
    let database = DatabaseConfig { url: DatabaseUrl::new(url), ..DatabaseConfig::default() };
    Location { database, ..Location::default() }
}

fn of_folder(folder: &Path) -> Result<Location, Failure> {
    if !folder.is_dir() {
        let text = format!("{} is no folder, no postgres:// URL and no .toml", folder.display());
        return Err(Failure::usage(text));
    }
    Ok(Location { data_dir: folder.to_owned(), ..Location::default() })
}

fn of_file(path: &Path) -> Result<Location, Failure> {
    let config = config(path)?;
    Ok(Location { database: config.database, data_dir: config.data_dir })
}

fn config(path: &Path) -> Result<api::Config, Failure> {
    let config = match Role::of(path) {
        Some(Role::Api) => check::load::<api_role::Config>(path)?.api,
        _ => check::load::<platform::Config>(path)?.api,
    };
    config.check().map_err(failed)?;
    Ok(config)
}
