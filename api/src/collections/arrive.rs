//! `GET /agent/v1/collections/{id}` and `PUT /agent/v1/collections/{id}/{number}`: a device brings what
//! its receipt named.
//!
//! The same chunk may come again, and changes nothing; another one in its place is refused. The last one
//! is taken only when all of them together are what the device signed for. A collection that is not taken at
//! all is gone, for good: its device may forget it.

use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use protocol::collection::{Arrived, ChunkHashes};
use protocol::enrollment::DeviceIdentity;
use protocol::id::CommandId;
use protocol::limits;
use protocol::manifest::Hash;
use runtime::http::ConnectionInfo;
use serde_json::json;

use super::CHUNK_BYTES;
use super::store::{self, Standing};
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::{Conn, Tx};
use crate::devices;
use crate::http::{Path, Problem, ProblemKind};

/// When to come again with what does not fit.
const FULL_WAIT: Duration = Duration::from_secs(10 * 60);

/// Answers which chunks are missing.
pub(super) async fn arrived(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(command): Path<CommandId>,
) -> Result<Json<Arrived>, Problem> {
    let identity = devices::authenticate(&app, &connection).await?;
    app.limits.chunk(identity.device)?;
    let mut conn = app.db.read().await?;
    let standing = standing(&mut conn, identity, command).await?;
    if standing.is_whole || standing.is_lost {
        return Ok(Json(Arrived { missing: Vec::new() }));
    }
    let here = store::numbers(&mut conn, command).await?;
    let missing = (0..standing.said.chunks).filter(|number| !here.contains(number));
    Ok(Json(Arrived { missing: missing.take(limits::MISSING_CHUNKS).collect() }))
}

/// Takes one chunk.
pub(super) async fn put(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    Path((command, number)): Path<(CommandId, u32)>,
    request: HttpBody,
) -> Result<StatusCode, Problem> {
    let identity = devices::authenticate(&app, &connection).await?;
    app.limits.chunk(identity.device)?;
    // A stranger to the collection takes nobody's place.
    standing(&mut app.db.read().await?, identity, command).await?;
    let _place = app.limits.chunk_place(identity.device)?;
    // Read even where it is refused: who is still sending would miss the answer.
    let sealed = axum::body::to_bytes(request, CHUNK_BYTES)
        .await
        .map_err(|_| Problem::new(ProblemKind::TooLarge, "longer than a chunk"))?;
    let standing = standing(&mut app.db.read().await?, identity, command).await?;
    let length = standing.said.chunk_bytes(number).ok_or_else(|| Problem::not_found("chunk"))?;
    if sealed.len() != length {
        let detail = format!("this chunk has {length} bytes");
        return Err(Problem::new(ProblemKind::Invalid, detail));
    }
    let hash = Hash::sha256(&sealed);
    let mut tx = app.db.write(Actor::Device(identity.device), app.now()).await?;
    // Read again inside the transaction: another one may have come in between.
    let standing = self::standing(tx.conn(), identity, command).await?;
    if standing.is_lost {
        return Err(Problem::conflict("the device has said that this collection is lost"));
    }
    match store::hash(tx.conn(), command, number).await? {
        Some(kept) if kept == hash.as_bytes() => return Ok(StatusCode::NO_CONTENT),
        Some(_) => return Err(Problem::conflict("another chunk is in that place")),
        None => {}
    }
    let held = store::held_bytes(tx.conn()).await?;
    if held.saturating_add(length as u64) > app.config.collections.total_bytes {
        return Err(Problem::too_many("bytes of collections", FULL_WAIT));
    }
    store::insert(&mut tx, (command, number), hash.as_bytes(), sealed.to_vec()).await?;
    if standing.arrived + 1 == standing.said.chunks {
        complete(&mut tx, command, &standing).await?;
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The last chunk is here: all of them are what the device signed for, or none is kept.
async fn complete(tx: &mut Tx, command: CommandId, standing: &Standing) -> Result<(), Problem> {
    let mut hashes = ChunkHashes::default();
    for hash in store::hashes(tx.conn(), command).await? {
        hashes.add(&hash);
    }
    if hashes.finish() != standing.said.chunks_sha256 {
        tracing::warn!(command.id = %command, "chunks are not what their device signed for");
        store::empty(tx, command).await?;
        return Ok(());
    }
    store::finish(tx, command).await?;
    let payload = json!({
        "chunks": standing.said.chunks,
        "bytes": standing.said.bytes,
        "chunks_sha256": standing.said.chunks_sha256,
    });
    tx.append(Kind::CollectionArrived, command, payload);
    Ok(())
}

async fn standing(
    conn: &mut Conn,
    identity: DeviceIdentity,
    command: CommandId,
) -> Result<Standing, Problem> {
    // First whether it is over: a receipt that is stored between two looks must not make a device that is early
    // forget what is not here.
    let is_over = store::is_over(conn, identity, command).await?;
    match store::find(conn, identity, command).await? {
        Some(standing) => Ok(standing),
        None if is_over => Err(Problem::new(
            ProblemKind::Gone,
            "more than was ordered, not signed for, or kept long enough: it is not taken any more",
        )),
        None => Err(Problem::not_found("collection of this device")),
    }
}
