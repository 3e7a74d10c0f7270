//! `GET /v1/orders/{id}` and `GET /v1/orders/{id}/manifest`

use axum::Json;
use axum::extract::State;
use protocol::id::OrderId;

use super::prepare::demand_written;
use super::store::orders::{devices, find_order, order_view};
use super::wire::{ManifestDevice, ManifestView, OrderView};
use crate::app::App;
use crate::auth::{Permit, Principal, Reach, ability};
use crate::http::problem::ProblemBody;
use crate::http::{Path, Problem};

/// Answers one order.
#[utoipa::path(get, path = "/v1/orders/{id}", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, body = OrderView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
) -> Result<Json<OrderView>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let order = find_order(&mut conn, permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    Ok(Json(order_view(&mut conn, &order).await?))
}

/// Answers what approvers sign. The client computes the Merkle root over the devices itself, and
/// signs only what it computed. A token that may not approve is answered the devices within its
/// reach alone.
#[utoipa::path(get, path = "/v1/orders/{id}/manifest", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["read"])),
    responses((status = 200, body = ManifestView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn manifest(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
) -> Result<Json<ManifestView>, Problem> {
    let permit: Permit<ability::Read> = principal.permit()?;
    let mut conn = app.db.read().await?;
    let order = find_order(&mut conn, permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    demand_written(&mut conn, id).await?;
    // Who approves must see every device to compute the root; who only reads sees their own.
    let approver = principal.permit::<ability::Approve>().ok();
    let everything = Reach::Everything;
    let reach = if approver.is_some() { &everything } else { permit.reach() };
    let devices = devices(&mut conn, reach, id).await?;
    let devices = devices.into_iter().map(|(id, name)| ManifestDevice { id, name }).collect();
    Ok(Json(ManifestView { manifest: order.manifest, devices, script: order.script }))
}
