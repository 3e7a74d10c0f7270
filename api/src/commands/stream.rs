//! `GET /v1/commands/{id}/stream`

use std::convert::Infallible;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::Event as SseEvent;
use futures_util::future::ready;
use futures_util::{StreamExt as _, stream};
use protocol::id::CommandId;
use serde::Deserialize;

use super::wire::HowFar;
use super::{advanced, store};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::events::{self, EventQuery, EventView};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem, Query};

/// What else is told.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Also how far the command is while it runs: messages `advance`, which are no events.
    advance: Option<bool>,
}

/// Streams the story of a command from its begin, or from `Last-Event-ID` on.
#[utoipa::path(get, path = "/v1/commands/{id}/stream", tag = "commands",
    params(("id" = String, Path, format = "uuid"), StreamQuery), security(("token" = ["read"])),
    responses((status = 200, content_type = "text/event-stream", body = EventView),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn stream(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
    headers: HeaderMap,
    Query(also): Query<StreamQuery>,
) -> Result<impl IntoResponse, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let found = store::find(&mut conn, permit.reach(), id, app.now()).await?;
    found.ok_or_else(|| Problem::not_found("command"))?;
    drop(conn);
    let after = events::last_event_id(&headers)?.unwrap_or(0);
    let query = EventQuery { subject: Some(id.to_string()), kind: None };
    let advances = match also.advance {
        Some(true) => {
            advanced::follow(app.clone(), id).map(|how_far| Some(message(&how_far))).boxed()
        }
        Some(false) | None => stream::empty().boxed(),
    };
    let events = events::follow(app, principal, after, query)?;
    // Who may not have the events any more has nothing else either.
    let events = events.map(Some).chain(stream::once(ready(None)));
    let both = stream::select(events, advances).take_while(|message| ready(message.is_some()));
    Ok(events::respond(both.filter_map(ready).map(Ok::<_, Infallible>)))
}

fn message(how_far: &HowFar) -> SseEvent {
    let message = SseEvent::default().event("advance");
    message.json_data(how_far).unwrap_or_else(|_| SseEvent::default().event("unreadable"))
}
