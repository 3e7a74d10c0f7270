//! `tocsin evidence fetch` and `unpack`: what devices collected beyond a first look.
//!
//! Owns the folder that it goes into: the proof, the sealed chunks as they came, and the items. Nothing
//! is opened before the receipt was verified and every chunk held against it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use api::collections::CollectionView;
use protocol::collection::{ChunkHashes, Collection};
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::receipt::Outcome;
use protocol::sealed::CaseSecret;
use runtime::files::{FileError, PRIVATE, read_bounded, write_atomic};
use serde_json::json;

use super::KeyArgs;
use crate::cli::{Context, Exit, Failure, proof};
use crate::client::Client;
use crate::proof::Proof;
use crate::unpack::{self, Unpacked};

/// The proof in the folder.
const PROOF: &str = "proof.json";
/// The sealed chunks in the folder.
const SEALED: &str = "sealed";
/// Chunks that are named, where they are not what was signed for.
const NAMED: usize = 8;
/// The items in the folder.
const ITEMS: &str = "items";

/// Downloads what a command collected, and unpacks it. What is there already is not asked for again.
pub(super) async fn fetch(
    context: &Context,
    (command, key): (CommandId, &KeyArgs),
    folder: &Path,
) -> Result<Exit, Failure> {
    let secret = super::secret(key)?;
    let client = context.client()?;
    let found = proof::fetch(&client, command).await?;
    let collection = collected(&found)?;
    let sealed = folder.join(SEALED);
    DirBuilder::new().recursive(true).mode(0o700).create(&sealed).map_err(Failure::of)?;
    let about = folder.join(PROOF);
    if about.exists() && proof::read(&about)?.command.id != command {
        return Err(Failure::new(format!("{} is another command's", folder.display())));
    }
    let text = serde_json::to_vec_pretty(&found).map_err(Failure::of)?;
    write_atomic(&about, &text, PRIVATE).map_err(Failure::of)?;
    not_lost(&client, command).await?;
    for number in 0..collection.chunks {
        let path = chunk_path(&sealed, number);
        if !is_here(&path, &collection, number) {
            download(&client, command, number, &path).await?;
        }
    }
    mend(context, &client, (&found, &secret), &sealed).await?;
    open(context, (&found, &secret), folder)
}

/// Unpacks what was downloaded before; asks nothing of any server.
pub(super) fn unpack(context: &Context, key: &KeyArgs, folder: &Path) -> Result<Exit, Failure> {
    let secret = super::secret(key)?;
    let found = proof::read(&folder.join(PROOF))?;
    open(context, (&found, &secret), folder)
}

/// What its device has lost nobody waits for.
async fn not_lost(client: &Client, command: CommandId) -> Result<(), Failure> {
    let view: CollectionView = client.get(&format!("/v1/commands/{command}/collection")).await?;
    let Some(at) = view.lost_at else { return Ok(()) };
    let said = format!("the device could not read what it collected any more, and said so at {at}");
    Err(Failure::new(said).next("order it again: tocsin collect-evidence"))
}

/// Whether a chunk is here, by its length.
fn is_here(path: &Path, of: &Collection, number: u32) -> bool {
    let length = of.chunk_bytes(number).unwrap_or_default();
    fs::symlink_metadata(path)
        .is_ok_and(|there| there.is_file() && usize::try_from(there.len()) == Ok(length))
}

async fn download(
    client: &Client,
    command: CommandId,
    number: u32,
    to: &Path,
) -> Result<(), Failure> {
    let path = format!("/v1/commands/{command}/collection/chunk?number={number}");
    let sealed = client.bytes(&path).await.map_err(|error| {
        Failure::from(error)
            .next("if the device is still sending, ask again later: what is here already is kept")
    })?;
    write_atomic(to, &sealed, PRIVATE).map_err(Failure::of)
}

/// Fetches again what is not as the device sealed it: it may have rotted here, or been altered.
async fn mend(
    context: &Context,
    client: &Client,
    (found, secret): (&Proof, &CaseSecret),
    sealed: &Path,
) -> Result<(), Failure> {
    let collection = collected(found)?;
    if is_proven(&collection, sealed) {
        return Ok(());
    }
    for number in altered((found, secret), &collection, sealed)? {
        context
            .out
            .note(&format!("chunk {number} is not what the device sealed: fetching it again"));
        download(client, found.command.id, number, &chunk_path(sealed, number)).await?;
    }
    if is_proven(&collection, sealed) {
        return Ok(());
    }
    Err(not_proven(&altered((found, secret), &collection, sealed)?)
        .next("the control plane itself has it so: order it again"))
}

/// The numbers of the chunks that are not what the device sealed, in their order.
fn altered(
    (found, secret): (&Proof, &CaseSecret),
    collection: &Collection,
    sealed: &Path,
) -> Result<Vec<u32>, Failure> {
    let about = found.command.id.to_string();
    let opener = secret.chunks(about.as_bytes(), &collection.once);
    let mut opener = opener.map_err(Failure::of)?;
    let mut is_altered = |number: &u32| {
        let chunk = read_chunk(collection, sealed, *number).unwrap_or_default();
        opener.open(chunk, number + 1 == collection.chunks).is_err()
    };
    Ok((0..collection.chunks).filter(|number| is_altered(number)).collect())
}

fn not_proven(altered: &[u32]) -> Failure {
    let numbers: Vec<_> = altered.iter().take(NAMED).map(u32::to_string).collect();
    let more = if altered.len() > NAMED { ", …" } else { "" };
    let which = match altered {
        [] => String::new(),
        [only] => format!(": chunk {only} is another"),
        _ => format!(": chunks {}{more} are others", numbers.join(", ")),
    };
    Failure::new(format!("NOT PROVEN: the chunks are not what the device signed for{which}"))
}

fn open(
    context: &Context,
    (found, secret): (&Proof, &CaseSecret),
    folder: &Path,
) -> Result<Exit, Failure> {
    let collection = collected(found)?;
    if folder.join(ITEMS).exists() {
        return Err(Failure::new(format!("{} holds what was unpacked already", folder.display())));
    }
    let sealed = folder.join(SEALED);
    let numbers = 0..collection.chunks;
    let chunks: Vec<_> = numbers.map(|number| chunk_path(&sealed, number)).collect();
    // Before anything is opened into a file.
    if !is_proven(&collection, &sealed) {
        return Err(not_proven(&altered((found, secret), &collection, &sealed)?)
            .next("get it again: tocsin evidence fetch"));
    }
    let (items, command) = (folder.join(ITEMS), found.command.id);
    let about = command.to_string();
    let opener = secret.chunks(about.as_bytes(), &collection.once).map_err(Failure::of)?;
    let Unpacked { items: count, left_out, bytes } = unpack::into(&items, opener, &chunks)
        .map_err(|error| Failure::new(format!("the collection does not open: {error}")))?;
    context.out.object(&json!({
        "command_id": command,
        "chunks_sha256": collection.chunks_sha256,
        "items": count,
        "left_out": left_out,
        "bytes": bytes,
    }));
    context.out.line(&format!(
        "{count} items, {bytes} bytes in {}: verified, exactly what the device signed",
        items.display()
    ));
    if left_out > 0 {
        context
            .out
            .line(&format!("{left_out} of them are not whole, or not there: index.json says why"));
    }
    Ok(Exit::Success)
}

/// Whether every chunk is what the device signed for.
fn is_proven(collection: &Collection, sealed: &Path) -> bool {
    let mut hashes = ChunkHashes::default();
    for number in 0..collection.chunks {
        match read_chunk(collection, sealed, number) {
            Ok(chunk) => hashes.add(&Hash::sha256(&chunk)),
            Err(_) => return false,
        }
    }
    hashes.finish() == collection.chunks_sha256
}

fn read_chunk(of: &Collection, sealed: &Path, number: u32) -> Result<Vec<u8>, FileError> {
    read_bounded(&chunk_path(sealed, number), of.chunk_bytes(number).unwrap_or_default())
}

/// What the device signed for.
fn collected(found: &Proof) -> Result<Collection, Failure> {
    let receipt = found.verify().map_err(|error| Failure::new(format!("NOT PROVEN: {error}")))?;
    let Outcome::Succeeded { evidence } = &receipt.outcome else {
        return Err(Failure::new("the device has collected nothing by this command"));
    };
    Collection::of(evidence).ok_or_else(|| {
        Failure::new("the device has collected no more than a first look by this command")
            .next(format!("open that: tocsin evidence open {}", receipt.command_id))
    })
}

fn chunk_path(sealed: &Path, number: u32) -> PathBuf {
    sealed.join(format!("{number:06}"))
}
