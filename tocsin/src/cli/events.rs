//! `tocsin events`: the audit log, checked without believing who keeps it.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};

use api::audit::{self, ChainError, ChainHead, Marks, verify_json_lines, verify_store};
use clap::{Args, Subcommand};
use protocol::checkpoint::{self, Checkpoint};
use protocol::jws::{self, CompactJws};
use protocol::key::PublicKey;
use runtime::files;

use super::{Context, Exit, Failure};
use crate::output::Tone;

/// Name of the store in a data folder.
const STORE: &str = "tocsin.db";
/// Bytes of the largest file with checkpoints.
const CHECKPOINT_FILE: usize = 256 * 1024;
/// How every SQLite file begins (its file format, 1.3).
const SQLITE: &[u8] = b"SQLite format 3\0";

/// The verbs of `tocsin events`.
#[derive(Debug, Subcommand)]
pub enum EventsVerb {
    /// Check that no event was altered, removed or inserted; asks no server
    Verify(VerifyArgs),
    /// Write the whole log as JSON lines, as it is hashed
    Export {
        /// Where to; standard output without it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Arguments of `tocsin events verify`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["file", "data"])))]
pub struct VerifyArgs {
    /// A store (SQLite), or an export (JSON lines)
    pub file: Option<PathBuf>,
    /// A control plane's data folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// File with a checkpoint, such as a device's `checkpoint.json`: the log must bear it out. May be
    /// repeated. Those in a store are checked without it
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Vec<PathBuf>,
    /// Key that signed the checkpoints, `ed25519:…`; with an export, which names none
    #[arg(long, value_name = "KEY")]
    pub command_key: Vec<PublicKey>,
    /// The head that was written down earlier, `SEQ:HASH`: it must still be in the log
    #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
    pub head: Option<ChainHead>,
}

fn head(text: &str) -> Result<ChainHead, String> {
    let wrong = || "a head is SEQ:HASH, as `events verify` prints it".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    let seq = seq.parse().map_err(|_| wrong())?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { Ok(ChainHead { seq, hash: hash.to_ascii_lowercase() }) } else { Err(wrong()) }
}

/// Carries out a verb on the log.
pub async fn run(context: &Context, verb: EventsVerb) -> Result<Exit, Failure> {
    match verb {
        EventsVerb::Verify(args) => verify(context, args).await,
        EventsVerb::Export { out } => export(context, out.as_deref()).await,
    }
}

async fn verify(context: &Context, args: VerifyArgs) -> Result<Exit, Failure> {
    let path = match (args.file, args.data) {
        (Some(file), _) => file,
        (None, Some(data)) => data.join(STORE),
        (None, None) => return Err(Failure::usage("name a file, or a folder with --data")),
    };
    let given = read_checkpoints(&args.checkpoint)?;
    let checked = check(&path, &given, &args.command_key).await;
    let head = checked.map_err(|error| explain(&path, &error))?;
    let out = context.out;
    if let Some(known) = args.head
        && (head.seq < known.seq || (head.seq == known.seq && head.hash != known.hash))
    {
        let text =
            format!("the log ends at {}:{}, before or beside {}", head.seq, head.hash, known.seq);
        return Err(Failure::new(text).next("events were cut off, or this is another log"));
    }
    out.object(&head);
    let whole = out.paint(Tone::Good, "whole");
    out.line(&format!("{whole}: {} events, none altered, removed or inserted", head.seq));
    out.line(&format!("head {}:{}", head.seq, head.hash));
    out.note("write the head down elsewhere: a later check with --head notices a cut-off end");
    Ok(Exit::Success)
}

/// Every checkpoint in those files: a JWS by itself, or any in a JSON document.
fn read_checkpoints(files: &[PathBuf]) -> Result<Vec<CompactJws>, Failure> {
    let mut found = Vec::new();
    for file in files {
        let bytes = files::read_bounded(file, CHECKPOINT_FILE).map_err(Failure::of)?;
        let text = String::from_utf8_lossy(&bytes);
        let words = text.split(|c: char| c == '"' || c.is_whitespace());
        let before = found.len();
        found.extend(words.map(|word| CompactJws::from_text(word.to_owned())).filter(|jws| {
            jws::parse(jws, checkpoint::TYP, protocol::limits::CHECKPOINT_BYTES).is_ok()
        }));
        if found.len() == before {
            return Err(Failure::new(format!("{} holds no checkpoint", file.display())));
        }
    }
    Ok(found)
}

/// The places that checkpoints tell of, each signed by one of those keys.
fn marks(given: &[CompactJws], keys: &[PublicKey]) -> Result<Marks, ChainError> {
    let mut marks = Marks::new();
    for jws in given {
        let parsed = jws::parse(jws, checkpoint::TYP, protocol::limits::CHECKPOINT_BYTES);
        let parsed = parsed.map_err(|_| ChainError::Checkpoint)?;
        if !keys.iter().any(|key| parsed.verify(key).is_ok()) {
            return Err(ChainError::Checkpoint);
        }
        let checkpoint: Checkpoint = parsed.claims().map_err(|_| ChainError::Checkpoint)?;
        audit::mark(&mut marks, &checkpoint)?;
    }
    Ok(marks)
}

async fn check(
    path: &Path,
    given: &[CompactJws],
    keys: &[PublicKey],
) -> Result<ChainHead, ChainError> {
    let mut begin = [0; 16];
    let read = std::io::Read::read(&mut File::open(path)?, &mut begin)?;
    if begin.get(..read) == Some(SQLITE) {
        verify_store(path, given).await
    } else {
        verify_json_lines(BufReader::new(File::open(path)?), &marks(given, keys)?)
    }
}

fn explain(path: &Path, error: &ChainError) -> Failure {
    match error {
        ChainError::Broken(broken) => {
            Failure::new(format!("BROKEN at event {}: it {}", broken.seq, broken.reason)).next(
                "every event before it is genuine; compare the rest with an export kept elsewhere",
            )
        }
        ChainError::Io(source) => Failure::new(format!("cannot read {}: {source}", path.display())),
        ChainError::Line { line, source } => {
            Failure::new(format!("line {line} of {} is no event: {source}", path.display()))
        }
        ChainError::Checkpoint => Failure::new("a checkpoint was signed by none of the keys")
            .next("of an export, name the control plane's keys with --command-key"),
        ChainError::Trust => {
            Failure::of(ChainError::Trust).next("treat the control plane as broken into")
        }
        ChainError::Store(source) => {
            Failure::new(format!("cannot read the store {}: {source}", path.display()))
        }
    }
}

async fn export(context: &Context, path: Option<&Path>) -> Result<Exit, Failure> {
    let client = context.client()?;
    let Some(path) = path else {
        client.download("/v1/events/export", |bytes| context.out.raw(bytes)).await?;
        return Ok(Exit::Success);
    };
    let mut file = File::create_new(path)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", path.display())))?;
    let mut outcome = Ok(());
    client
        .download("/v1/events/export", |bytes| {
            if outcome.is_ok() {
                outcome = file.write_all(bytes);
            }
        })
        .await?;
    outcome.and_then(|()| file.sync_all())?;
    context.out.line(&format!("written to {}", path.display()));
    context.out.note(&format!("check it: tocsin events verify {}", path.display()));
    Ok(Exit::Success)
}
