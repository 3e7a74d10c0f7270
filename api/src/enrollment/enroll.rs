//! `POST /agent/v1/enroll`

use std::net::IpAddr;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use protocol::action::is_printable;
use protocol::enrollment::{DeviceIdentity, EnrollRequest, EnrollResponse};
use protocol::id::DeviceId;
use runtime::http::ConnectionInfo;
use serde_json::json;
use uuid::Uuid;

use super::store;
use crate::app::App;
use crate::audit::{self, Actor, Kind};
use crate::auth::SecretHash;
use crate::commands;
use crate::db::{Conn, Tx, millis};
use crate::deliver;
use crate::devices::{self, Enrolling};
use crate::http::{Body, Problem, ProblemKind};
use crate::pki::{Csr, PkiError};
use crate::trust;

/// Events about one token that was used from elsewhere; later ones say nothing new.
const ALARMS: i64 = 8;

/// Gives a device its identity, for a token.
pub(super) async fn enroll(
    State(app): State<App>,
    Extension(connection): Extension<ConnectionInfo>,
    body: Body<EnrollRequest>,
) -> Result<Response, Problem> {
    let peer = connection.peer_addr.ip();
    app.limits.enroll(peer)?;
    let asked = body.value;
    let csr = read_csr(&asked.csr)?;
    if asked.name.trim().is_empty() || !is_printable(&asked.name) {
        return Err(Problem::field("/name", "must be printable and not empty"));
    }
    let secret = SecretHash::of(&asked.secret);
    // Asked on a reader first: who has no token does not hold the only writer.
    let token = store::find(&mut app.db.read().await?, &secret, app.now()).await?;
    let token = token.ok_or_else(refused)?;
    // Which networks a token has never changes: what is judged here holds when it is claimed.
    if !token.admits(peer) {
        return Err(refuse_source(&app, token.id, peer).await?);
    }
    if let Some(used) = token.used {
        return repeat(&app, used, &csr).await;
    }
    let mut tx = app.db.write(Actor::System, app.now()).await?;
    let Some(claimed) = store::claim(&mut tx, &secret).await? else {
        let token = store::find(tx.conn(), &secret, app.now()).await?;
        drop(tx);
        let used = token.and_then(|token| token.used).ok_or_else(refused)?;
        return repeat(&app, used, &csr).await;
    };
    commands::record_waiting(&app, &mut tx).await?;
    let about = About { name: &asked.name, is_simulated: claimed.is_simulated };
    let (response, ended) = give_identity(&app, &mut tx, about, &csr).await?;
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

/// Unknown, used, expired and of another network look alike from outside.
fn refused() -> Problem {
    Problem::new(ProblemKind::Unauthenticated, "the token is not valid here (any more)")
}

/// Somebody has a token and is not where it may be used: whoever made it should know. It stays as it
/// is, for the device that it is meant for.
async fn refuse_source(app: &App, token: Uuid, peer: IpAddr) -> Result<Problem, Problem> {
    let kind = Kind::EnrollmentRefused;
    let peer = peer.to_canonical();
    // Asked on a reader: whoever goes on does not hold the only writer.
    let told = audit::count_about(&mut app.db.read().await?, token, kind).await?;
    if told < ALARMS {
        tracing::warn!(token.id = %token, %peer, "enrollment token used from another network");
        let mut tx = app.db.write(Actor::System, app.now()).await?;
        tx.append(kind, token, json!({ "peer": peer }));
        tx.commit().await?;
    }
    Ok(refused())
}

/// Answers again the device that used the token and lost the answer: the key that signed the
/// request is the one that the token was used for, and that enrollment is still the present one.
async fn repeat(app: &App, used: (i64, DeviceId), csr: &Csr) -> Result<Response, Problem> {
    let now = app.now();
    let (used_at, used_by) = used;
    let mut conn = app.db.read().await?;
    let device = devices::find_by_key(&mut conn, csr.public()).await?.ok_or_else(refused)?;
    let is_that_enrollment = device.id == used_by && millis(device.enrolled_at) == used_at;
    if !is_that_enrollment || device.is_revoked() {
        return Err(refused());
    }
    let identity = DeviceIdentity { device: device.id, generation: device.generation };
    // Until when the store says it lasts: nothing is written, so nobody fills the audit log.
    let lasts = device.certificate_expires_at.since(now);
    let authority = app.authority();
    let (certificate, _) = authority
        .issue_device(identity, csr, now, lasts)
        .map_err(|error| Problem::internal(&error))?;
    let trusted = (certificate, authority.trusted_pem());
    let response = answer(app, &mut conn, identity, trusted).await?;
    Ok((StatusCode::CREATED, axum::Json(response)).into_response())
}

async fn answer(
    app: &App,
    conn: &mut Conn,
    identity: DeviceIdentity,
    (certificate, ca): (String, String),
) -> Result<EnrollResponse, Problem> {
    Ok(EnrollResponse {
        device_id: identity.device,
        generation: identity.generation,
        certificate,
        ca,
        trust: trust::current(conn).await?.signed,
        config: app.agent_config(app.now()).map_err(|error| Problem::internal(&error))?,
    })
}

/// What a device calls itself, and what its token says of it.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    name: &'a str,
    is_simulated: bool,
}

/// Writes the enrollment, and answers the generation that it ended, if any.
async fn give_identity(
    app: &App,
    tx: &mut Tx,
    About { name, is_simulated }: About<'_>,
    csr: &Csr,
) -> Result<(EnrollResponse, Option<u32>), Problem> {
    let now = tx.now();
    let known = devices::find_by_key(tx.conn(), csr.public()).await?;
    if known.as_ref().is_some_and(|known| known.is_simulated != is_simulated) {
        // Orders for it would pass it by, or what is no test would reach it.
        return Err(Problem::conflict(if is_simulated {
            "this device is enrolled as one that acts; a token for simulated devices is for others"
        } else {
            "this device is enrolled as a simulated one, and stays so; make another key"
        }));
    }
    let identity = match &known {
        Some(known) => {
            DeviceIdentity { device: known.id, generation: known.generation.saturating_add(1) }
        }
        None => DeviceIdentity { device: DeviceId::new(now, app.random()), generation: 1 },
    };
    let lasts = app.config.device_certificate;
    let authority = app.authority();
    let (certificate, certificate_expires_at) = authority
        .issue_device(identity, csr, now, lasts)
        .map_err(|error| Problem::internal(&error))?;
    let enrolling = Enrolling {
        id: identity.device,
        name,
        key: csr.public(),
        generation: identity.generation,
        certificate_expires_at,
        is_simulated,
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
    let mut payload = json!({
        "name": name,
        "generation": identity.generation,
        "key_id": csr.public().id(),
    });
    if is_simulated {
        payload["simulated"] = json!(true);
    }
    tx.append_by(Actor::Device(identity.device), kind, identity.device, payload);
    let trusted = (certificate, authority.trusted_pem());
    let response = answer(app, tx.conn(), identity, trusted).await?;
    Ok((response, known.map(|known| known.generation)))
}

pub(super) fn read_csr(pem: &str) -> Result<Csr, Problem> {
    Csr::parse(pem).map_err(|error| match error {
        PkiError::Request => Problem::field("/csr", error.to_string()),
        PkiError::Files(_)
        | PkiError::Folder(_)
        | PkiError::Making(_)
        | PkiError::Pin(_)
        | PkiError::OtherKey => Problem::internal(&error),
    })
}
