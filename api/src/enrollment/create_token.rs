//! `POST /v1/enrollment-tokens`

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::enrollment::EnrollmentToken;

use super::{CreateEnrollmentToken, CreatedEnrollmentToken, DEFAULT_TTL, MAX_TTL, source, store};
use crate::app::App;
use crate::auth::{Permit, Principal, Secret, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Begun, Body, Once, Problem};

/// Makes an enrollment token.
#[utoipa::path(post, path = "/v1/enrollment-tokens", tag = "enrollment",
    security(("token" = ["enroll"])), request_body = CreateEnrollmentToken,
    responses((status = 201, body = CreatedEnrollmentToken), (status = "4XX", body = ProblemBody)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Body<CreateEnrollmentToken>,
) -> Result<Response, Problem> {
    let permit: Permit<ability::Enroll> = principal.permit()?;
    let asked = body.value;
    permit.demand(asked.group.as_slice())?;
    let ttl = asked.ttl_secs.map_or(DEFAULT_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(Problem::field("/ttl_secs", "must be 1 s to 24 h"));
    }
    if asked.from.len() > source::MOST {
        return Err(Problem::field("/from", format!("must be at most {} networks", source::MOST)));
    }
    let now = app.now();
    let mut once = match Once::begin(&app.db, &principal, body.ticket, now).await? {
        Begun::Fresh(once) => once,
        Begun::Replay(response) => return Ok(response),
    };
    let secret = Secret::draw("", &app.entropy);
    let remembered = CreatedEnrollmentToken {
        id: app.uuid(now),
        token: None,
        group: asked.group,
        from: asked.from,
        simulated: asked.simulated,
        expires_at: now.plus(ttl).into(),
    };
    store::insert(once.tx(), &remembered, &secret.hash(), permit.person()).await?;
    let token = EnrollmentToken {
        secret: secret.expose().to_owned(),
        api: app.addresses.load().api.clone(),
        ca_spki_sha256: app.authority().pin().to_string(),
    };
    let answer = CreatedEnrollmentToken { token: Some(token.to_string()), ..remembered.clone() };
    once.finish_secret(StatusCode::CREATED, &answer, &remembered).await
}
