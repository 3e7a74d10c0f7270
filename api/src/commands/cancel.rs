//! `POST /v1/commands/{id}/cancel` and `POST /v1/orders/{id}/cancel`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use protocol::action::{Action, Cancel, Verb, is_printable};
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::limits;
use protocol::manifest::Manifest;
use protocol::state::CommandState;
use serde_json::json;

use super::intake::{self, Asked};
use super::model::{Happening, Step, step};
use super::plan::{Known, Plan};
use super::queue::Words;
use super::sent::record_waiting;
use super::store::{self, Standing};
use super::wire::{CancelledCommand, CancelledOrder, CreateOrder, CreatedOrder, Targets, Withdraw};
use crate::app::App;
use crate::audit::Kind;
use crate::auth::{Permit, Principal, ability};
use crate::db::{Rank, Tx};
use crate::devices;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Path, Problem};
use crate::outbox::Delivery;
use crate::trust;

/// The shortest validity of what calls back.
const SHORTEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Withdraws a command that no device has on disk. One that destroys and waits in its undo window,
/// and a script that has not begun, is called back by a signed order of its own, also where nobody knows yet that it has left.
/// One that was sent may still arrive: what its device then says is recorded as a conflict.
#[utoipa::path(post, path = "/v1/commands/{id}/cancel", tag = "commands",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["stop"])),
    request_body = Withdraw,
    responses((status = 200, body = CancelledCommand), (status = "4XX", body = ProblemBody)))]
pub(super) async fn cancel(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<CommandId>,
    body: Body<Withdraw>,
) -> Result<Json<CancelledCommand>, Problem> {
    let permit: Permit<ability::Stop> = principal.permit()?;
    let why = why(&permit, &body.value)?;
    let now = app.now();
    let mut tx = app.db.write_as(Rank::First, principal.actor(), now).await?;
    record_waiting(&app, &mut tx).await?;
    let missing = || Problem::not_found("command");
    store::find(tx.conn(), permit.reach(), id, now).await?.ok_or_else(missing)?;
    let known = store::standings(tx.conn(), &[id]).await?.into_iter().next();
    let known = known.ok_or_else(missing)?;
    let back = call_back(&app, &principal, &mut tx, (known.order, &why), &[&known]).await?;
    match step(known.state, Happening::Withdrawn) {
        Step::To(_) => {
            withdraw(&mut tx, &known, &why).await?;
        }
        Step::Stay => {}
        Step::Conflict if back.is_some() => {}
        Step::Conflict => return Err(Problem::conflict(too_late(known.state))),
    }
    let command = store::find(tx.conn(), permit.reach(), id, now).await?.ok_or_else(missing)?;
    let cancel = sent(&app, tx, back).await?;
    Ok(Json(CancelledCommand { command, cancel }))
}

/// Withdraws every command of an order that no device has on disk. Those that destroy and wait in
/// their undo windows, and scripts that have not begun, are called back by one signed order.
#[utoipa::path(post, path = "/v1/orders/{id}/cancel", tag = "orders",
    params(("id" = String, Path, format = "uuid")), security(("token" = ["stop"])),
    request_body = Withdraw,
    responses((status = 200, body = CancelledOrder), (status = "4XX", body = ProblemBody)))]
pub(super) async fn cancel_order(
    State(app): State<App>,
    principal: Principal,
    Path(id): Path<OrderId>,
    body: Body<Withdraw>,
) -> Result<Json<CancelledOrder>, Problem> {
    let permit: Permit<ability::Stop> = principal.permit()?;
    let why = why(&permit, &body.value)?;
    let mut tx = app.db.write_as(Rank::First, principal.actor(), app.now()).await?;
    record_waiting(&app, &mut tx).await?;
    let order = store::orders::find_order(tx.conn(), permit.reach(), id).await?;
    let order = order.ok_or_else(|| Problem::not_found("order"))?;
    let known = store::of_order(tx.conn(), id).await?;
    let planned = store::preparations::planned(tx.conn(), id).await?.unwrap_or_default();
    let planned = planned.iter().map(|planned| planned.device);
    let devices: Vec<_> = known.iter().map(|known| known.device).chain(planned).collect();
    demand_all(&mut tx, &permit, &devices).await?;
    // What is not written yet has no number, and gets none.
    let is_cut_short = store::preparations::withdraw(&mut tx, id, &why).await?;
    let all: Vec<_> = known.iter().collect();
    let back = call_back(&app, &principal, &mut tx, (id, &why), &all).await?;
    let mut count = 0_usize;
    for known in &known {
        count += usize::from(withdraw(&mut tx, known, &why).await?);
    }
    if count == 0 && back.is_none() && !is_cut_short {
        let detail = "every command of this order has ended or is on its device already";
        return Err(Problem::conflict(detail));
    }
    let order = store::orders::order_view(tx.conn(), &order).await?;
    let cancel = sent(&app, tx, back).await?;
    Ok(Json(CancelledOrder { order, cancel }))
}

/// An order that calls another one back, with what is to be delivered.
type CallBack = (CreatedOrder, Vec<Delivery>);

/// Calls back those commands of an order that their devices may have and hold: in their undo windows,
/// or, of scripts, behind another one. Whether they do is known to them alone: what counts as not sent yet may have
/// left through another node, or before a crash.
async fn call_back(
    app: &App,
    principal: &Principal,
    tx: &mut Tx,
    (id, why): (OrderId, &str),
    known: &[&Standing],
) -> Result<Option<CallBack>, Problem> {
    let is_out = |known: &&&Standing| match known.state {
        CommandState::Queued | CommandState::Sent | CommandState::Acked | CommandState::Running => {
            true
        }
        CommandState::AwaitingApproval
        | CommandState::AwaitingWave
        | CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Refused
        | CommandState::Expired
        | CommandState::Cancelled
        | CommandState::InDoubt => false,
    };
    let devices: Vec<_> = known.iter().filter(is_out).map(|known| known.device).collect();
    let permit = principal.permit_order(Verb::Cancel)?;
    let order = store::orders::find_order(tx.conn(), permit.reach(), id).await?;
    let Some(order) = order.filter(|_| !devices.is_empty()) else { return Ok(None) };
    // A script waits for those before it in its lane, and may not have begun.
    let may_wait = order.manifest.action.verb() == Verb::RunScript;
    let root = trust::current(tx.conn()).await?.root;
    if !may_wait && root.undo_window(&order.manifest).is_zero() {
        return Ok(None);
    }
    // It is remembered for as long as what it calls back could come.
    let validity = order.manifest.expires_at.since(tx.now()).max(SHORTEST).min(limits::VALIDITY);
    let asked = CreateOrder {
        action: Action::Cancel(Cancel { order_id: id }),
        targets: Targets::Devices(devices),
        reason: Some(why.chars().take(limits::TEXT_CHARS).collect()),
        expires_in_secs: Some(validity.as_secs()),
        plans: Vec::new(),
        undo_secs: None,
        offline_codes: BTreeMap::new(),
        script: None,
        all_at_once: false,
        accept_cloned: false,
        simulated: order.manifest.simulated,
        dry_run: false,
    };
    let now = tx.now();
    let order_id = OrderId::new(now, app.random());
    let policy = app.policy.load_full();
    let plan =
        Plan::new((tx.conn(), &Known::new(), &policy.first_wave), &permit, &asked, order_id, now)
            .await?;
    let asked =
        Asked { person: permit.person().clone(), token: None, planned_at: now, claim: None, plan };
    Ok(Some(intake::write_within(app, tx, &asked).await?))
}

/// Commits, and sends what calls back.
async fn sent(app: &App, tx: Tx, back: Option<CallBack>) -> Result<Option<CreatedOrder>, Problem> {
    tx.commit().await?;
    Ok(back.map(|(created, deliveries)| {
        app.outbox.push(deliveries);
        created
    }))
}

/// An order is withdrawn as a whole: each of its devices must be within reach.
async fn demand_all<A>(tx: &mut Tx, permit: &Permit<A>, ids: &[DeviceId]) -> Result<(), Problem> {
    let mut groups = devices::groups_of(tx.conn(), ids).await?;
    ids.iter().try_for_each(|id| permit.demand(&groups.remove(id).unwrap_or_default()))
}

pub(super) async fn withdraw(tx: &mut Tx, known: &Standing, why: &str) -> Result<bool, Problem> {
    let Step::To(state) = step(known.state, Happening::Withdrawn) else { return Ok(false) };
    store::end(tx, known.id, state, why).await?;
    let payload = json!({
        "order_id": known.order,
        "device_id": known.device,
        "from": known.state,
        "why": why,
    });
    tx.append(Kind::CommandCancelled, known.id, payload);
    Ok(true)
}

/// Withdraws the commands of an order that wait for approvals, and says how many.
pub(crate) async fn reject_waiting(
    tx: &mut Tx,
    permit: &Permit<ability::Approve>,
    order: OrderId,
    why: &str,
) -> Result<usize, Problem> {
    let known = store::of_order(tx.conn(), order).await?;
    let devices: Vec<_> = known.iter().map(|known| known.device).collect();
    demand_all(tx, permit, &devices).await?;
    let mut count = 0;
    for known in known {
        if known.state == CommandState::AwaitingApproval {
            count += usize::from(withdraw(tx, &known, why).await?);
        }
    }
    Ok(count)
}

/// Withdraws those commands of an order that left on approvals which suffice no more, and that no
/// device has. Answers how many.
///
/// # Errors
/// A conflict when every command has ended or is on its device: nothing can be taken back then.
pub(crate) async fn withdraw_unapproved(
    tx: &mut Tx,
    permit: &Permit<ability::Approve>,
    (manifest, words): (&Manifest, &Words<'_>),
    why: &str,
) -> Result<usize, Problem> {
    let known = store::of_order(tx.conn(), manifest.order_id).await?;
    let devices: Vec<_> = known.iter().map(|known| known.device).collect();
    demand_all(tx, permit, &devices).await?;
    let may_go = |device| {
        let needs = words.trust.needs(manifest, &device).ok();
        needs.is_some_and(|needs| words.tally.authority(needs).is_some())
    };
    let (mut count, mut waiting) = (0, 0);
    for known in &known {
        match known.state {
            CommandState::AwaitingApproval | CommandState::AwaitingWave => waiting += 1,
            CommandState::Queued | CommandState::Sent if may_go(known.device) => waiting += 1,
            CommandState::Queued | CommandState::Sent => {
                count += usize::from(withdraw(tx, known, why).await?);
            }
            CommandState::Acked
            | CommandState::Running
            | CommandState::Succeeded
            | CommandState::Failed
            | CommandState::Refused
            | CommandState::Expired
            | CommandState::Cancelled
            | CommandState::InDoubt => {}
        }
    }
    if count + waiting == 0 {
        let detail = "every command of this order has ended or is on its device; cancel calls back \
                      what waits there";
        return Err(Problem::conflict(detail));
    }
    Ok(count)
}

fn why(permit: &Permit<ability::Stop>, asked: &Withdraw) -> Result<String, Problem> {
    let reason = asked.reason.as_deref().unwrap_or("no reason given");
    if is_printable(reason) {
        Ok(format!("cancelled by {}: {reason}", permit.person()))
    } else {
        Err(Problem::field("/reason", "is too long or has hidden characters"))
    }
}

const fn too_late(state: CommandState) -> &'static str {
    match state {
        CommandState::Acked | CommandState::Running => {
            "the device has this command on disk; only a receipt can end it"
        }
        CommandState::AwaitingApproval
        | CommandState::AwaitingWave
        | CommandState::Queued
        | CommandState::Sent
        | CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Refused
        | CommandState::Expired
        | CommandState::Cancelled
        | CommandState::InDoubt => "this command has ended already",
    }
}
