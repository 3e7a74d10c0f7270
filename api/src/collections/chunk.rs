//! `GET /v1/commands/{id}/collection/chunk`

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use protocol::id::CommandId;
use serde::Deserialize;

use super::store;
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem, Query};

/// Which chunk.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChunkQuery {
    /// Its number, from 0.
    #[serde(default)]
    number: u32,
}

/// Answers one sealed chunk of what a command collected, as it came. Whoever asks holds it against the
/// receipt.
#[utoipa::path(get, path = "/v1/commands/{id}/collection/chunk", tag = "commands",
    params(("id" = String, Path, format = "uuid"), ChunkQuery), security(("token" = ["read"])),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn chunk(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
    Query(query): Query<ChunkQuery>,
) -> Result<Response, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let found = store::chunk(&mut app.db.read().await?, &permit, (id, query.number)).await?;
    let sealed = found.ok_or_else(|| Problem::not_found("chunk"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], sealed).into_response())
}
