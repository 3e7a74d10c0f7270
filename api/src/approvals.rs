//! Approvals: people's signatures over an order's manifest.
//!
//! Owns taking them in. The control plane checks each early, to refuse early; the devices check
//! again, and only that counts. Persons are counted, not keys, against the trust root of now.

use axum::Json;
use axum::extract::State;
use protocol::envelope::check_approval;
use protocol::id::OrderId;
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::manifest::Manifest;
use protocol::time::Timestamp;
use protocol::trust::{Approved, Tally, TrustRoot};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::commands::wire::{OrderView, SubmitApproval};
use crate::commands::{self, Order, Words};
use crate::db::{Rank, Tx};
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};
use crate::lockdown;
use crate::trust;

mod reject;
mod store;
mod withdraw;

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit))
        .routes(routes!(reject::reject))
        .routes(routes!(withdraw::withdraw))
}

/// Hands an approval in. When it is the last one needed, the commands are queued with it.
#[utoipa::path(post, path = "/v1/orders/{id}/approvals", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["approve"])),
    request_body = SubmitApproval,
    responses((status = 200, body = OrderView), (status = "4XX", body = ProblemBody)))]
async fn submit(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
    body: Body<SubmitApproval>,
) -> Result<Json<OrderView>, Problem> {
    let permit: Permit<ability::Approve> = principal.permit()?;
    let now = app.now();
    let mut tx = app.db.write_as(Rank::First, principal.actor(), now).await?;
    let order = commands::find_order(tx.conn(), permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    commands::demand_written(tx.conn(), id).await?;
    if order.manifest.expires_at <= now {
        return Err(Problem::conflict("this order is past its end"));
    }
    lockdown::admit(tx.conn(), order.manifest.action.verb().class()).await?;
    let trust = trust::current(tx.conn()).await?.root;
    let jws = body.value.jws;
    let approved = check_approval(&jws, &order.manifest, &trust)
        .map_err(|refusal| Problem::field("/jws", refusal.to_string()))?;
    if approved.is_early(now) {
        return Err(Problem::field("/jws", "is of the future"));
    }
    let is_new = add(&mut tx, &order, approved, (&trust, &jws)).await?;
    let (counted, tally) = counting(&mut tx, &order.manifest, &trust, now).await?;
    let words = Words { trust: &trust, approvals: &counted, tally: &tally };
    let deliveries = commands::release(&app, &mut tx, &order, &words).await?;
    let view = commands::order_view(tx.conn(), &order).await?;
    if is_new || !deliveries.is_empty() {
        tx.commit().await?;
        app.outbox.push(deliveries);
    }
    Ok(Json(view))
}

/// Writes an approval; `false` when the very same one is there already. A key that is for something
/// else takes the place of its owner's former one: a person counts once.
async fn add(
    tx: &mut Tx,
    order: &Order,
    approved: Approved<'_>,
    (trust, jws): (&TrustRoot, &CompactJws),
) -> Result<bool, Problem> {
    let person = &approved.approver.person;
    let former = store::of_person(tx, order.id, person).await?;
    if let Some(former) = &former {
        if former == jws {
            return Ok(false);
        }
        let former = check_approval(former, &order.manifest, trust);
        if former.is_ok_and(|former| former.role == approved.role) {
            let detail = format!("{person} has approved this order already; a person counts once");
            return Err(Problem::conflict(detail));
        }
    }
    if !store::has_waiting(tx, order.id).await? {
        return Err(Problem::conflict("no command of this order waits for approvals"));
    }
    store::put(tx, order.id, person, jws).await?;
    let payload = json!({
        "person": person,
        "role": approved.role.as_str(),
        "approval_sha256": jws.sha256(),
    });
    tx.append(Kind::OrderApproved, order.id, payload);
    Ok(true)
}

/// The approvals that count now: valid under the present trust root, one per person.
pub(crate) async fn counting<'a>(
    tx: &mut Tx,
    manifest: &Manifest,
    trust: &'a TrustRoot,
    now: Timestamp,
) -> Result<(Vec<CompactJws>, Tally<'a>), Problem> {
    let (mut counted, mut tally) = (Vec::new(), Tally::default());
    for jws in store::of_order(tx, manifest.order_id).await? {
        if counted.len() < limits::APPROVALS
            && let Ok(approved) = check_approval(&jws, manifest, trust)
            && !approved.is_early(now)
        {
            tally.count(approved);
            counted.push(jws);
        }
    }
    Ok((counted, tally))
}
