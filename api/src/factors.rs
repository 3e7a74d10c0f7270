//! Second factors of people: codes of an app (TOTP), and the step-up that one gives a token.
//!
//! Owns who has one, how one is added, confirmed, removed and lost, and taking codes. What takes a
//! step-up is the policy's part, in `auth`. Nobody adds a first one by a token alone: that takes an
//! invitation, which only an administrator with a step-up of their own or the server's console makes.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::id::PersonName;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::attempt::{Of, attempt};
use self::totp::TotpSecret;
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Act, Principal};
use crate::http::problem::ProblemBody;
use crate::http::{Body, Problem, ProblemKind};
use crate::time::Time;

mod attempt;
pub mod invitation;
mod kept;
mod store;
mod totp;

/// How long a factor that was added waits for its first code.
const WAITS: Duration = Duration::from_secs(15 * 60);

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get, add, remove))
        .routes(routes!(confirm))
        .routes(routes!(step_up))
        .routes(routes!(invitation::invite))
        .routes(routes!(invitation::reset))
}

/// One's own second factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FactorView {
    /// Whose.
    #[schema(value_type = String)]
    pub operator: PersonName,
    /// Since when it counts; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub confirmed_at: Option<Time>,
    /// Whether one was added that waits for its first code.
    pub is_pending: bool,
    /// Until when the step-up of this token lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub stepped_up_until: Option<Time>,
    /// Whether this token is of no person, and asked for no second factor.
    pub service: bool,
}

/// A second factor to be added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddFactor {
    /// The invitation. Without one, the second factor that one has takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

impl std::fmt::Debug for AddFactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddFactor").finish_non_exhaustive()
    }
}

/// A second factor that was added, and counts from its first code on.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AddedFactor {
    /// The secret, as it is typed into an app. Shown once.
    pub secret: String,
    /// The same as an address, `otpauth://…`.
    pub uri: String,
}

impl std::fmt::Debug for AddedFactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddedFactor").finish_non_exhaustive()
    }
}

/// A code of a second factor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Six digits.
    pub code: String,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

/// A step-up of this token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepUpView {
    /// Until when it lasts.
    #[schema(value_type = String, format = DateTime)]
    pub until: Time,
}

/// Demands a person behind the token.
fn person(principal: &Principal) -> Result<&PersonName, Problem> {
    if principal.is_service() {
        let detail = "this token is of no person, and has no second factor";
        return Err(Problem::new(ProblemKind::NotFound, detail));
    }
    Ok(principal.operator())
}

/// Answers one's own second factor, without its secret.
#[utoipa::path(get, path = "/v1/factor", tag = "factors", security(("token" = [])),
    responses((status = 200, body = FactorView), (status = "4XX", body = ProblemBody)))]
async fn get(State(app): State<App>, principal: Principal) -> Result<Json<FactorView>, Problem> {
    let known = store::find(&mut app.db.read().await?, principal.operator()).await?;
    let now = app.now();
    Ok(Json(FactorView {
        operator: principal.operator().clone(),
        confirmed_at: known.as_ref().and_then(|factor| factor.confirmed_at).map(Time),
        is_pending: known
            .and_then(|factor| factor.pending)
            .is_some_and(|pending| pending.waits_for(principal.token(), now)),
        stepped_up_until: principal.stepped_up_until().filter(|until| now < *until).map(Time),
        service: principal.is_service(),
    }))
}

/// Adds a second factor, which counts once a code of it was confirmed. It takes an invitation, or a
/// step-up by the one that it takes the place of.
#[utoipa::path(post, path = "/v1/factor", tag = "factors", security(("token" = [])),
    request_body = AddFactor,
    responses((status = 201, body = AddedFactor), (status = "4XX", body = ProblemBody)))]
async fn add(
    State(app): State<App>,
    principal: Principal,
    body: Body<AddFactor>,
) -> Result<(StatusCode, Json<AddedFactor>), Problem> {
    let operator = person(&principal)?;
    let now = app.now();
    let mut tx = app.db.write(principal.actor(), now).await?;
    let known = store::find(tx.conn(), operator).await?;
    let has_one = known.as_ref().is_some_and(|factor| factor.secret.is_some());
    match (&body.value.invitation, known) {
        (Some(code), Some(factor)) if !has_one && factor.is_invited(code, now) => {}
        (Some(_), _) if !has_one => {
            let detail = "the invitation is not for you, or over: ask for another one";
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        (Some(_) | None, _) => principal.step_up((&app, tx.conn()), Act::ChangeFactor).await?,
    }
    let secret = TotpSecret::draw(&app.entropy);
    store::add(&mut tx, operator, &secret, (principal.token(), now.plus(WAITS))).await?;
    tx.append(Kind::FactorAdded, operator, json!({ "token": principal.token() }));
    tx.commit().await?;
    let added =
        AddedFactor { secret: secret.base32().to_string(), uri: secret.uri(operator).to_string() };
    Ok((StatusCode::CREATED, Json(added)))
}

/// Confirms the second factor that this token added a moment ago, by a code of it: from now on it counts.
#[utoipa::path(post, path = "/v1/factor/confirm", tag = "factors", security(("token" = [])),
    request_body = Code,
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn confirm(
    State(app): State<App>,
    principal: Principal,
    body: Body<Code>,
) -> Result<StatusCode, Problem> {
    let operator = person(&principal)?;
    let (mut tx, taken) = attempt(&app, &principal, &body.value.code, Of::Pending).await?;
    store::confirm(&mut tx, operator, (&taken.0, taken.1)).await?;
    tx.append(Kind::FactorConfirmed, operator, json!({ "token": principal.token() }));
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes one's own second factor. What takes one is refused from then on.
#[utoipa::path(delete, path = "/v1/factor", tag = "factors", security(("token" = [])),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn remove(State(app): State<App>, principal: Principal) -> Result<StatusCode, Problem> {
    let operator = person(&principal)?;
    let mut tx = app.db.write(principal.actor(), app.now()).await?;
    principal.step_up((&app, tx.conn()), Act::ChangeFactor).await?;
    store::remove(&mut tx, operator).await?;
    tx.append(Kind::FactorRemoved, operator, json!({ "token": principal.token() }));
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives this token, and no other, the step-up for a while. Each code counts once.
#[utoipa::path(post, path = "/v1/step-ups", tag = "factors", security(("token" = [])),
    request_body = Code,
    responses((status = 200, body = StepUpView), (status = "4XX", body = ProblemBody)))]
async fn step_up(
    State(app): State<App>,
    principal: Principal,
    body: Body<Code>,
) -> Result<Json<StepUpView>, Problem> {
    let operator = person(&principal)?;
    let (mut tx, _) = attempt(&app, &principal, &body.value.code, Of::Confirmed).await?;
    let until = tx.now().plus(app.policy.load().step_up.lasts);
    store::step_up(&mut tx, principal.token(), until).await?;
    let payload = json!({ "operator": operator, "until": Time(until) });
    tx.append(Kind::OperatorSteppedUp, principal.token(), payload);
    tx.commit().await?;
    Ok(Json(StepUpView { until: Time(until) }))
}
