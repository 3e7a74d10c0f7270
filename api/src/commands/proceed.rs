//! `POST /v1/orders/{id}/continue`

use axum::Json;
use axum::extract::State;
use protocol::action::is_printable;
use protocol::id::OrderId;
use protocol::state::CommandState;
use serde_json::json;

use super::prepare::demand_written;
use super::store::{self, orders};
use super::waves::follow;
use super::wire::{OrderView, WaveState, Withdraw};
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Act, Principal, Reach};
use crate::db::Rank;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};
use crate::{devices, lockdown};

/// Has the devices of an order that wait for its first wave follow, whatever became of that. Takes
/// what giving the order takes, and a reason.
#[utoipa::path(post, path = "/v1/orders/{id}/continue", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["order"])),
    request_body = Withdraw,
    responses((status = 200, body = OrderView), (status = "4XX", body = ProblemBody)))]
pub(super) async fn proceed(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
    body: Body<Withdraw>,
) -> Result<Json<OrderView>, Problem> {
    let now = app.now();
    let mut tx = app.db.write_as(Rank::First, principal.actor(), now).await?;
    let missing = || Problem::not_found("order");
    let order = orders::find_order(tx.conn(), &Reach::Everything, id).await?;
    let order = order.ok_or_else(missing)?;
    let verb = order.manifest.action.verb();
    // Who may not order this learns nothing of the order.
    let permit = principal.permit_order(verb).map_err(|_| missing())?;
    orders::find_order(tx.conn(), permit.reach(), id).await?.ok_or_else(missing)?;
    demand_written(tx.conn(), id).await?;
    let known = store::of_order(tx.conn(), id).await?;
    let ids: Vec<_> = known.iter().map(|known| known.device).collect();
    let mut groups = devices::groups_of(tx.conn(), &ids).await?;
    ids.iter().try_for_each(|id| permit.demand(&groups.remove(id).unwrap_or_default()))?;
    principal.step_up((&app, tx.conn()), Act::Order(verb)).await?;
    let reason = body.value.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let reason = reason.ok_or_else(|| Problem::field("/reason", "is needed"))?;
    if !is_printable(reason) {
        return Err(Problem::field("/reason", "is too long or has hidden characters"));
    }
    lockdown::admit(tx.conn(), verb.class()).await?;
    if order.manifest.expires_at <= now {
        return Err(Problem::conflict("this order is past its end"));
    }
    if !known.iter().any(|known| known.state == CommandState::AwaitingWave) {
        return Err(Problem::conflict("no command of this order waits for its first wave"));
    }
    let why = format!("continued by {}: {reason}", permit.person());
    store::waves::end(&mut tx, id, WaveState::Passed, Some(&why)).await?;
    tx.append(Kind::OrderContinued, id, json!({ "reason": reason }));
    let deliveries = follow(&app, &mut tx, id).await?;
    let view = orders::order_view(tx.conn(), &order).await?;
    tx.commit().await?;
    app.outbox.push(deliveries);
    Ok(Json(view))
}
