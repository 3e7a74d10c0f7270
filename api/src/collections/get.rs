//! `GET /v1/commands/{id}/collection`

use axum::Json;
use axum::extract::State;
use protocol::id::CommandId;

use super::{CollectionView, store};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};

/// Answers how much of what a command collected is here.
#[utoipa::path(get, path = "/v1/commands/{id}/collection", tag = "commands",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, body = CollectionView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
) -> Result<Json<CollectionView>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let found = store::view(&mut app.db.read().await?, &permit, id).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("collection"))
}
