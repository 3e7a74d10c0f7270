//! `POST /v1/orders`

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use protocol::action::Verb;
use protocol::id::{CommandId, OrderId};
use protocol::limits::DESTRUCTIVE_DEVICES;
use protocol::state::{CommandState, VerbClass};
use protocol::trust::{Forbidden, Needs, TrustRoot};

use super::halt::halt;
use super::plan::Plan;
use super::queue::{self, Fresh};
use super::store;
use super::wire::{CommandSummary, CreateOrder, CreatedOrder, DryRun, DryRunDevice, Warning};
use crate::app::App;
use crate::auth::{Permit, Principal, ability};
use crate::budgets::{self, Spending};
use crate::db::Tx;
use crate::devices::{self, Device};
use crate::http::problem::ProblemBody;
use crate::http::{Begun, Body, Once, Problem};
use crate::lockdown::{self, Level};
use crate::outbox::Delivery;
use crate::trust;

/// The capability word of an agent that found an encrypted volume to wipe.
const ENCRYPTED_VOLUME: &str = "encrypted_volume";

/// Gives an order, or says what it would do.
#[utoipa::path(post, path = "/v1/orders", tag = "orders", security(("token" = ["order"])),
    request_body = CreateOrder,
    responses((status = 201, body = CreatedOrder), (status = 200, body = DryRun),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Body<CreateOrder>,
) -> Result<Response, Problem> {
    let permit = principal.permit_order(body.value.action.verb())?;
    if body.value.dry_run {
        return dry_run(&app, &permit, &body.value).await;
    }
    let now = app.now();
    let mut once = match Once::begin(&app.db, &principal, body.ticket, now).await? {
        Begun::Fresh(once) => once,
        Begun::Replay(response) => return Ok(response),
    };
    let order_id = OrderId::new(now, app.random());
    let plan = Plan::new(once.tx().conn(), &permit, &body.value, order_id, now).await?;
    if let Some(why) = guard(&app, once.tx(), &permit, &plan).await? {
        drop(once);
        halt(&app.db, now, Level::Destructive, &why).await?;
        return Err(lockdown::refusal(&why));
    }
    let (created, deliveries) = write(&app, once.tx(), &permit, &plan).await?;
    let response = once.finish(StatusCode::CREATED, &created).await?;
    app.outbox.push(deliveries);
    Ok(response)
}

/// Lockdowns, budgets and the brake, in the transaction of the order. Answers why the brake is
/// tripped, if it is.
async fn guard(
    app: &App,
    tx: &mut Tx,
    permit: &Permit<ability::Order>,
    plan: &Plan,
) -> Result<Option<String>, Problem> {
    let (verb, budgets) = (plan.manifest().action.verb(), &app.config.budgets);
    let is_destructive = match verb.class() {
        // Who stops must not run out of it.
        VerbClass::Routine | VerbClass::Stop => return Ok(None),
        VerbClass::Disruptive => false,
        VerbClass::Destructive => true,
    };
    let devices = plan.manifest().device_count;
    if is_destructive {
        lockdown::admit(tx.conn(), VerbClass::Destructive).await?;
        if devices > DESTRUCTIVE_DEVICES {
            // The people of the mass role see how many, each on their own machine.
            return Ok(None);
        }
    }
    let mut groups: BTreeMap<_, u32> = BTreeMap::new();
    if budgets.concerns_groups(verb) {
        let ids: Vec<_> = plan.devices().iter().map(|device| device.id).collect();
        let of_devices = devices::groups_of(tx.conn(), &ids).await?;
        for group in of_devices.into_values().flatten() {
            *groups.entry(group).or_default() += 1;
        }
    }
    let spending = Spending { operator: permit.person(), verb, devices, groups };
    budgets::spend(tx, budgets, &spending).await?;
    if is_destructive {
        return Ok(budgets::trips_brake(tx, budgets, devices).await?);
    }
    Ok(None)
}

/// Writes an order with its commands; those that wait for nobody are queued.
pub(super) async fn write(
    app: &App,
    tx: &mut Tx,
    permit: &Permit<ability::Order>,
    plan: &Plan,
) -> Result<(CreatedOrder, Vec<Delivery>), Problem> {
    let trust = trust::current(tx.conn()).await?.root;
    plan.check(&trust)?;
    let order = store::orders::insert(tx, permit.person(), plan).await?;
    let (mut waiting, mut free) = (Vec::new(), Vec::new());
    let mut commands = Vec::with_capacity(plan.devices().len());
    for device in plan.devices() {
        let needed = trust.approvals_needed(plan.manifest(), &device.id);
        let fresh = fresh(app, tx, plan, device, needed)?;
        let is_free = needed == 0;
        let state = if is_free { CommandState::Queued } else { CommandState::AwaitingApproval };
        commands.push(CommandSummary { id: fresh.id, device_id: device.id, state });
        if is_free { free.push(fresh) } else { waiting.push(fresh) }
    }
    store::orders::insert_waiting(tx, &order, &waiting).await?;
    let signed = queue::number_and_sign(app, tx, &order, &[], free).await?;
    store::orders::insert_queued(tx, &order, &signed).await?;
    let deliveries = signed.into_iter().map(Into::into).collect();
    let order = store::orders::order_view(tx.conn(), &order).await?;
    Ok((CreatedOrder { order, commands }, deliveries))
}

fn fresh(
    app: &App,
    tx: &Tx,
    plan: &Plan,
    device: &Device,
    approvals_needed: u8,
) -> Result<Fresh, Problem> {
    let missing = || Problem::field("/targets", "changed meanwhile");
    Ok(Fresh {
        id: CommandId::new(tx.now(), app.random()),
        device: device.id,
        generation: device.generation,
        approvals_needed,
        proof: plan.tree().proof(&device.id).ok_or_else(missing)?,
    })
}

async fn dry_run(
    app: &App,
    permit: &Permit<ability::Order>,
    asked: &CreateOrder,
) -> Result<Response, Problem> {
    let now = app.now();
    let mut conn = app.db.read().await?;
    let order_id = OrderId::new(now, app.random());
    let plan = Plan::new(&mut conn, permit, asked, order_id, now).await?;
    let trust = trust::current(&mut conn).await?.root;
    drop(conn);
    let ids: Vec<_> = plan.devices().iter().map(|device| device.id).collect();
    let mut places = devices::locate(app, &ids).await.map(Vec::into_iter);
    let mut warnings = order_warnings(&plan, &trust);
    let mut rows = Vec::with_capacity(ids.len());
    for device in plan.devices() {
        let online = places.as_mut().map(|places| places.next().flatten().is_some());
        device_warnings(asked.action.verb(), device, online, &mut warnings);
        rows.push(DryRunDevice {
            id: device.id,
            name: device.name.clone(),
            online,
            approvals_needed: trust.approvals_needed(plan.manifest(), &device.id),
        });
    }
    let answer = DryRun {
        dry_run: true,
        device_count: plan.manifest().device_count,
        approvals_needed: rows.iter().map(|row| row.approvals_needed).max().unwrap_or(0),
        expires_at: plan.manifest().expires_at.into(),
        devices: rows,
        warnings,
    };
    Ok(axum::Json(answer).into_response())
}

fn order_warnings(plan: &Plan, trust: &TrustRoot) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind: &str, detail: String| {
        warnings.push(Warning { kind: kind.to_owned(), device_id: None, detail });
    };
    let persons: BTreeSet<_> = trust.approvers.iter().map(|approver| &approver.person).collect();
    let mass = trust.mass.iter().flat_map(|mass| &mass.approvers);
    let with_mass: BTreeSet<_> = persons.iter().copied().chain(mass.map(|a| &a.person)).collect();
    let mut most = Needs::default();
    let mut protected = Vec::new();
    for device in plan.devices() {
        match plan.needs(trust, device.id) {
            Ok(needs) if needs.persons >= most.persons => most = needs,
            Ok(_) => {}
            Err(forbidden @ Forbidden::TooManyDevices { .. }) => {
                warn("too_many_devices", forbidden.to_string());
                return warnings;
            }
            Err(Forbidden::Protected(_)) => protected.push(device),
        }
    }
    let needed = usize::from(most.persons);
    let have = if most.mass > 0 { with_mass.len() } else { persons.len() };
    if have < needed {
        warn("too_few_approvers", format!("{needed} must approve, the trust root names {have}"));
    }
    if most.mass > 0 {
        warn("mass", format!("{} persons of the mass role must approve", most.mass));
    }
    warnings.extend(protected.into_iter().map(|device| Warning {
        kind: "protected_device".to_owned(),
        device_id: Some(device.id),
        detail: format!("{} is protected: it will refuse, and so does the order", device.name),
    }));
    warnings
}

fn device_warnings(verb: Verb, device: &Device, online: Option<bool>, warnings: &mut Vec<Warning>) {
    let mut warn = |kind: &str, detail: String| {
        warnings.push(Warning { kind: kind.to_owned(), device_id: Some(device.id), detail });
    };
    let reports = |word: &str| device.capabilities.iter().any(|capability| capability == word);
    if online == Some(false) {
        warn("offline", format!("{} has no session; it obeys when it comes back", device.name));
    }
    if device.last_seen_at.is_some() && !reports(verb.as_str()) {
        warn("verb_not_reported", format!("{} does not report {verb}", device.name));
    }
    if verb == Verb::Wipe && !reports(ENCRYPTED_VOLUME) {
        let detail = format!("{} reports no encrypted volume: no fast proof", device.name);
        warn("no_encrypted_volume", detail);
    }
}
