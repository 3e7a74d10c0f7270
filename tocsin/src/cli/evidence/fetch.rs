//! `tocsin evidence fetch` and `unpack`: what devices collected beyond a first look.
//!
//! Owns the folder that it goes into: the proof, the sealed chunks as they came, and the items. Nothing
//! is opened before the receipt was verified and every chunk held against it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use protocol::collection::{ChunkHashes, Collection};
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::receipt::Outcome;
use protocol::sealed::CaseSecret;
use runtime::files::{PRIVATE, read_bounded, write_atomic};
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
    for number in 0..collection.chunks {
        download(&client, (command, &collection), number, &chunk_path(&sealed, number)).await?;
    }
    open(context, (&found, &secret), folder)
}

/// Unpacks what was downloaded before; asks nothing of any server.
pub(super) fn unpack(context: &Context, key: &KeyArgs, folder: &Path) -> Result<Exit, Failure> {
    let secret = super::secret(key)?;
    let found = proof::read(&folder.join(PROOF))?;
    open(context, (&found, &secret), folder)
}

async fn download(
    client: &Client,
    (command, of): (CommandId, &Collection),
    number: u32,
    to: &Path,
) -> Result<(), Failure> {
    let length = of.chunk_bytes(number).unwrap_or_default();
    let is_here = fs::symlink_metadata(to)
        .is_ok_and(|there| there.is_file() && usize::try_from(there.len()) == Ok(length));
    if is_here {
        return Ok(());
    }
    let path = format!("/v1/commands/{command}/collection/chunk?number={number}");
    let sealed = client.bytes(&path).await.map_err(|error| {
        Failure::from(error)
            .next("if the device is still sending, ask again later: what is here already is kept")
    })?;
    write_atomic(to, &sealed, PRIVATE).map_err(Failure::of)
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
    verify(&collection, &chunks)?;
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

/// Every chunk is what the device signed for, before anything is opened.
fn verify(collection: &Collection, chunks: &[PathBuf]) -> Result<(), Failure> {
    let mut hashes = ChunkHashes::default();
    for (number, path) in (0..).zip(chunks) {
        let length = collection.chunk_bytes(number).unwrap_or_default();
        hashes.add(&Hash::sha256(&read_bounded(path, length).map_err(Failure::of)?));
    }
    if hashes.finish() == collection.chunks_sha256 {
        Ok(())
    } else {
        Err(Failure::new("NOT PROVEN: the chunks are not what the device signed for"))
    }
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
