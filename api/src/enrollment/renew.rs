//! `POST /agent/v1/renew`

use axum::extract::State;
use axum::{Extension, Json};
use protocol::enrollment::{DeviceIdentity, RenewRequest, RenewResponse};
use runtime::http::ConnectionInfo;
use serde_json::json;

use super::enroll::read_csr;
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::db::Tx;
use crate::devices;
use crate::http::{Body, Problem, ProblemKind};
use crate::pki::Peer;

/// Gives a device its next certificate, over its present one and for the same key. Within the
/// grace time of the settings, the present one may be past its end.
pub(super) async fn renew(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    body: Body<RenewRequest>,
) -> Result<Json<RenewResponse>, Problem> {
    let grace = app.config.renewal_grace;
    let Peer { identity, over_for } = devices::authenticate_late(&app, &connection, grace).await?;
    let csr = read_csr(&body.value.csr)?;
    let now = app.now();
    let mut tx = app.db.write(Actor::Device(identity.device), now).await?;
    // Asked again inside the transaction: a revocation may have come in between.
    let keys = devices::keys(tx.conn(), &[identity.device]).await?;
    let key = keys.get(&identity.device).filter(|key| key.stands_for(identity));
    let key = key.filter(|key| key.public.id() == csr.public().id());
    let key =
        key.ok_or_else(|| Problem::field("/csr", "must be for the key of this enrollment"))?;
    if over_for.is_some() && key.certificate_expires_at >= now {
        return Err(refuse_copy(&app, tx, identity).await?);
    }
    let lasts = app.config.device_certificate;
    let authority = app.authority();
    let (certificate, expires_at) = authority
        .issue_device(identity, &csr, now, lasts)
        .map_err(|error| Problem::internal(&error))?;
    devices::record_certificate(&mut tx, identity.device, expires_at).await?;
    let late_secs = over_for.map_or(0, |over_for| over_for.as_secs());
    let payload = json!({
        "generation": identity.generation, "expires_at": expires_at, "late_secs": late_secs,
    });
    tx.append(Kind::CertificateRenewed, identity.device, payload);
    tx.commit().await?;
    let config = app.agent_config(now).map_err(|error| Problem::internal(&error))?;
    Ok(Json(RenewResponse { certificate, ca: authority.trusted_pem(), config }))
}

/// Somebody has an old certificate and the key of a device whose newest one still stands: an old
/// copy of its disk, or the device itself when the answer to its last renewal was lost. The
/// former must not come back by lateness; the latter may, once the newest is over as well.
async fn refuse_copy(app: &App, mut tx: Tx, identity: DeviceIdentity) -> Result<Problem, Problem> {
    tracing::warn!(device.id = %identity.device, "old certificate of a device that has a newer one");
    if app.limits.takes_old_certificate(identity.device) {
        let payload = json!({ "generation": identity.generation });
        tx.append(Kind::RenewalRefused, identity.device, payload);
        tx.commit().await?;
    }
    let detail = "a newer certificate of this device still stands";
    Ok(Problem::new(ProblemKind::Unauthenticated, detail))
}
