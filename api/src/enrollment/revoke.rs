//! `POST /v1/devices/{id}/revoke`

use axum::extract::State;
use axum::http::StatusCode;
use protocol::id::DeviceId;
use serde_json::json;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Act, Permit, Principal, ability};
use crate::db::Rank;
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};
use crate::{budgets, commands, deliver, devices};

/// Ends a device's enrollment at once: its sessions close, its commands end.
#[utoipa::path(post, path = "/v1/devices/{id}/revoke", tag = "devices",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["devices"])),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
pub(super) async fn revoke(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<DeviceId>,
) -> Result<StatusCode, Problem> {
    let permit: Permit<ability::Devices> = principal.permit()?;
    let mut conn = app.db.read().await?;
    principal.step_up((&app, &mut conn), Act::RevokeDevice).await?;
    drop(conn);
    let mut tx = app.db.write_as(Rank::First, principal.actor(), app.now()).await?;
    commands::record_waiting(&app, &mut tx).await?;
    let device = devices::find(tx.conn(), permit.reach(), id).await?;
    let device = device.ok_or_else(|| Problem::not_found("device"))?;
    if !device.is_revoked() {
        let policy = app.policy.load_full();
        // Nobody is hurt where nothing acts, and whoever measures with thousands of them tidies up.
        if !device.is_simulated {
            budgets::spend_revocation(&mut tx, &policy.budgets, permit.person()).await?;
        }
        commands::end_enrollment(&mut tx, id, "device revoked").await?;
        devices::revoke(&mut tx, &device).await?;
        tx.append(Kind::DeviceRevoked, id, json!({ "through_generation": device.generation }));
        tx.commit().await?;
    }
    // Pushed again when asked again: the first push may have been lost.
    deliver::revoke_everywhere(&app, id, device.generation).await;
    Ok(StatusCode::NO_CONTENT)
}
