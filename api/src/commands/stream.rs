//! `GET /v1/commands/{id}/stream`

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use protocol::id::CommandId;

use super::store;
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::events::{self, EventQuery, EventView};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};

/// Streams the story of a command from its begin, or from `Last-Event-ID` on.
#[utoipa::path(get, path = "/v1/commands/{id}/stream", tag = "commands",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, content_type = "text/event-stream", body = EventView),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn stream(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let found = store::find(&mut conn, permit.reach(), id, app.now()).await?;
    found.ok_or_else(|| Problem::not_found("command"))?;
    drop(conn);
    let after = events::last_event_id(&headers)?.unwrap_or(0);
    let query = EventQuery { subject: Some(id.to_string()), kind: None };
    events::follow(app, principal, after, query)
}
