//! `POST /v1/orders/{id}/reject`

use axum::Json;
use axum::extract::State;
use protocol::action::is_printable;
use protocol::id::OrderId;
use serde_json::json;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::commands;
use crate::commands::wire::{OrderView, Withdraw};
use crate::db::Rank;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};

/// Refuses an order that waits for approvals. Two to destroy, one to stop: any approver may.
#[utoipa::path(post, path = "/v1/orders/{id}/reject", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["approve"])),
    request_body = Withdraw,
    responses((status = 200, body = OrderView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn reject(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
    body: Body<Withdraw>,
) -> Result<Json<OrderView>, Problem> {
    let permit: Permit<ability::Approve> = principal.permit()?;
    let reason = body.value.reason.unwrap_or_else(|| "no reason given".to_owned());
    if !is_printable(&reason) {
        return Err(Problem::field("/reason", "is too long or has hidden characters"));
    }
    let mut tx = app.db.write_as(Rank::First, principal.actor(), app.now()).await?;
    let order = commands::find_order(tx.conn(), permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    commands::demand_written(tx.conn(), id).await?;
    let why = format!("rejected by {}: {reason}", permit.person());
    if commands::reject_waiting(&mut tx, &permit, id, &why).await? == 0 {
        return Err(Problem::conflict("no command of this order waits for approvals"));
    }
    tx.append(Kind::OrderRejected, id, json!({ "reason": reason }));
    let view = commands::order_view(tx.conn(), &order).await?;
    tx.commit().await?;
    Ok(Json(view))
}
