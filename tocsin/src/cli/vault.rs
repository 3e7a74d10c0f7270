//! `tocsin vault`: the keys that seal secrets in the store. It works on the store itself.

use std::path::PathBuf;

use api::db::Db;
use api::vault::{self, Status, VaultConfig};
use clap::{Args, Subcommand};
use serde_json::json;

use super::store::{self, PlaceArgs};
use super::{Context, Exit, Failure};
use crate::output::{Out, Tone, text};

/// The verbs of `tocsin vault`.
#[derive(Debug, Subcommand)]
pub enum VaultVerb {
    /// Show which key seals, and what is not sealed by it yet
    Status(PlaceArgs),
    /// Have another data key seal from now on; the control plane seals the rest anew
    Rotate(PlaceArgs),
    /// Put a fresh vault key first in the data folder's vault.key; the next start wraps by it
    NewKey(NewKeyArgs),
}

/// Arguments of `tocsin vault new-key`.
#[derive(Debug, Args)]
pub struct NewKeyArgs {
    /// Data folder
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Carries one of them out.
pub async fn run(context: &Context, verb: VaultVerb) -> Result<Exit, Failure> {
    let place = match &verb {
        VaultVerb::Status(place) | VaultVerb::Rotate(place) => place,
        VaultVerb::NewKey(args) => return new_key(context, args),
    };
    let (location, config) = store::vault(place)?;
    let db = Db::open(&location.database, &location.data_dir).await.map_err(store::failed)?;
    let outcome = turn(context, &db, &verb, (&config, &location.data_dir)).await;
    db.close().await;
    let status = outcome?;
    show(context.out, &status);
    Ok(Exit::Success)
}

async fn turn(
    context: &Context,
    db: &Db,
    verb: &VaultVerb,
    place: (&VaultConfig, &std::path::Path),
) -> Result<Status, Failure> {
    if let VaultVerb::Rotate(_) = verb {
        let surroundings = (context.now(), &context.entropy);
        vault::rotate(db, place, surroundings).await.map_err(store::failed)?;
        context
            .out
            .note("another data key seals; `tocsin vault status` tells when all is sealed by it");
    }
    vault::status(db).await.map_err(store::failed)
}

fn show(out: Out, status: &Status) {
    let since = api::time::Time(status.since).to_string();
    let progress = &status.progress;
    out.object(&json!({
        "data_key": status.data_key,
        "since": since,
        "vault_key": status.vault_key,
        "former": progress.former,
        "has_clear": progress.has_clear,
        "waiting": progress.waiting,
    }));
    out.line(&format!("data key    {} since {since}", status.data_key));
    out.line(&format!("vault key   {}", status.vault_key));
    if progress.former.is_empty() && !progress.has_clear {
        out.line(&out.paint(Tone::Good, "every secret is sealed by this data key"));
        return;
    }
    let waiting = usize::try_from(progress.waiting).unwrap_or(usize::MAX);
    out.line(&format!("waiting     {}", text::count(waiting, "text")));
    if progress.has_clear {
        out.line(
            &out.paint(Tone::Bad, "older texts may lie in the clear: the control plane seals them"),
        );
    }
    for key in &progress.former {
        out.line(&format!("former      {key}, kept until nothing is sealed by it"));
    }
}

fn new_key(context: &Context, args: &NewKeyArgs) -> Result<Exit, Failure> {
    let file = args.data.join(vault::KEY_FILE);
    let id = vault::add_key(&file, context.entropy.clone()).map_err(store::failed)?;
    let out = context.out;
    out.object(&json!({ "vault_key": id, "file": file }));
    out.line(&format!("{id} is the first key of {}", file.display()));
    out.note("copy the file to every node, restart each, and back it up apart from the store");
    Ok(Exit::Success)
}
