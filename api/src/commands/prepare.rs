//! Orders of more devices than one transaction takes: accepted as a whole, written in pieces.
//!
//! Owns the pieces. The first transaction makes the order durable, with the list of its devices and
//! their commands' ids; each one after it numbers, signs and writes the next commands, which leave
//! after that commit; the last one keeps the answer, and only then is it given. Between two pieces
//! everybody else has their turn. Whoever does not finish is followed by a job: nothing that was
//! accepted stays in its middle.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use axum::response::Response;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::manifest::{DeviceTree, InclusionProof};
use protocol::state::{CommandState, Lane, VerbClass};
use protocol::time::Timestamp;
use protocol::trust::TrustRoot;

use super::halt::brake;
use super::hold;
use super::intake::{self, Asked, Room, guard};
use super::plan::Plan;
use super::queue::{self, Fresh, Ready};
use super::store;
use super::store::orders::{self, Order};
use super::store::preparations::{self, Planned};
use super::waves;
use super::wire::{CommandSummary, CreatedOrder, OrderView, WaveState};
use crate::app::App;
use crate::audit::Actor;
use crate::db::{Conn, DbError, Tx};
use crate::devices::{self, Device};
use crate::http::idempotency::{self, encode, respond};
use crate::http::{Problem, ProblemKind};
use crate::jobs::Found;
use crate::leases::Lease;
use crate::lockdown;
use crate::outbox::Delivery;
use crate::{metrics, trust};

/// Orders that this node is writing: the job leaves them alone.
#[derive(Debug, Default)]
pub(super) struct Writing(Mutex<BTreeSet<OrderId>>);

/// One of them, while it is held.
struct Held<'a>(&'a Writing, OrderId);

impl Writing {
    fn hold(&self, order: OrderId) -> Held<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(order);
        Held(self, order)
    }

    pub(super) fn all(&self) -> BTreeSet<OrderId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// An order that was accepted, and what its pieces need to be written.
#[derive(Debug)]
struct Accepted {
    order: Order,
    tree: DeviceTree,
    planned: Vec<Planned>,
}

/// Whether an order is too large for one transaction.
pub(super) fn is_large(app: &App, plan: &Plan) -> bool {
    plan.devices().len() > app.config.order_piece
}

/// Accepts a large order, writes it piece by piece, and answers when all of it is written.
pub(super) async fn give(app: &App, room: Room, asked: Asked) -> Result<Response, Problem> {
    let begun = Box::pin(accept(app, &asked)).await?;
    let (accepted, body) = match begun {
        Begun::Accepted(accepted, body) => (accepted, body),
        Begun::Repeats(response) => return Ok(response),
    };
    // Its devices in full are needed no more.
    drop(asked);
    let _held = app.intake.writing().hold(accepted.order.id);
    while write_piece(app, &accepted).await? {}
    drop(room);
    Ok(respond(StatusCode::CREATED, body))
}

/// Goes on with an order that nobody is writing. A node that died left it, or a client that went
/// away, or a store that was away for a while.
pub(crate) async fn prepare(app: App, _lease: Lease) -> Result<Found, Problem> {
    let mut conn = app.db.read().await?;
    let writing = app.intake.writing().all();
    let left = preparations::all(&mut conn).await?.into_iter().find(|id| !writing.contains(id));
    let Some(id) = left else { return Ok(Found::Nothing) };
    let held = app.intake.writing().hold(id);
    let Some((order, planned)) = preparations::load(&mut conn, id).await? else {
        return Ok(Found::More);
    };
    drop(conn);
    let tree = DeviceTree::new(planned.iter().map(|planned| planned.device));
    let tree = tree.ok_or(DbError::Unreadable("devices of an order"))?;
    tracing::info!(order.id = %id, devices = planned.len(), "goes on with an order");
    let accepted = Accepted { order, tree, planned };
    while !app.drain.is_draining() && write_piece(&app, &accepted).await? {}
    drop(held);
    Ok(Found::More)
}

/// Refuses what needs all commands of an order while some are not written yet: what is shown must be
/// what is approved.
pub(crate) async fn demand_written(conn: &mut Conn, order: OrderId) -> Result<(), Problem> {
    if preparations::is_being_written(conn, order).await? {
        return Err(Problem::conflict("this order is still being written; try again in a moment"));
    }
    Ok(())
}

enum Begun {
    Accepted(Box<Accepted>, String),
    Repeats(Response),
}

/// Writes that there is the order, for which devices, and what is to be answered.
async fn accept(app: &App, asked: &Asked) -> Result<Begun, Problem> {
    let plan = &asked.plan;
    let verb = plan.manifest().action.verb();
    let actor = Actor::Operator(asked.person.clone());
    let mut tx = intake::begin(app, plan.manifest().action.lane(), actor.clone()).await?;
    tx.restamp(app.now().max(asked.planned_at));
    if let Some(claim) = &asked.claim
        && let Some(response) = claim.former(tx.conn()).await?
    {
        return Ok(Begun::Repeats(response));
    }
    lockdown::admit(tx.conn(), VerbClass::Routine).await?;
    if guard::concerns(app, verb)
        && let Some(why) = guard::pass(app, &mut tx, &asked.person, plan).await?
    {
        drop(tx);
        brake(app, &why).await?;
        return Err(lockdown::refusal(&why));
    }
    let trust = trust::current(tx.conn()).await?.root;
    plan.check(&trust)?;
    let ids: Vec<_> = plan.devices().iter().map(|device| device.id).collect();
    plan.check_cloned(&devices::cloned(tx.conn(), &ids).await?)?;
    if plan.manifest().expires_at <= tx.now() {
        return Err(Problem::field("/expires_in_secs", "is over before the order was written"));
    }
    let order = Order::new(plan, &asked.person, tx.now());
    let order_id = order.id;
    let (planned, created) = draft(app, plan, &order, &trust);
    let accepted = Accepted { order, tree: plan.tree().clone(), planned };
    check_length(app, &accepted, tx.now())?;
    let body = encode(&created)?;
    orders::insert(&mut tx, &[&accepted.order]).await?;
    let first: Vec<_> = plan.first_wave().map(|size| (order_id, size)).into_iter().collect();
    store::waves::insert(&mut tx, &first).await?;
    orders::append(&mut tx, &actor, &accepted.order, (&[], &[], &[]));
    let claim = asked.claim.as_ref();
    let pending = claim.map(|claim| (claim.place().clone(), claim.accepted()));
    idempotency::remember(&mut tx, &pending.into_iter().collect()).await?;
    preparations::insert(&mut tx, order_id, &accepted.planned, (claim, &body)).await?;
    tx.commit().await?;
    metrics::orders_committed(1);
    Ok(Begun::Accepted(Box::new(accepted), body))
}

/// The commands that there will be, and the answer that says so.
fn draft(app: &App, plan: &Plan, order: &Order, trust: &TrustRoot) -> (Vec<Planned>, CreatedOrder) {
    let (count, now) = (plan.devices().len(), order.created_at);
    let (mut planned, mut commands) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let needed = |device: &Device| trust.approvals_needed(plan.manifest(), &device.id);
    let first_wave = plan.first_wave();
    let first = first_wave.map(|size| {
        let free = plan.devices().iter().filter(|device| needed(device) == 0);
        waves::draw(&app.entropy, now, free, size)
    });
    let mut most = 0;
    for device in plan.devices() {
        let command = CommandId::new(now, app.random());
        let (device_id, generation) = (device.id, device.generation);
        let is_behind = first.as_ref().is_some_and(|first| !first.contains(&device_id));
        let state = state_of(needed(device), is_behind);
        planned.push(Planned { command, device: device_id, generation, is_behind });
        commands.push(CommandSummary { id: command, device_id, state });
        most = most.max(needed(device));
    }
    let view = OrderView::of_new(order, &commands, most, first_wave);
    (planned, CreatedOrder { order: view, commands, skipped: plan.skipped() })
}

const fn state_of(approvals_needed: u8, is_behind: bool) -> CommandState {
    match (approvals_needed, is_behind) {
        (0, false) => CommandState::Queued,
        (0, true) => CommandState::AwaitingWave,
        (_, _) => CommandState::AwaitingApproval,
    }
}

/// What makes an envelope too long is refused before anything is accepted: the first device has as
/// long a proof as any.
fn check_length(app: &App, accepted: &Accepted, now: Timestamp) -> Result<(), Problem> {
    let Some(first) = accepted.planned.first() else { return Ok(()) };
    let proof = accepted.proof(first.device)?;
    queue::check_length(app, &accepted.order, (first.fresh(0, proof), now))
}

impl Accepted {
    fn lane(&self) -> Lane {
        self.order.manifest.action.lane()
    }

    fn proof(&self, device: DeviceId) -> Result<InclusionProof, Problem> {
        let proof = self.tree.proof(&device);
        Ok(proof.ok_or(DbError::Unreadable("devices of an order"))?)
    }
}

impl Planned {
    fn fresh(&self, approvals_needed: u8, proof: InclusionProof) -> Fresh {
        let Self { command: id, device, generation, .. } = *self;
        Fresh { id, device, generation, approvals_needed, proof }
    }
}

/// Writes the next commands of an order, and sends them. Whether there are more.
async fn write_piece(app: &App, accepted: &Accepted) -> Result<bool, Problem> {
    let Accepted { order, planned, .. } = accepted;
    let actor = Actor::Operator(order.operator.clone());
    let mut tx = intake::begin(app, accepted.lane(), actor.clone()).await?;
    tx.restamp(app.now().max(order.created_at));
    let Some(standing) = preparations::standing(&mut tx, order.id).await? else {
        // Another node has written the last of it.
        return Ok(false);
    };
    let rest = planned.get(standing.written..).unwrap_or_default();
    let piece = rest.get(..app.config.order_piece).unwrap_or(rest);
    let end = end_of(&mut tx, order, standing.ended_by).await?;
    let Sorted { waiting, mut behind, mut free, ended } =
        sort(&mut tx, accepted, piece, end).await?;
    let wave = store::waves::find(tx.conn(), order.id).await?;
    if wave.is_some_and(|wave| wave.state == WaveState::Stopped) {
        behind.append(&mut free);
    }
    let free_devices: Vec<_> = free.iter().map(|fresh| fresh.device).collect();
    let held = hold::of_cloned(&mut tx, order, &free_devices).await?;
    let ready = vec![Ready { order, approvals: &[], fresh: free }];
    let signed = queue::number_and_sign(app, &mut tx, accepted.lane(), ready).await?;
    let signed: Vec<_> = signed.into_iter().flatten().collect();
    let of_order: Vec<_> = waiting.iter().map(|fresh| (order, fresh)).collect();
    orders::insert_waiting(&mut tx, &of_order, CommandState::AwaitingApproval).await?;
    let of_order: Vec<_> = behind.iter().map(|fresh| (order, fresh)).collect();
    orders::insert_waiting(&mut tx, &of_order, CommandState::AwaitingWave).await?;
    let of_order: Vec<_> = signed.iter().map(|signed| (order, signed)).collect();
    orders::insert_queued(&mut tx, &of_order).await?;
    orders::append_piece(&mut tx, &actor, order, (&waiting, &behind, &signed));
    preparations::insert_ended(&mut tx, order, &ended).await?;
    let is_last = piece.len() == rest.len();
    if is_last {
        preparations::finish(&mut tx, order.id).await?;
    }
    tx.commit().await?;
    // What is held stays queued, and whatever sends it later asks again.
    let leaving = signed.into_iter().filter(|signed| !held.contains(&signed.fresh.device));
    app.outbox.push(leaving.map(Delivery::from).collect());
    Ok(!is_last)
}

/// How what is still to be written of an order ends at once, if it does.
async fn end_of(
    tx: &mut Tx,
    order: &Order,
    withdrawn: Option<String>,
) -> Result<Option<(CommandState, String)>, Problem> {
    if let Some(why) = withdrawn {
        return Ok(Some((CommandState::Cancelled, why)));
    }
    if order.manifest.expires_at <= tx.now() {
        let why = "expired before a device took it".to_owned();
        return Ok(Some((CommandState::Expired, why)));
    }
    match order.manifest.action.verb().class() {
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => Ok(None),
        class @ VerbClass::Destructive => match lockdown::admit(tx.conn(), class).await {
            Ok(()) => Ok(None),
            Err(problem) if problem.kind == ProblemKind::Locked => {
                let why = "lockdown began while it was written".to_owned();
                Ok(Some((CommandState::Cancelled, why)))
            }
            Err(problem) => Err(problem),
        },
    }
}

/// Commands of a piece, by what becomes of them.
#[derive(Default)]
struct Sorted {
    waiting: Vec<Fresh>,
    behind: Vec<Fresh>,
    free: Vec<Fresh>,
    ended: Vec<(Fresh, CommandState, String)>,
}

async fn sort(
    tx: &mut Tx,
    accepted: &Accepted,
    piece: &[Planned],
    end: Option<(CommandState, String)>,
) -> Result<Sorted, Problem> {
    let ids: Vec<_> = piece.iter().map(|planned| planned.device).collect();
    let standing = devices::standing_generations(tx.conn(), &ids).await?;
    let trust = trust::current(tx.conn()).await?.root;
    let mut sorted = Sorted::default();
    for planned in piece {
        let proof = accepted.proof(planned.device)?;
        let needs = trust.needs(&accepted.order.manifest, &planned.device);
        let needed = needs.as_ref().map_or(0, |needs| needs.persons);
        let fresh = planned.fresh(needed, proof);
        if let Some((state, why)) = &end {
            sorted.ended.push((fresh, *state, why.clone()));
        } else if standing.get(&planned.device) != Some(&planned.generation) {
            let why = "its enrollment ended before it was written".to_owned();
            sorted.ended.push((fresh, CommandState::Cancelled, why));
        } else if let Err(forbidden) = needs {
            sorted.ended.push((fresh, CommandState::Cancelled, forbidden.to_string()));
        } else {
            let among = match (needed, planned.is_behind) {
                (0, false) => &mut sorted.free,
                (0, true) => &mut sorted.behind,
                (_, _) => &mut sorted.waiting,
            };
            among.push(fresh);
        }
    }
    Ok(sorted)
}
