//! Letting somebody add a second factor, and taking away one that was lost: by an administrator with a
//! step-up of their own, or on the server's console.
//!
//! Owns both ways. The console has no token: whoever has the store has what it guards.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use protocol::id::PersonName;
use protocol::time::Timestamp;
use runtime::Entropy;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store;
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::auth::{Act, Permit, Principal, Secret, ability};
use crate::db::{Db, Tx};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};
use crate::time::Time;

/// What every invitation begins with.
const PREFIX: &str = "tocsin_inv_";
/// How long one lasts.
const LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// An invitation to add a second factor.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvitationView {
    /// For whom.
    #[schema(value_type = String)]
    pub operator: PersonName,
    /// What they add one with, once. Shown once.
    pub invitation: String,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Time,
}

impl std::fmt::Debug for InvitationView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InvitationView").field("operator", &self.operator).finish_non_exhaustive()
    }
}

/// Lets an operator who has no second factor add one. An earlier invitation is void.
#[utoipa::path(post, path = "/v1/operators/{id}/factor-invitations", tag = "factors",
    params(("id" = String, Path)), security(("token" = ["tokens"])),
    responses((status = 201, body = InvitationView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn invite(
    State(app): State<App>,
    principal: Principal,
    Path(name): Path<PersonName>,
) -> Result<(StatusCode, Json<InvitationView>), Problem> {
    let tx = begin(&app, &principal).await?;
    Ok((StatusCode::CREATED, Json(invite_in(tx, name, &app.entropy).await?)))
}

/// Takes away an operator's second factor, with every step-up that it gave and the count of wrong codes.
#[utoipa::path(delete, path = "/v1/operators/{id}/factor", tag = "factors",
    params(("id" = String, Path)), security(("token" = ["tokens"])),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
pub(super) async fn reset(
    State(app): State<App>,
    principal: Principal,
    Path(name): Path<PersonName>,
) -> Result<StatusCode, Problem> {
    let tx = begin(&app, &principal).await?;
    reset_in(tx, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn begin(app: &App, principal: &Principal) -> Result<Tx, Problem> {
    let _permit: Permit<ability::Tokens> = principal.permit()?.everywhere()?;
    let mut tx = app.db.write(principal.actor(), app.now()).await?;
    principal.step_up((app, tx.conn()), Act::ChangeFactor).await?;
    Ok(tx)
}

/// The same as the route, on the console.
///
/// # Errors
/// When there is no such operator, they have one, or the store is not available.
pub async fn invite_on_console(
    db: &Db,
    name: PersonName,
    now: Timestamp,
    entropy: &Entropy,
) -> Result<InvitationView, Problem> {
    invite_in(db.write(Actor::System, now).await?, name, entropy).await
}

/// The same as the route, on the console.
///
/// # Errors
/// When there is no such factor, or the store is not available.
pub async fn reset_on_console(db: &Db, name: &PersonName, now: Timestamp) -> Result<(), Problem> {
    reset_in(db.write(Actor::System, now).await?, name).await
}

async fn invite_in(
    mut tx: Tx,
    operator: PersonName,
    entropy: &Entropy,
) -> Result<InvitationView, Problem> {
    if !store::is_operator(tx.conn(), &operator).await? {
        return Err(Problem::not_found("operator"));
    }
    let known = store::find(tx.conn(), &operator).await?;
    if known.is_some_and(|factor| factor.secret.is_some()) {
        return Err(Problem::conflict(format!("{operator} has a second factor: reset it first")));
    }
    let secret = Secret::draw(PREFIX, entropy);
    let ends = tx.now().plus(LASTS);
    store::invite(&mut tx, &operator, &secret.hash(), ends).await?;
    tx.append(Kind::FactorInvited, &operator, json!({ "expires_at": Time(ends) }));
    tx.commit().await?;
    let invitation = secret.expose().to_owned();
    Ok(InvitationView { operator, invitation, expires_at: Time(ends) })
}

async fn reset_in(mut tx: Tx, operator: &PersonName) -> Result<(), Problem> {
    if store::find(tx.conn(), operator).await?.is_none() {
        return Err(Problem::not_found("second factor"));
    }
    store::remove(&mut tx, operator).await?;
    tx.append(Kind::FactorReset, operator, json!({}));
    tx.commit().await?;
    Ok(())
}
