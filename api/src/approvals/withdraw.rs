//! `POST /v1/orders/{id}/withdraw`

use axum::Json;
use axum::extract::State;
use protocol::action::is_printable;
use protocol::id::OrderId;
use serde_json::json;

use super::{counting, store};
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::commands::wire::{OrderView, WithdrawApproval};
use crate::commands::{self, Words};
use crate::db::Rank;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};
use crate::trust;

/// Takes a person's approval back. What left on its word, and is on no device, is withdrawn with
/// it; what waits goes on waiting. Takes no signature, as a rejection takes none: it only stops.
#[utoipa::path(post, path = "/v1/orders/{id}/withdraw", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["approve"])),
    request_body = WithdrawApproval,
    responses((status = 200, body = OrderView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn withdraw(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
    body: Body<WithdrawApproval>,
) -> Result<Json<OrderView>, Problem> {
    let permit: Permit<ability::Approve> = principal.permit()?;
    let WithdrawApproval { person, reason } = body.value;
    let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
    if !is_printable(&reason) {
        return Err(Problem::field("/reason", "is too long or has hidden characters"));
    }
    let now = app.now();
    let mut tx = app.db.write_as(Rank::First, principal.actor(), now).await?;
    commands::record_waiting(&app, &mut tx).await?;
    let order = commands::find_order(tx.conn(), permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    if !store::remove(&mut tx, id, &person).await? {
        let detail = format!("{person} has approved nothing here that could be withdrawn");
        return Err(Problem::conflict(detail));
    }
    let trust = trust::current(tx.conn()).await?.root;
    let (counted, tally) = counting(&mut tx, &order.manifest, &trust, now).await?;
    let words = Words { trust: &trust, approvals: &counted, tally: &tally };
    let why = format!("approval of {person} withdrawn by {}: {reason}", permit.person());
    let withdrawn =
        commands::withdraw_unapproved(&mut tx, &permit, (&order.manifest, &words), &why).await?;
    let payload = json!({ "person": person, "reason": reason, "commands": withdrawn });
    tx.append(Kind::ApprovalWithdrawn, id, payload);
    let view = commands::order_view(tx.conn(), &order).await?;
    tx.commit().await?;
    Ok(Json(view))
}
