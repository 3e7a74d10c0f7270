//! `POST /v1/orders`

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use protocol::action::Verb;
use protocol::id::OrderId;
use protocol::time::Timestamp;
use protocol::trust::{Forbidden, Needs, TrustRoot};

use super::intake::brief::{self, Brief};
use super::intake::{self, Asked};
use super::plan::{Known, Plan};
use super::wire::{CreateOrder, CreatedOrder, DryRun, DryRunDevice, Warning};
use crate::app::App;
use crate::auth::{Act, Permit, Principal, ability};
use crate::devices::{self, Device, ENCRYPTED_VOLUME};
use crate::http::idempotency::Claim;
use crate::http::problem::ProblemBody;
use crate::http::{Body, Problem};
use crate::trust;

/// The capability word of an agent that knows offline codes.
const OFFLINE_CODE: &str = "offline_code";

/// Gives an order, or says what it would do.
#[utoipa::path(post, path = "/v1/orders", tag = "orders", 
    security(("token" = ["order"]), ("token" = ["stop"])),
    request_body = CreateOrder,
    responses((status = 201, body = CreatedOrder), (status = 200, body = DryRun),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn create(
    State(app): State<App>,
    principal: Principal,
    body: Body<CreateOrder>,
) -> Result<Response, Problem> {
    let is_brief = brief::is_brief(&app, &body.value);
    // What only the transaction of the order would notice is asked now where there is none.
    let principal = if is_brief { principal } else { principal.confirmed(&app).await? };
    let permit = principal.permit_order(body.value.action.verb())?;
    if body.value.dry_run {
        return dry_run(&app, &permit, &body.value).await;
    }
    let room = app.intake.room(body.value.action.lane()).await;
    let claim = Claim::of(&principal, body.ticket);
    let now = app.now();
    if is_brief {
        let token = principal.token();
        let brief = Brief { permit, token, planned_at: now, claim, asked: body.value };
        return intake::take_brief(&app, room, brief).await;
    }
    let plan = match plan(&app, (&principal, &permit), &body.value, now).await {
        Ok(plan) => plan,
        // A repetition is answered as it was before, whatever changed since. One that has a plan is
        // found when it is to be written.
        Err(problem) => {
            let Some(claim) = &claim else { return Err(problem) };
            let former = claim.former(&mut app.db.read().await?).await?;
            return former.ok_or(problem);
        }
    };
    let asked =
        Asked { person: permit.person().clone(), token: None, planned_at: now, claim, plan };
    intake::take(&app, room, asked).await
}

/// What an order becomes, if whoever asks may give it.
async fn plan(
    app: &App,
    (principal, permit): (&Principal, &Permit<ability::Order>),
    asked: &CreateOrder,
    now: Timestamp,
) -> Result<Plan, Problem> {
    let mut conn = app.db.read().await?;
    principal.step_up((app, &mut conn), Act::Order(asked.action.verb())).await?;
    let order_id = OrderId::new(now, app.random());
    let policy = app.policy.load_full();
    let about = (&mut conn, &Known::new(), &policy.first_wave);
    Plan::new(about, permit, asked, order_id, now).await
}

async fn dry_run(
    app: &App,
    permit: &Permit<ability::Order>,
    asked: &CreateOrder,
) -> Result<Response, Problem> {
    let now = app.now();
    let mut conn = app.db.read().await?;
    let order_id = OrderId::new(now, app.random());
    let policy = app.policy.load_full();
    let about = (&mut conn, &Known::new(), &policy.first_wave);
    let plan = Plan::new(about, permit, asked, order_id, now).await?;
    let trust = trust::current(&mut conn).await?.root;
    drop(conn);
    let ids: Vec<_> = plan.devices().iter().map(|device| device.id).collect();
    let mut places = devices::locate(app, &ids).await.map(Vec::into_iter);
    let mut warnings = order_warnings(&plan, &trust);
    let window = trust.undo_window(plan.manifest());
    let mut rows = Vec::with_capacity(ids.len());
    for device in plan.devices() {
        let online = places.as_mut().map(|places| places.next().flatten().is_some());
        device_warnings(asked.action.verb(), device, online, &mut warnings);
        if !window.is_zero() {
            warnings.extend(no_undo_window(device));
        }
        if plan.manifest().offline_codes.contains_key(&device.id) {
            warnings.extend(no_offline_code(device));
        }
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
        first_wave: plan.first_wave(),
        expires_at: plan.manifest().expires_at.into(),
        devices: rows,
        skipped: plan.skipped(),
        warnings,
    };
    Ok(axum::Json(answer).into_response())
}

fn order_warnings(plan: &Plan, trust: &TrustRoot) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |kind: &str, detail: String| {
        warnings.push(Warning { kind: kind.to_owned(), device_id: None, detail });
    };
    let window = trust.undo_window(plan.manifest()).as_secs();
    if window > 0 {
        warn(
            "undo_window",
            format!("each device waits {window} s, and can be called back so long"),
        );
    }
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

/// An agent that knows no cancel knows no undo window either, and begins at once.
fn no_undo_window(device: &Device) -> Option<Warning> {
    let reports = |verb: Verb| device.capabilities.iter().any(|word| word == verb.as_str());
    let is_old = device.last_seen_at.is_some() && !reports(Verb::Cancel);
    is_old.then(|| Warning {
        kind: "no_undo_window".to_owned(),
        device_id: Some(device.id),
        detail: format!("{} knows no undo window: it begins at once", device.name),
    })
}

/// An agent that knows no offline codes obeys the order, and no code ends it.
fn no_offline_code(device: &Device) -> Option<Warning> {
    let knows = device.capabilities.iter().any(|word| word == OFFLINE_CODE);
    let is_old = device.last_seen_at.is_some() && !knows;
    is_old.then(|| Warning {
        kind: "no_offline_code".to_owned(),
        device_id: Some(device.id),
        detail: format!("{} knows no offline codes: none will open it", device.name),
    })
}

fn device_warnings(verb: Verb, device: &Device, online: Option<bool>, warnings: &mut Vec<Warning>) {
    let mut warn = |kind: &str, detail: String| {
        warnings.push(Warning { kind: kind.to_owned(), device_id: Some(device.id), detail });
    };
    let reports = |word: &str| device.capabilities.iter().any(|capability| capability == word);
    if online == Some(false) {
        warn("offline", format!("{} has no session; it obeys when it comes back", device.name));
    }
    if device.cloned_at.is_some() {
        let detail = format!("two machines hold the identity of {}: one would obey", device.name);
        warn("cloned", detail);
    }
    if device.last_seen_at.is_some() && !reports(verb.as_str()) {
        warn("verb_not_reported", format!("{} does not report {verb}", device.name));
    }
    if verb == Verb::Wipe && !reports(ENCRYPTED_VOLUME) {
        let detail = format!("{} reports no encrypted volume: no fast proof", device.name);
        warn("no_encrypted_volume", detail);
    }
}
