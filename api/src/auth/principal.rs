//! The person behind a request, found by the bearer token.
//!
//! Owns authentication of the operator port. Nothing about the client but its token counts:
//! forwarded-for and similar headers are not read anywhere.

use std::num::NonZeroU32;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use protocol::id::PersonName;
use protocol::time::Timestamp;
use uuid::Uuid;

use super::usage::Allowance;
use super::{Scope, SecretHash};
use crate::app::App;
use crate::audit::Actor;
use crate::db::{self, DbError, millis, sql};
use crate::http::{Problem, ProblemKind};
use crate::lockdown;

/// What every API token begins with.
pub const TOKEN_PREFIX: &str = "tocsin_pat_";

/// What the secret of every token of a sign-in begins with.
pub const SIGN_IN_PREFIX: &str = "tocsin_sgn_";

/// An authenticated operator with the scopes of the token used.
#[derive(Debug, Clone)]
pub struct Principal {
    operator: PersonName,
    token: Uuid,
    scopes: Vec<Scope>,
    /// Requests per minute; `None`: any number.
    rate: Option<NonZeroU32>,
    /// When it ends, for the token of a sign-in.
    sign_in_ends: Option<Timestamp>,
    /// Whether it is of no person, who could give a second factor.
    is_service: bool,
    /// Until when a second factor counts that was given with this token.
    stepped_up_until: Option<Timestamp>,
    /// By what it is found again in the store, which was not asked now.
    remembered: Option<SecretHash>,
}

impl Principal {
    /// The operator.
    pub const fn operator(&self) -> &PersonName {
        &self.operator
    }

    /// The scopes of the token.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Whether any scope gives that ability anywhere; `order` is to order anything.
    pub(super) fn knocks(&self, ability: &str) -> bool {
        self.scopes.iter().any(|scope| scope.knocks(ability))
    }

    /// The operator as the actor of events.
    pub fn actor(&self) -> Actor {
        Actor::Operator(self.operator.clone())
    }

    /// Whether the token still stands: for answers that go on for longer than a request.
    pub(crate) async fn stands(&self, app: &App) -> Result<bool, DbError> {
        let row = sql(
            "SELECT 1 FROM api_tokens WHERE id = $1 AND revoked_at IS NULL AND expires_at > $2",
        )
        .bind(self.token)
        .bind(millis(app.now()))
        .fetch_optional(&mut app.db.read().await?)
        .await?;
        Ok(row.is_some())
    }

    /// As the store has it now, where it was only remembered.
    pub(crate) async fn confirmed(self, app: &App) -> Result<Self, Problem> {
        let Some(hash) = &self.remembered else { return Ok(self) };
        match find(app, hash).await?.ok_or_else(refused)? {
            (principal, None) => Ok(principal),
            (_, Some(reason)) => Err(lockdown::refusal(&reason)),
        }
    }

    /// The same, to be found again by that.
    pub(super) fn remembered_by(&self, hash: SecretHash) -> Self {
        Self { remembered: Some(hash), ..self.clone() }
    }

    /// How often the token may ask within a minute.
    pub fn rate_per_min(&self) -> Option<u32> {
        self.rate.map(NonZeroU32::get)
    }

    /// When the token ends, for one that a sign-in gave: what it makes must not outlive it.
    pub(crate) const fn sign_in_ends(&self) -> Option<Timestamp> {
        self.sign_in_ends
    }

    /// Whether the token is of no person.
    pub(crate) const fn is_service(&self) -> bool {
        self.is_service
    }

    /// Until when a second factor counts that was given with this token.
    pub(crate) const fn stepped_up_until(&self) -> Option<Timestamp> {
        self.stepped_up_until
    }

    /// The token.
    pub(crate) const fn token(&self) -> Uuid {
        self.token
    }

    /// The token's id, which separates idempotency keys.
    pub(crate) fn token_id(&self) -> String {
        self.token.to_string()
    }

    #[cfg(test)]
    pub(crate) fn for_test(scopes: &[&str]) -> Self {
        Self {
            operator: "tester".parse().unwrap(),
            token: Uuid::nil(),
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            rate: None,
            sign_in_ends: None,
            is_service: true,
            stepped_up_until: None,
            remembered: None,
        }
    }
}

/// Who asks without a valid token.
pub(crate) fn refused() -> Problem {
    Problem::new(ProblemKind::Unauthenticated, "a valid API token is needed")
}

/// The gate has found them out.
impl FromRequestParts<App> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(refused)
    }
}

impl Principal {
    /// Finds out who asks, and whether a lockdown spares the request.
    pub(super) async fn authenticate(
        app: &App,
        (method, uri): (&Method, &Uri),
        headers: &HeaderMap,
    ) -> Result<Self, Problem> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .filter(|token| {
                [TOKEN_PREFIX, SIGN_IN_PREFIX].iter().any(|known| token.starts_with(known))
            })
            .ok_or_else(refused)?;
        let now = (app.clock.now(), app.now());
        let hash = SecretHash::of(token);
        let is_order = *method == Method::POST && uri.path() == ORDERS;
        let remembered = is_order.then(|| app.principals.find(&hash, now.0)).flatten();
        let (principal, lockdown) = match remembered {
            Some(principal) => (principal, None),
            None => find(app, &hash).await?.ok_or_else(refused)?,
        };
        if is_order && lockdown.is_none() && principal.remembered.is_none() {
            app.principals.keep(hash, &principal, now.0);
        }
        let is_stop = !method.is_safe() && lockdown::spares(method, uri.path());
        let allowance = if is_stop { Allowance::Stops } else { Allowance::Usual };
        app.usage
            .count((principal.token, allowance), principal.rate, now)
            .map_err(|wait| Problem::too_many("requests of this token", wait))?;
        match lockdown {
            Some(reason) if !lockdown::spares(method, uri.path()) => {
                Err(lockdown::refusal(&reason))
            }
            Some(_) | None => Ok(principal),
        }
    }
}

/// The route whose requests a principal is remembered for: its transaction asks whether the token stands and
/// whether everything is locked down.
const ORDERS: &str = "/v1/orders";

/// The principal of a token, and why everything is locked down if it is.
async fn find(
    app: &App,
    hash: &SecretHash,
) -> Result<Option<(Principal, Option<String>)>, DbError> {
    let row = sql("SELECT id, operator, secret_hash, scopes, \
         (SELECT reason FROM lockdowns WHERE level = 'everything'), rate_per_min, \
         CASE WHEN id_token_hash IS NULL THEN NULL ELSE expires_at END, service, stepped_up_until \
         FROM api_tokens \
         WHERE secret_hash = $1 AND revoked_at IS NULL AND expires_at > $2")
    .bind(hash.as_bytes())
    .bind(millis(app.now()))
    .fetch_optional(&mut app.db.read().await?)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if !hash.matches(row.try_get(2)?) {
        return Ok(None);
    }
    let operator: String = row.try_get(1)?;
    let operator = operator.parse().map_err(|_| DbError::Unreadable("operator"))?;
    let scopes = db::json(row.try_get(3)?, "scope")?;
    let lockdown = row.try_get(4)?;
    let rate = db::rate(row.try_get(5)?)?;
    let sign_in_ends = row.try_get::<Option<i64>>(6)?.map(db::timestamp);
    let principal = Principal {
        operator,
        token: row.try_get(0)?,
        scopes,
        rate,
        sign_in_ends,
        is_service: row.try_get::<i64>(7)? != 0,
        stepped_up_until: row.try_get::<Option<i64>>(8)?.map(db::timestamp),
        remembered: None,
    };
    Ok(Some((principal, lockdown)))
}
