//! Operators and their API tokens.
//!
//! Owns who exists and which tokens they hold. A token's secret is shown once and kept as a
//! hash; nobody hands on more than their own token allows.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use protocol::action::is_printable;
use protocol::id::PersonName;
use protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{
    Act, Permit, Principal, RoleGrant, Scope, Secret, SecretHash, TOKEN_PREFIX, ability,
};
use crate::db::{DbError, Tx};
use crate::http::problem::ProblemBody;
use crate::http::{Begun, Body, Once, PageQuery, Paged, Path, Problem, ProblemKind, Query};
use crate::time::Time;

mod store;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a token lasts when the request does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a token lasts at most.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Scopes of one token.
const MAX_SCOPES: usize = 64;

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_operators))
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(revoke_token))
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OperatorView {
    /// Their name.
    #[schema(value_type = String)]
    pub name: PersonName,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// Whether they have a second factor.
    #[serde(default)]
    pub has_factor: bool,
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiTokenView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// Whose it is.
    #[schema(value_type = String)]
    pub operator: PersonName,
    /// What it is for.
    pub label: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    pub scopes: Vec<Scope>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Time,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Time>,
    /// The role that its scopes are of, `<role>@<group>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<RoleGrant>,
    /// Requests per minute; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_min: Option<u32>,
    /// When it was used last, within a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Time>,
    /// Whether it is of no person, such as of a program: it is asked for no second factor.
    #[serde(default)]
    pub service: bool,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiToken {
    /// For whom; made when there is no such operator yet. Absent: for oneself. Another's name
    /// needs the scope `tokens@*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub operator: Option<PersonName>,
    /// What it is for.
    pub label: String,
    /// What it may do: `<ability>@<group>`, at most what one's own token allows. None with a role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub scopes: Vec<Scope>,
    /// In place of scopes: `viewer`, `responder`, `approver`, `administrator` or `auditor`, with
    /// `@<group>` for one group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub role: Option<RoleGrant>,
    /// Requests per minute, at most as one's own token. Absent: that of the role or of one's own
    /// token, if they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub rate_per_min: Option<NonZeroU32>,
    /// How long it lasts, in seconds; 30 days by default, a year at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u64>,
    /// Of no person, such as of a program, and asked for no second factor. Making one takes a
    /// second factor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service: bool,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CreatedApiToken {
    /// The token.
    #[serde(flatten)]
    pub token: ApiTokenView,
    /// Its secret. Shown once: absent when the same request is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Makes the owner, if need be, and a token for everything: at the first start, or for whoever
/// owns the data folder.
pub(crate) async fn create_owner_token(app: &App, tx: &mut Tx) -> Result<Secret, DbError> {
    let name: PersonName = "admin".parse().expect("`admin` is a person's name");
    let now = tx.now();
    store::ensure_operator(tx, &name).await?;
    let secret = Secret::draw(TOKEN_PREFIX, &app.entropy);
    let token = ApiTokenView {
        id: app.uuid(now),
        operator: name,
        label: "owner of the data folder".to_owned(),
        scopes: vec![Scope::all()],
        created_at: now.into(),
        expires_at: now.plus(MAX_TTL).into(),
        revoked_at: None,
        role: None,
        rate_per_min: None,
        last_used_at: None,
        service: true,
    };
    store::insert_token(tx, &token, &secret.hash()).await?;
    Ok(secret)
}

/// Writes a token that a sign-in gives.
pub(crate) async fn insert_sign_in(
    tx: &mut Tx,
    token: &ApiTokenView,
    hash: &SecretHash,
) -> Result<(), DbError> {
    store::insert_token(tx, token, hash).await
}

/// Lists operators.
#[utoipa::path(get, path = "/v1/operators", tag = "operators", params(PageQuery),
    security(("token" = ["read"])),
    responses((status = 200, body = Paged<OperatorView>), (status = "4XX", body = ProblemBody)))]
async fn list_operators(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Paged<OperatorView>>, Problem> {
    let _permit: Permit<ability::Read> = principal.permit()?;
    let page = page.page::<PersonName>()?;
    let items = store::operators(&mut app.db.read().await?, &page).await?;
    Ok(axum::Json(page.cut(items, |operator| operator.name.to_string())))
}

/// Whose tokens may be seen and revoked: everybody's (`None`) only with a scope that is bound to
/// no group, as a token belongs to none.
fn whose(principal: &Principal) -> Option<&PersonName> {
    match principal.permit::<ability::Tokens>().and_then(Permit::everywhere) {
        Ok(_) => None,
        Err(_) => Some(principal.operator()),
    }
}

/// Lists API tokens: one's own, or everybody's with the scope `tokens@*`.
#[utoipa::path(get, path = "/v1/tokens", tag = "operators", params(PageQuery),
    security(("token" = [])),
    responses((status = 200, body = Paged<ApiTokenView>), (status = "4XX", body = ProblemBody)))]
async fn list_tokens(
    State(app): State<App>,
    principal: Principal,
    Query(page): Query<PageQuery>,
) -> Result<axum::Json<Paged<ApiTokenView>>, Problem> {
    let page = page.page::<Uuid>()?;
    let mut items = store::tokens(&mut app.db.read().await?, &page, whose(&principal)).await?;
    for token in &mut items {
        // What this node knows is newer than what is written.
        let known = app.usage.last(token.id).map(Time);
        token.last_used_at = known.max(token.last_used_at);
    }
    Ok(axum::Json(page.cut(items, |token| token.id.to_string())))
}

/// Makes an API token.
#[utoipa::path(post, path = "/v1/tokens", tag = "operators", security(("token" = ["tokens"])),
    request_body = CreateApiToken,
    responses((status = 201, body = CreatedApiToken), (status = "4XX", body = ProblemBody)))]
async fn create_token(
    State(app): State<App>,
    principal: Principal,
    body: Body<CreateApiToken>,
) -> Result<Response, Problem> {
    let permit: Permit<ability::Tokens> = principal.permit()?;
    let now = app.now();
    let asked = body.value;
    if asked.operator.as_ref().is_some_and(|operator| operator != permit.person()) {
        // Whoever is bound to groups must not act under another name.
        permit.everywhere()?;
    }
    let expires_at = check(&asked, now)?;
    let expires_at = match principal.sign_in_ends() {
        None => expires_at,
        Some(ends) if asked.operator.as_ref().is_none_or(|other| other == principal.operator()) => {
            // The groups behind a sign-in may be gone tomorrow.
            expires_at.min(ends)
        }
        Some(_) => {
            let problem = Problem::field("/operator", "is nobody that a sign-in's token acts for");
            return Err(Problem { kind: ProblemKind::Forbidden, ..problem });
        }
    };
    let scopes = scopes(&principal, &asked)?;
    let rate_per_min = rate(&principal, &asked)?;
    let mut once = match Once::begin(&app.db, &principal, body.ticket, now).await? {
        Begun::Fresh(once) => once,
        Begun::Replay(response) => return Ok(response),
    };
    let is_own = asked.operator.as_ref().is_none_or(|other| other == principal.operator());
    let act = Act::make_token(&scopes, asked.service, is_own);
    principal.step_up((&app, once.tx().conn()), act).await?;
    let token = ApiTokenView {
        id: app.uuid(now),
        operator: asked.operator.unwrap_or_else(|| principal.operator().clone()),
        label: asked.label,
        scopes,
        created_at: now.into(),
        expires_at: expires_at.into(),
        revoked_at: None,
        role: asked.role,
        rate_per_min,
        last_used_at: None,
        service: asked.service,
    };
    let secret = Secret::draw(TOKEN_PREFIX, &app.entropy);
    store::ensure_operator(once.tx(), &token.operator).await?;
    store::insert_token(once.tx(), &token, &secret.hash()).await?;
    let remembered = CreatedApiToken { token, secret: None };
    let answer = CreatedApiToken { secret: Some(secret.expose().to_owned()), ..remembered.clone() };
    once.finish_secret(StatusCode::CREATED, &answer, &remembered).await
}

fn check(asked: &CreateApiToken, now: Timestamp) -> Result<Timestamp, Problem> {
    if asked.label.trim().is_empty() || !is_printable(&asked.label) {
        return Err(Problem::field("/label", "must be printable and not empty"));
    }
    let ttl = asked.ttl_secs.map_or(DEFAULT_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > MAX_TTL {
        let days = MAX_TTL.as_secs() / DAY.as_secs();
        return Err(Problem::field("/ttl_secs", format!("must be 1 s to {days} days")));
    }
    Ok(now.plus(ttl))
}

/// The scopes asked for, which must be one's own.
fn scopes(principal: &Principal, asked: &CreateApiToken) -> Result<Vec<Scope>, Problem> {
    let (field, scopes) = match &asked.role {
        Some(_) if !asked.scopes.is_empty() => {
            return Err(Problem::field("/role", "has scopes of its own: give one or the other"));
        }
        Some(role) => ("/role".to_owned(), role.scopes()),
        None => ("/scopes".to_owned(), asked.scopes.clone()),
    };
    if scopes.is_empty() || scopes.len() > MAX_SCOPES {
        return Err(Problem::field(field, format!("must have 1 to {MAX_SCOPES} entries")));
    }
    let is_mine = |scope: &Scope| principal.scopes().iter().any(|mine| mine.includes(scope));
    match scopes.iter().position(|scope| !is_mine(scope)) {
        None => Ok(scopes),
        Some(at) => {
            let place = if asked.role.is_some() { field } else { format!("{field}/{at}") };
            let problem = Problem::field(place, format!("{} is more than your own", scopes[at]));
            Err(Problem { kind: ProblemKind::Forbidden, ..problem })
        }
    }
}

/// The rate asked for, or that of the role, at most one's own.
fn rate(principal: &Principal, asked: &CreateApiToken) -> Result<Option<u32>, Problem> {
    let (mine, wanted) = (principal.rate_per_min(), asked.rate_per_min.map(NonZeroU32::get));
    if let (Some(mine), Some(wanted)) = (mine, wanted)
        && wanted > mine
    {
        let problem = Problem::field("/rate_per_min", "is more than your own");
        return Err(Problem { kind: ProblemKind::Forbidden, ..problem });
    }
    let of_role = asked.role.as_ref().map(|role| role.role().rate_per_min());
    Ok(wanted.or_else(|| [of_role, mine].into_iter().flatten().min()))
}

/// Revokes an API token: one's own, or anybody's with the scope `tokens@*`.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "operators",
    params(("id" = String, Path, format = "uuid")), security(("token" = [])),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn revoke_token(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let mut tx = app.db.write(principal.actor(), app.now()).await?;
    if !store::revoke_token(&mut tx, id, whose(&principal)).await? {
        return Err(Problem::not_found("token"));
    }
    tx.append(Kind::ApiTokenRevoked, id, json!({}));
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
