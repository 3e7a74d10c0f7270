//! `POST /agent/v1/renew`

use axum::extract::State;
use axum::{Extension, Json};
use protocol::enrollment::{RenewRequest, RenewResponse};
use runtime::http::ConnectionInfo;
use serde_json::json;

use super::enroll::read_csr;
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::devices;
use crate::http::{Body, Problem};

/// Gives a device its next certificate, over its present one and for the same key.
pub(super) async fn renew(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    body: Body<RenewRequest>,
) -> Result<Json<RenewResponse>, Problem> {
    let identity = devices::authenticate(&app, &connection).await?;
    let csr = read_csr(&body.value.csr)?;
    let now = app.now();
    let mut tx = app.db.write(Actor::Device(identity.device), now).await?;
    // Asked again inside the transaction: a revocation may have come in between.
    let keys = devices::keys(tx.conn(), &[identity.device]).await?;
    let stands = keys.get(&identity.device).is_some_and(|key| {
        key.generation == identity.generation && key.revoked_through < key.generation
    });
    let is_same_key =
        keys.get(&identity.device).is_some_and(|key| key.public.id() == csr.public().id());
    if !stands || !is_same_key {
        return Err(Problem::field("/csr", "must be for the key of this enrollment"));
    }
    let lasts = app.config.device_certificate;
    let (certificate, expires_at) = app
        .authority
        .issue_device(identity, &csr, now, lasts)
        .map_err(|error| Problem::internal(&error))?;
    devices::record_certificate(&mut tx, identity.device, expires_at).await?;
    let payload = json!({ "generation": identity.generation, "expires_at": expires_at });
    tx.append(Kind::CertificateRenewed, identity.device, payload);
    tx.commit().await?;
    let config = app.agent_config(now).map_err(|error| Problem::internal(&error))?;
    Ok(Json(RenewResponse { certificate, ca: app.authority.certificate_pem(), config }))
}
