//! `tocsin collect-evidence` and `tocsin evidence`: what devices show of themselves, sealed to a case.
//!
//! Owns the case's key file and the opening. What devices collected is opened only after the receipt
//! that carries it was verified, and goes into a file: it is hostile, and nothing for a terminal.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use protocol::action::{Action, CollectEvidence, Sources};
use protocol::id::CommandId;
use protocol::receipt::Outcome;
use protocol::sealed::{CaseKey, CaseSecret};
use runtime::files::{PRIVATE, write_atomic};
use serde_json::json;

use super::order::{OrderArgs, give};
use super::{Context, Exit, Failure, ask, proof};
use crate::casefile;
use crate::keyfile::{Cost, KeyFileError};

mod fetch;

/// Arguments of `tocsin collect-evidence`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    /// The public half of the case's key, as `tocsin evidence new-key` prints it
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub case_key: CaseKey,
    /// Also the memory of this process: its id, or its name for all that have it
    #[arg(long, value_name = "PID|NAME")]
    pub process: Vec<String>,
    /// Also the device's logs: the journal and /var/log
    #[arg(long)]
    pub logs: bool,
    /// Also this file or folder, absolute; `*` stands for any part of a name
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// How much of one file or region of memory at most, such as 512K
    #[arg(long, value_parser = size, default_value = "16M", value_name = "SIZE")]
    pub item_size: u64,
    /// How much of all files and memory at most, such as 1G
    #[arg(long, value_parser = size, default_value = "256M", value_name = "SIZE")]
    pub size: u64,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// The verbs of `tocsin evidence`.
#[derive(Debug, Subcommand)]
pub enum EvidenceVerb {
    /// Make the key of a case, sealed with a passphrase; whoever has both reads the evidence
    NewKey {
        /// Where to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// File with the passphrase, in place of the prompt
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Verify what a device collected, and open it into a file
    Open {
        /// A command's id, or a file that `tocsin proof ID --json` wrote
        #[arg(value_name = "COMMAND|FILE")]
        what: String,
        /// The case's key.
        #[command(flatten)]
        key: KeyArgs,
        /// Where to, as JSON
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Download the files, logs and memory that a device collected, verify and unpack them
    Fetch {
        /// The command
        #[arg(value_name = "COMMAND")]
        command: CommandId,
        /// The case's key.
        #[command(flatten)]
        key: KeyArgs,
        /// Folder to download into; goes on where an earlier download broke off
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Verify and unpack what was downloaded before; asks nothing of any server
    Unpack {
        /// The folder that it was downloaded into
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// The case's key.
        #[command(flatten)]
        key: KeyArgs,
    },
}

/// A size in bytes: a number with `K`, `M` or `G` behind it, or none.
fn size(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (text.get(..at), 1 << 10),
        Some((at, 'M' | 'm')) => (text.get(..at), 1 << 20),
        Some((at, 'G' | 'g')) => (text.get(..at), 1 << 30),
        Some(_) | None => (Some(text), 1),
    };
    let bytes = number.and_then(|number| number.parse::<u64>().ok()?.checked_mul(factor));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "a size is a number with K, M or G".to_owned())
}

/// The key that something was sealed to.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The private half of the key that it was sealed to
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// File with the passphrase of the key, in place of the prompt
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Has devices collect evidence.
pub async fn collect(context: &Context, args: CollectArgs) -> Result<Exit, Failure> {
    let is_more = args.logs || !args.process.is_empty() || !args.path.is_empty();
    let sources = is_more.then(|| Sources {
        processes: args.process,
        logs: args.logs,
        paths: args.path,
        item_bytes: args.item_size.min(args.size),
        total_bytes: args.size,
    });
    let collect = CollectEvidence { case_key: args.case_key, sources };
    give(context, Action::CollectEvidence(collect), args.order).await
}

/// Carries out a verb on evidence.
pub async fn run(context: &Context, verb: EvidenceVerb) -> Result<Exit, Failure> {
    match verb {
        EvidenceVerb::NewKey { out, passphrase_file } => {
            new_key(context, (&out, passphrase_file.as_deref()), "case_key")
        }
        EvidenceVerb::Open { what, key, out } => open(context, &what, &key, &out).await,
        EvidenceVerb::Fetch { command, key, out } => {
            fetch::fetch(context, (command, &key), &out).await
        }
        EvidenceVerb::Unpack { folder, key } => fetch::unpack(context, &key, &folder),
    }
}

/// Makes a key that something is sealed to, in that file, sealed with a passphrase.
pub(super) fn new_key(
    context: &Context,
    (file, passphrase_file): (&Path, Option<&Path>),
    name: &'static str,
) -> Result<Exit, Failure> {
    if file.exists() {
        return Err(KeyFileError::Exists(file.to_owned()).into());
    }
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase = ask::passphrase(passphrase_file, variable.as_deref(), true)?;
    let public = casefile::create(file, (&passphrase, Cost::DEFAULT), &context.entropy)?;
    context.out.object(&json!({ name: public }));
    context.out.line(&public.to_string());
    Ok(Exit::Success)
}

/// The private half in that file.
pub(super) fn secret(args: &KeyArgs) -> Result<CaseSecret, Failure> {
    if !casefile::is_sealed(&args.key)? {
        return Ok(casefile::open_plain(&args.key)?);
    }
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase = ask::passphrase(args.passphrase_file.as_deref(), variable.as_deref(), false)?;
    Ok(casefile::open(&args.key, &passphrase)?)
}

async fn open(context: &Context, what: &str, key: &KeyArgs, file: &Path) -> Result<Exit, Failure> {
    let secret = secret(key)?;
    let found = match what.parse::<CommandId>() {
        Ok(id) => proof::fetch(&context.client()?, id).await?,
        Err(_) => proof::read(Path::new(what))?,
    };
    let receipt = found.verify().map_err(|error| Failure::new(format!("NOT PROVEN: {error}")))?;
    let nothing = || Failure::new("the device has collected nothing by this command");
    let Outcome::Succeeded { evidence } = &receipt.outcome else { return Err(nothing()) };
    let sealed = evidence.get("sealed").and_then(|sealed| sealed.as_str()).ok_or_else(nothing)?;
    let about = receipt.command_id.to_string();
    let opened = secret
        .open(sealed, about.as_bytes())
        .map_err(|error| Failure::new(format!("the evidence does not open: {error}")))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &opened);
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if evidence.get("evidence_sha256").and_then(|signed| signed.as_str()) != Some(&sha256) {
        return Err(Failure::new("NOT PROVEN: the evidence is not what the device signed for"));
    }
    write_atomic(file, &opened, PRIVATE).map_err(Failure::of)?;
    let said = json!({ "command_id": receipt.command_id, "evidence_sha256": sha256 });
    context.out.object(&said);
    let line = format!("evidence in {}: verified, sha-256 {sha256}", file.display());
    context.out.line(&line);
    Ok(Exit::Success)
}
