//! `POST /agent/v1/checkin`: the last rung of the ladder, which needs the store alone.

use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::{Extension, Json};
use protocol::frame::{AgentFrame, Exchange, Frame as _, HubFrame, Welcome};
use protocol::id::SessionId;
use protocol::limits;
use runtime::http::ConnectionInfo;

use super::exchange::{Inbound, exchange};
use super::sent;
use crate::app::App;
use crate::devices;
use crate::http::{Problem, ProblemKind, body};

/// Answers an agent at once, from the store.
pub(super) async fn check_in(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    request: HttpBody,
) -> Result<Json<Exchange<HubFrame>>, Problem> {
    let identity = devices::authenticate(&app, &connection).await?;
    app.limits.check_in(identity.device)?;
    let bytes = axum::body::to_bytes(request, limits::EXCHANGE_BYTES)
        .await
        .map_err(|_| Problem::new(ProblemKind::TooLarge, "a check-in has at most 1 MiB"))?;
    let asked: Exchange<AgentFrame> = body::parse(&bytes)?;
    check(&asked)?;
    let inbound = asked.frames.into_iter().map(|frame| Inbound { identity, frame });
    let mut answers = exchange(&app, inbound.collect()).await?;
    let answer = answers.remove(&identity.device).unwrap_or_default();
    if answer.refused_through.is_some() {
        let detail = "this enrollment does not stand any more";
        return Err(Problem::new(ProblemKind::Unauthenticated, detail));
    }
    // The answer is the delivery: written down before it leaves, so that it is never unknown.
    sent::write(&app, app.now(), &answer.commands).await?;
    let mut frames = vec![HubFrame::Welcome(welcome(&app))];
    frames.extend(answer.frames);
    Ok(Json(Exchange { frames }))
}

fn check(asked: &Exchange<AgentFrame>) -> Result<(), Problem> {
    if asked.frames.len() > limits::EXCHANGE_FRAMES {
        return Err(Problem::field("/frames", "are too many"));
    }
    if !matches!(asked.frames.first(), Some(AgentFrame::Hello(_))) {
        return Err(Problem::field("/frames/0", "must be hello"));
    }
    for (index, frame) in asked.frames.iter().enumerate() {
        frame.check().map_err(|e| Problem::field(format!("/frames/{index}"), e.to_string()))?;
    }
    Ok(())
}

fn welcome(app: &App) -> Welcome {
    let secs = |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(60);
    let now = app.now();
    Welcome {
        session_id: SessionId::new(now, app.random()),
        heartbeat_secs: secs(limits::HEARTBEAT),
        checkin_secs: secs(limits::CHECK_IN),
        server_time: now,
    }
}
