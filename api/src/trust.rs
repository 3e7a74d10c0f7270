//! The trust root: which version is in force, and how the next one comes in.
//!
//! Owns the chain of versions. The control plane only passes versions on: what makes one valid
//! are the signatures of the offline root keys, checked here early and on every device again.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::frame::HubFrame;
use protocol::id::KeyId;
use protocol::trust::{SignedTrustRoot, TrustRoot};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Act, Permit, Principal, ability};
use crate::db::{Conn, DbError, Tx};
use crate::http::problem::ProblemBody;
use crate::http::{Begun, Body, Once, Problem, ProblemKind};
use crate::installation;

mod push;
mod store;

pub(crate) use self::push::push_to_present;

/// Versions in one answer to an agent that is behind: each may be 48 KiB.
const VERSIONS: i64 = 8;

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_current, succeed)).routes(routes!(get_chain))
}

/// A version as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TrustView {
    /// Counts up by one.
    pub version: u32,
    /// The signed document, whole.
    #[schema(value_type = Vec<String>)]
    pub signed: SignedTrustRoot,
    /// What it says.
    #[schema(value_type = Object)]
    pub root: TrustRoot,
}

/// A version that is handed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SucceedRequest {
    /// The signed document: one JWS per root key.
    #[schema(value_type = Vec<String>)]
    pub signed: SignedTrustRoot,
}

/// The version that was read last: what a number stands for never changes, which one is in force does.
#[derive(Debug, Default)]
pub struct Known(ArcSwapOption<TrustView>);

/// The version in force, read only when its number is new. Not for a transaction that writes one: what is
/// rolled back was none.
pub(crate) async fn newest(app: &App, conn: &mut Conn) -> Result<Arc<TrustView>, DbError> {
    let version = store::version(conn).await?;
    if let Some(known) = app.trust.0.load_full().filter(|known| Some(known.version) == version) {
        return Ok(known);
    }
    let current = Arc::new(current(conn).await?);
    app.trust.0.store(Some(current.clone()));
    Ok(current)
}

/// The version in force.
pub(crate) async fn current(conn: &mut Conn) -> Result<TrustView, DbError> {
    store::current(conn).await?.ok_or(DbError::Unreadable("trust root"))
}

/// The trust root in force in a store's file, which is opened for reading only.
///
/// # Errors
/// When the file cannot be read, or holds none.
pub async fn in_file(path: &Path) -> Result<TrustRoot, DbError> {
    Ok(current(&mut Conn::read_only(path)?).await?.root)
}

/// The names of the command keys that devices obey under the version in force.
pub(crate) async fn command_keys(conn: &mut Conn) -> Result<Vec<KeyId>, DbError> {
    let keys = store::current(conn).await?.map(|view| view.root.command_keys).unwrap_or_default();
    Ok(keys.into_iter().map(|command| command.key.id().clone()).collect())
}

/// Whether there is no version yet: this is the first start.
pub(crate) async fn is_missing(conn: &mut Conn) -> Result<bool, DbError> {
    Ok(store::current(conn).await?.is_none())
}

/// The frames that bring an agent from its version forward, in order.
pub(crate) async fn frames_after(conn: &mut Conn, version: u32) -> Result<Vec<HubFrame>, DbError> {
    let versions = store::after(conn, version, VERSIONS).await?;
    Ok(versions.into_iter().map(|view| HubFrame::Trust { root: view.signed }).collect())
}

/// Takes the first version, at the first start.
pub(crate) async fn pin_first(tx: &mut Tx, signed: SignedTrustRoot) -> Result<(), Problem> {
    let root = signed.pin().map_err(|error| Problem::internal(&error))?;
    accept(tx, signed, root).await?;
    Ok(())
}

async fn accept(
    tx: &mut Tx,
    signed: SignedTrustRoot,
    root: TrustRoot,
) -> Result<TrustView, DbError> {
    let view = TrustView { version: root.version, signed, root };
    store::insert(tx, &view).await?;
    let hashes: Vec<_> = view.signed.signatures().iter().map(|jws| jws.sha256()).collect();
    tx.append(Kind::TrustRootAccepted, view.version, json!({ "sha256": hashes }));
    Ok(view)
}

/// Answers the version in force.
#[utoipa::path(get, path = "/v1/trust", tag = "trust", security(("token" = ["read"])),
    responses((status = 200, body = TrustView), (status = "4XX", body = ProblemBody)))]
async fn get_current(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<TrustView>, Problem> {
    let _permit: Permit<ability::Read> = principal.permit()?;
    Ok(axum::Json(current(&mut app.db.read().await?).await?))
}

/// Answers every version, oldest first.
#[utoipa::path(get, path = "/v1/trust/chain", tag = "trust", security(("token" = ["read"])),
    responses((status = 200, body = Vec<TrustView>), (status = "4XX", body = ProblemBody)))]
async fn get_chain(
    State(app): State<App>,
    principal: Principal,
) -> Result<axum::Json<Vec<TrustView>>, Problem> {
    let _permit: Permit<ability::Read> = principal.permit()?;
    Ok(axum::Json(store::after(&mut app.db.read().await?, 0, i64::MAX).await?))
}

/// Takes the next version, and passes it on to every device.
#[utoipa::path(post, path = "/v1/trust", tag = "trust", security(("token" = ["trust"])),
    request_body = SucceedRequest,
    responses((status = 201, body = TrustView), (status = "4XX", body = ProblemBody)))]
async fn succeed(
    State(app): State<App>,
    principal: Principal,
    body: Body<SucceedRequest>,
) -> Result<Response, Problem> {
    let _permit: Permit<ability::Trust> = principal.permit()?.everywhere()?;
    let now = app.now();
    let mut once = match Once::begin(&app.db, &principal, body.ticket, now).await? {
        Begun::Fresh(once) => once,
        Begun::Replay(response) => return Ok(response),
    };
    principal.step_up((&app, once.tx().conn()), Act::PublishTrust).await?;
    let current = current(once.tx().conn()).await?;
    let signed = body.value.signed;
    let root = signed
        .succeed(&current.root)
        .map_err(|error| Problem::field("/signed", error.to_string()))?;
    if root.command_key(app.command_key.public().id()).is_none() {
        let detail = "the next version does not name the command key of this control plane";
        return Err(Problem::new(ProblemKind::Invalid, detail));
    }
    let recorded = installation::authority_pin(once.tx().conn()).await?;
    for pin in recorded.into_iter().chain([app.authority().trust_pin()]) {
        if !root.may_vouch(pin) {
            let detail = format!(
                "the next version pins other authorities than that of this control plane, {pin}"
            );
            return Err(Problem::new(ProblemKind::Invalid, detail));
        }
    }
    let view = accept(once.tx(), signed, root).await?;
    let response = once.finish(StatusCode::CREATED, &view).await?;
    push_to_present(&app).await;
    Ok(response)
}
