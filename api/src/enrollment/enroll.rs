//! `POST /agent/v1/enroll`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use protocol::action::is_printable;
use protocol::enrollment::{DeviceIdentity, EnrollRequest, EnrollResponse};
use protocol::id::DeviceId;
use serde_json::json;

use super::store;
use crate::app::App;
use crate::audit::{Actor, Kind};
use crate::auth::SecretHash;
use crate::commands;
use crate::db::Tx;
use crate::deliver;
use crate::devices::{self, Enrolling};
use crate::http::{Body, Problem, ProblemKind};
use crate::pki::{Csr, PkiError};
use crate::trust;

/// Gives a device its identity, for a token.
pub(super) async fn enroll(
    State(app): State<App>,
    body: Body<EnrollRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let csr = read_csr(&asked.csr)?;
    if asked.name.trim().is_empty() || !is_printable(&asked.name) {
        return Err(Problem::field("/name", "must be printable and not empty"));
    }
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    // Unknown, used and expired look alike from outside.
    let refused =
        || Problem::new(ProblemKind::Unauthenticated, "the token is not valid (any more)");
    let claimed = store::claim(&mut tx, &SecretHash::of(&asked.secret)).await?;
    let claimed = claimed.ok_or_else(refused)?;
    let (response, ended) = give_identity(&app, &mut tx, &asked.name, &csr).await?;
    store::record_user(&mut tx, claimed.id, response.device_id).await?;
    if let Some(group) = &claimed.group {
        devices::add_to_group(&mut tx, response.device_id, group).await?;
    }
    tx.commit().await?;
    if let Some(through_generation) = ended {
        deliver::revoke_everywhere(&app, response.device_id, through_generation).await;
    }
    Ok((StatusCode::CREATED, axum::Json(response)).into_response())
}

/// Writes the enrollment, and answers the generation that it ended, if any.
async fn give_identity(
    app: &App,
    tx: &mut Tx,
    name: &str,
    csr: &Csr,
) -> Result<(EnrollResponse, Option<u32>), Problem> {
    let now = tx.now();
    let known = devices::find_by_key(tx.conn(), csr.public()).await?;
    let identity = match &known {
        Some(known) => {
            DeviceIdentity { device: known.id, generation: known.generation.saturating_add(1) }
        }
        None => DeviceIdentity { device: DeviceId::new(now, app.random()), generation: 1 },
    };
    let lasts = app.config.device_certificate;
    let (certificate, certificate_expires_at) = app
        .authority
        .issue_device(identity, csr, now, lasts)
        .map_err(|error| Problem::internal(&error))?;
    let enrolling = Enrolling {
        id: identity.device,
        name,
        key: csr.public(),
        generation: identity.generation,
        certificate_expires_at,
    };
    let kind = match &known {
        Some(known) => {
            commands::end_enrollment(tx, known.id, "enrolled again").await?;
            devices::enroll_again(tx, &enrolling).await?;
            Kind::DeviceReenrolled
        }
        None => {
            devices::enroll_new(tx, &enrolling).await?;
            Kind::DeviceEnrolled
        }
    };
    let payload = json!({
        "name": name,
        "generation": identity.generation,
        "key_id": csr.public().id(),
    });
    tx.append_by(Actor::Device(identity.device), kind, identity.device, payload);
    let response = EnrollResponse {
        device_id: identity.device,
        generation: identity.generation,
        certificate,
        ca: app.authority.certificate_pem(),
        trust: trust::current(tx.conn()).await?.signed,
        config: app.agent_config(now).map_err(|error| Problem::internal(&error))?,
    };
    Ok((response, known.map(|known| known.generation)))
}

pub(super) fn read_csr(pem: &str) -> Result<Csr, Problem> {
    Csr::parse(pem).map_err(|error| match error {
        PkiError::Request => Problem::field("/csr", error.to_string()),
        PkiError::Files(_) | PkiError::Folder(_) | PkiError::Making(_) | PkiError::Pin(_) => {
            Problem::internal(&error)
        }
    })
}
