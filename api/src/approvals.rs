//! Approvals: people's signatures over an order's manifest.
//!
//! Owns taking them in. The control plane checks each early, to refuse early; the devices check
//! again, and only that counts. Persons are counted, not keys, against the trust root of now.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use protocol::envelope::check_approval;
use protocol::id::{OrderId, PersonName};
use protocol::jws::CompactJws;
use protocol::limits;
use protocol::manifest::Manifest;
use protocol::trust::TrustRoot;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::commands::wire::{OrderView, SubmitApproval};
use crate::commands::{self, Order};
use crate::db::Tx;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};
use crate::trust;

mod reject;
mod store;

/// The routes.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(submit)).routes(routes!(reject::reject))
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
    let mut tx = app.db.write(principal.actor(), now).await?;
    let order = commands::find_order(tx.conn(), permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    if order.manifest.expires_at <= now {
        return Err(Problem::conflict("this order is past its end"));
    }
    let trust = trust::current(tx.conn()).await?.root;
    let jws = body.value.jws;
    let person = check_approval(&jws, &order.manifest, &trust)
        .map_err(|refusal| Problem::field("/jws", refusal.to_string()))?
        .clone();
    let is_new = add(&mut tx, &order, &person, &jws).await?;
    let counted = counting(&mut tx, &order.manifest, &trust).await?;
    let deliveries = commands::release(&app, &mut tx, &order, &counted).await?;
    let view = commands::order_view(tx.conn(), &order).await?;
    if is_new || !deliveries.is_empty() {
        tx.commit().await?;
        app.outbox.push(deliveries);
    }
    Ok(Json(view))
}

/// Writes an approval; `false` when the very same one is there already.
async fn add(
    tx: &mut Tx,
    order: &Order,
    person: &PersonName,
    jws: &CompactJws,
) -> Result<bool, Problem> {
    if let Some(former) = store::of_person(tx, order.id, person).await? {
        if former == *jws {
            return Ok(false);
        }
        let detail = format!("{person} has approved this order already; a person counts once");
        return Err(Problem::conflict(detail));
    }
    if !store::has_waiting(tx, order.id).await? {
        return Err(Problem::conflict("no command of this order waits for approvals"));
    }
    store::insert(tx, order.id, person, jws).await?;
    let payload = json!({ "person": person, "approval_sha256": jws.sha256() });
    tx.append(Kind::OrderApproved, order.id, payload);
    Ok(true)
}

/// The approvals that count now: valid under the present trust root, one per person.
async fn counting(
    tx: &mut Tx,
    manifest: &Manifest,
    trust: &TrustRoot,
) -> Result<Vec<CompactJws>, Problem> {
    let mut counted = BTreeMap::new();
    for jws in store::of_order(tx, manifest.order_id).await? {
        if let Ok(person) = check_approval(&jws, manifest, trust) {
            counted.insert(person.clone(), jws);
        }
    }
    Ok(counted.into_values().take(limits::APPROVALS).collect())
}
