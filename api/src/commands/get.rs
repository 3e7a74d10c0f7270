//! `GET /v1/commands/{id}`

use axum::Json;
use axum::extract::State;
use protocol::id::CommandId;

use super::store;
use super::wire::CommandView;
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};

/// Answers one command with its whole story.
#[utoipa::path(get, path = "/v1/commands/{id}", tag = "commands",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, body = CommandView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
) -> Result<Json<CommandView>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let found = store::find(&mut conn, permit.reach(), id, app.now()).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("command"))
}
