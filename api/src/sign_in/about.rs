//! `GET /v1/sign-ins/provider`

use axum::extract::State;
use axum::{Extension, Json};
use runtime::http::ConnectionInfo;

use super::SignInView;
use crate::app::App;
use crate::http::Problem;
use crate::http::problem::ProblemBody;

/// Answers how people sign in here; for whoever has no token yet.
#[utoipa::path(get, path = "/v1/sign-ins/provider", tag = "sign-in", security(()),
    responses((status = 200, body = SignInView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn about(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
) -> Result<Json<SignInView>, Problem> {
    app.limits.sign_in(connection.peer_addr.ip())?;
    let oidc = &app.config.oidc;
    if oidc.issuer.is_empty() {
        return Err(Problem::not_found("sign-in provider"));
    }
    Ok(Json(SignInView {
        issuer: oidc.issuer.clone(),
        client_id: oidc.client_id.clone(),
        scopes: oidc.scopes.clone(),
        device_flow: oidc.device_flow,
    }))
}
