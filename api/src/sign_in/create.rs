//! `POST /v1/sign-ins`

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use protocol::id::PersonName;
use runtime::http::ConnectionInfo;
use serde_json::json;

use super::id_token::{Claims, Expected, IdToken, IdTokenError};
use super::{CreateSignIn, SIGN_IN_PREFIX, store};
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::auth::{RoleGrant, Scope, Secret};
use crate::http::problem::ProblemBody;
use crate::http::{Body, Problem, ProblemKind};
use crate::operators::{self, ApiTokenView, CreatedApiToken};

/// Characters of the secret behind a nonce.
const NONCE_SECRET: std::ops::RangeInclusive<usize> = 32..=128;

/// Gives an API token for an id token of the provider, once.
#[utoipa::path(post, path = "/v1/sign-ins", tag = "sign-in", security(()),
    request_body = CreateSignIn,
    responses((status = 201, body = CreatedApiToken), (status = "4XX", body = ProblemBody)))]
pub(super) async fn create(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    body: Body<CreateSignIn>,
) -> Result<Response, Problem> {
    app.limits.sign_in(connection.peer_addr.ip())?;
    if app.config.oidc.issuer.is_empty() {
        return Err(Problem::not_found("sign-in provider"));
    }
    let asked = body.value;
    let claims = believe(&app, &asked).await?;
    let groups: Vec<_> = claims.texts(&app.config.oidc.groups_claim);
    let groups: Vec<_> = groups.into_iter().map(str::to_owned).collect();
    let roles = app.config.oidc.roles_of(&groups);
    if roles.is_empty() {
        return Err(refuse(&app, &claims).await?);
    }
    // Without the signature, of which there is another one for the same words with ECDSA.
    let signed = asked.id_token.rsplit_once('.').map_or("", |(signed, _)| signed);
    let hash = digest(&SHA256, signed.as_bytes());
    let answer = begin(&app, &claims, &roles, hash.as_ref()).await?;
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

async fn believe(app: &App, asked: &CreateSignIn) -> Result<Claims, Problem> {
    if !NONCE_SECRET.contains(&asked.nonce_secret.len()) {
        let detail =
            format!("must have {} to {} characters", NONCE_SECRET.start(), NONCE_SECRET.end());
        return Err(Problem::field("/nonce_secret", detail));
    }
    let nonce = BASE64.encode(digest(&SHA256, asked.nonce_secret.as_bytes()));
    let oidc = &app.config.oidc;
    let token = IdToken::parse(&asked.id_token).map_err(refused)?;
    let keys = app.provider.keys((oidc, &app.clock), |known| token.is_of(known)).await?;
    let expected = Expected {
        issuer: &oidc.issuer,
        client_id: &oidc.client_id,
        nonce: &nonce,
        may_lack_nonce: oidc.device_flow,
        now: app.now(),
    };
    token.verify(&keys, expected).map_err(refused)
}

fn refused(error: IdTokenError) -> Problem {
    tracing::warn!(error = %error, "id token refused");
    Problem::new(ProblemKind::Unauthenticated, format!("the id token is not accepted: {error}"))
}

/// Somebody whom the provider knows and who is nobody here (any more): what they had ends.
async fn refuse(app: &App, claims: &Claims) -> Result<Problem, Problem> {
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    let issuer = &app.config.oidc.issuer;
    let known = store::operator(tx.conn(), issuer, claims.subject()).await?;
    let mut ended = 0;
    if let Some(operator) = &known {
        ended = store::end_tokens(&mut tx, operator).await?;
    }
    // Whoever tries again and again is one event, unless something ended.
    if ended > 0 || app.limits.takes_refused_sign_in(claims.subject()) {
        let payload =
            json!({ "issuer": issuer, "subject": claims.subject(), "ended_tokens": ended });
        let subject = known.as_ref().map_or("nobody", PersonName::as_str);
        tx.append(Kind::SignInRefused, subject, payload);
        tx.commit().await?;
    }
    let detail = "none of your groups has a role here";
    Ok(Problem::new(ProblemKind::Forbidden, detail))
}

async fn begin(
    app: &App,
    claims: &Claims,
    roles: &BTreeSet<&RoleGrant>,
    hash: &[u8],
) -> Result<CreatedApiToken, Problem> {
    let (oidc, now) = (&app.config.oidc, app.now());
    let mut tx = app.db.write(Actor::System, now).await?;
    if store::is_used(tx.conn(), hash).await? {
        let detail = "this id token has been used already: sign in again";
        return Err(Problem::new(ProblemKind::Unauthenticated, detail));
    }
    let known = store::operator(tx.conn(), &oidc.issuer, claims.subject()).await?;
    let operator = match known {
        Some(operator) => operator,
        None => {
            let name = name_of(claims, &oidc.name_claim)?;
            if !store::bind(&mut tx, (&oidc.issuer, claims.subject()), &name).await? {
                let detail = format!("an operator of the name {name} is somebody else already");
                return Err(Problem::conflict(detail));
            }
            name
        }
    };
    let scopes: Vec<Scope> =
        roles.iter().flat_map(|role| role.scopes()).fold(Vec::new(), |mut scopes, scope| {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
            scopes
        });
    let token = ApiTokenView {
        id: app.uuid(now),
        operator,
        label: "sign-in".to_owned(),
        scopes,
        created_at: now.into(),
        expires_at: oidc.ends(now).into(),
        revoked_at: None,
        role: if roles.len() == 1 { roles.first().map(|role| (*role).clone()) } else { None },
        rate_per_min: roles.iter().map(|role| role.role().rate_per_min()).max(),
        last_used_at: None,
        service: false,
    };
    // Other groups than before: what the former ones gave ends.
    store::end_other_tokens(&mut tx, &token).await?;
    let secret = Secret::draw(SIGN_IN_PREFIX, &app.entropy);
    operators::insert_sign_in(&mut tx, &token, &secret.hash()).await?;
    store::record_use(&mut tx, token.id, hash).await?;
    let payload = json!({
        "operator": token.operator,
        "issuer": oidc.issuer,
        "subject": claims.subject(),
        "roles": roles,
        "expires_at": token.expires_at,
    });
    tx.append_by(
        Actor::Operator(token.operator.clone()),
        Kind::OperatorSignedIn,
        token.id,
        payload,
    );
    tx.commit().await?;
    Ok(CreatedApiToken { token, secret: Some(secret.expose().to_owned()) })
}

fn name_of(claims: &Claims, claim: &str) -> Result<PersonName, Problem> {
    // Only ASCII: other letters that become one of these when small are somebody else's.
    let name = claims.text(claim).unwrap_or_default().to_ascii_lowercase();
    name.parse().map_err(|_| {
        let detail = format!("the claim `{claim}` of the id token is no operator's name");
        Problem::new(ProblemKind::Invalid, detail)
    })
}
