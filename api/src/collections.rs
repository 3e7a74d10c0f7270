//! Collections: what devices collected beyond a first look, on its way to whoever holds the case's key.
//!
//! Owns the tables, the quota and the time that they are kept. A receipt names a collection before a
//! single chunk of it is taken, so what is taken has a number and a length within what was ordered, and its
//! device is known by its certificate. Nothing of it is ever opened here: the case's key lies with people, who hold what comes
//! against what the device signed.

use protocol::collection::{Collection, PATH};
use protocol::id::{CommandId, DeviceId};
use protocol::limits;
use protocol::receipt::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::{DbError, Tx};
use crate::http::Problem;
use crate::jobs::Found;
use crate::leases::Lease;
use crate::time::Time;

mod arrive;
mod chunk;
mod get;
mod settings;
mod store;

pub use self::settings::CollectionConfig;
pub(crate) use self::store::lose;

/// The job that removes what was kept long enough.
pub(crate) const JOB: &str = "collections";
/// Collections that one run of it removes.
const BATCH: i64 = 16;

/// The routes for operators.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get::get)).routes(routes!(chunk::chunk))
}

/// The routes for agents.
pub fn agent_router() -> axum::Router<App> {
    axum::Router::new()
        .route(&format!("{PATH}/{{id}}"), axum::routing::get(arrive::arrived))
        .route(&format!("{PATH}/{{id}}/{{number}}"), axum::routing::put(arrive::put))
}

/// How it stands with a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CollectionView {
    /// The command by which it was made.
    #[schema(value_type = String, format = "uuid")]
    pub command_id: CommandId,
    /// By whom.
    #[schema(value_type = String, format = "uuid")]
    pub device_id: DeviceId,
    /// How many chunks the device signed for.
    pub chunks: u32,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many chunks are here.
    pub arrived: u32,
    /// Bytes of those.
    pub arrived_bytes: u64,
    /// Since when all of it is here, and what the device signed for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub whole_at: Option<Time>,
    /// Since when it is lost: its device could not read it any more before all of it was here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lost_at: Option<Time>,
    /// Until when it is kept.
    #[schema(value_type = String, format = DateTime)]
    pub kept_until: Time,
}

/// A receipt ended its command: from now on the chunks that it names are taken, unless there are more than the
/// order has anybody collect. Most name none.
pub(crate) async fn expect(
    app: &App,
    tx: &mut Tx,
    (command, device, generation): (CommandId, DeviceId, u32),
    outcome: &Outcome,
) -> Result<(), DbError> {
    let Outcome::Succeeded { evidence } = outcome else { return Ok(()) };
    let Some(said) = Collection::of(evidence) else { return Ok(()) };
    let ordered = store::ordered_chunks(tx.conn(), command).await?;
    if said.chunks > ordered {
        tracing::warn!(command.id = %command, "device signed for more than it may collect");
        let payload = json!({ "chunks": said.chunks, "ordered": ordered });
        tx.append_by(Actor::Device(device), Kind::CollectionRefused, command, payload);
        return Ok(());
    }
    let kept_until = tx.now().plus(app.config.collections.kept);
    store::expect(tx, (command, device, generation), &said, kept_until).await
}

/// Removes what was kept long enough, whether or not all of it came.
pub(crate) async fn forget(app: App, lease: Lease) -> Result<Found, Problem> {
    let now = app.now();
    if store::past_their_end(&mut app.db.read().await?, now, 1).await?.is_empty() {
        return Ok(Found::Nothing);
    }
    let Some(mut tx) = lease.write(&app, now).await? else { return Ok(Found::Nothing) };
    let over = store::past_their_end(tx.conn(), now, BATCH).await?;
    for (command, whole) in &over {
        store::remove(&mut tx, *command).await?;
        tx.append(Kind::CollectionRemoved, command, json!({ "was_whole": whole }));
    }
    tx.commit().await?;
    let is_full = i64::try_from(over.len()).is_ok_and(|count| count == BATCH);
    Ok(if is_full { Found::More } else { Found::Nothing })
}

/// Bytes of the largest sealed chunk.
const CHUNK_BYTES: usize = limits::CHUNK_BYTES + protocol::sealed::TAG_BYTES;
