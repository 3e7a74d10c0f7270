//! `GET /v1/devices/{id}`

use axum::Json;
use axum::extract::State;
use protocol::id::DeviceId;

use super::{DeviceView, locate, store, view};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};

/// Answers one device.
#[utoipa::path(get, path = "/v1/devices/{id}", tag = "devices",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, body = DeviceView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<DeviceId>,
) -> Result<Json<DeviceView>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let device = store::find(&mut conn, permit.reach(), id).await?;
    let device = device.ok_or_else(|| Problem::not_found("device"))?;
    let mut groups = store::groups_of(&mut conn, &[id]).await?;
    drop(conn);
    let place = locate(&app, &[id]).await.map(|places| places.into_iter().next().flatten());
    Ok(Json(view(device, &mut groups, place)))
}
