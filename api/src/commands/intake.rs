//! From a plan to the store: orders that come together are written together.
//!
//! Owns the queues, urgent apart from bulk, and the one transaction of a batch. While a batch is
//! being written the next one gathers, so that the more orders come, the less of a transaction each
//! of them costs. What one order of a batch is refused for is no other's business.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use protocol::id::PersonName;
use protocol::state::{Lane, PerLane, VerbClass};
use protocol::time::Timestamp;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use super::halt::brake;
use super::plan::Plan;
use super::prepare::{self, Writing};
use super::queue;
use super::wire::CreatedOrder;
use crate::app::App;
use crate::audit::Actor;
use crate::db::{DbError, Rank, Tx};
use crate::http::idempotency::{self, Answered, Claim, Place, encode, respond};
use crate::http::{Problem, ProblemKind};
use crate::outbox::Delivery;
use crate::{auth, lockdown, metrics};

use self::brief::{Brief, Seen};
use self::draft::{Draft, Verdict, insert, judge};

pub(super) mod brief;
mod draft;
pub(super) mod guard;

/// Orders that are planned or wait in each lane. A further one waits for its place before it is
/// planned: a plan may be of megabytes.
const WAITING: usize = 128;
/// Orders in one transaction.
const ORDERS: usize = 128;
/// Devices in one transaction, give or take one order.
const DEVICES: usize = 500;

/// An order that was checked and is to be written.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) person: PersonName,
    /// Which token is to stand in the transaction, where it was only remembered.
    pub(super) token: Option<Uuid>,
    /// When its validity began.
    pub(super) planned_at: Timestamp,
    pub(super) claim: Option<Claim>,
    pub(super) plan: Plan,
}

impl Asked {
    /// Who gave the order.
    fn actor(&self) -> Actor {
        if self.plan.is_by_the_brake() {
            Actor::System
        } else {
            Actor::Operator(self.person.clone())
        }
    }
}

/// A place among the orders that wait in a lane, while it is held.
pub(super) type Room = Option<OwnedSemaphorePermit>;

type Reply = oneshot::Sender<Result<Response, Problem>>;

#[derive(Debug)]
struct Waiting {
    _room: Room,
    order: Wanted,
    reply: Reply,
}

/// An order on its way to the store.
#[derive(Debug)]
enum Wanted {
    Planned(Box<Asked>),
    Brief(Box<Brief>),
}

impl Wanted {
    fn devices(&self) -> usize {
        match self {
            Self::Planned(asked) => asked.plan.devices().len(),
            Self::Brief(brief) => brief.devices().len(),
        }
    }

    fn as_brief(&self) -> Option<&Brief> {
        match self {
            Self::Planned(_) => None,
            Self::Brief(brief) => Some(brief),
        }
    }
}

/// The queues.
#[derive(Debug)]
pub struct Intake {
    rooms: PerLane<Arc<Semaphore>>,
    queues: PerLane<mpsc::Sender<Waiting>>,
    inboxes: PerLane<Mutex<mpsc::Receiver<Waiting>>>,
    writing: Writing,
}

impl Intake {
    /// Empty queues.
    pub fn new() -> Self {
        let (urgent, urgent_inbox) = mpsc::channel(WAITING);
        let (bulk, bulk_inbox) = mpsc::channel(WAITING);
        let inboxes = PerLane { urgent: Mutex::new(urgent_inbox), bulk: Mutex::new(bulk_inbox) };
        let room = || Arc::new(Semaphore::new(WAITING));
        let rooms = PerLane { urgent: room(), bulk: room() };
        let queues = PerLane { urgent, bulk };
        Self { rooms, queues, inboxes, writing: Writing::default() }
    }

    /// Waits for a place in that lane.
    pub(super) async fn room(&self, lane: Lane) -> Room {
        // Nobody closes it.
        self.rooms.get(lane).clone().acquire_owned().await.ok()
    }

    /// Large orders that are being written.
    pub(super) const fn writing(&self) -> &Writing {
        &self.writing
    }

    /// How many large orders are being written.
    pub fn large(&self) -> usize {
        self.writing.all().len()
    }

    /// How many orders wait in that lane.
    pub fn waiting(&self, lane: Lane) -> usize {
        let queue = self.queues.get(lane);
        queue.max_capacity() - queue.capacity()
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self::new()
    }
}

/// Has an order written, and answers it after its commit. Who goes away meanwhile may have given the
/// order all the same, and finds it by its idempotency key.
pub(super) async fn take(app: &App, room: Room, asked: Asked) -> Result<Response, Problem> {
    let action = &asked.plan.manifest().action;
    let (verb, lane) = (action.verb(), action.lane());
    if prepare::is_large(app, &asked.plan) {
        // It may be under way for long: whoever repeats it waits for nobody who writes.
        if let Some(claim) = &asked.claim
            && let Some(former) = claim.former(&mut app.db.read().await?).await?
        {
            return Ok(former);
        }
        return prepare::give(app, room, asked).await;
    }
    if guard::concerns(app, verb) {
        return write_guarded(app, lane, &asked).await;
    }
    enqueue(app, room, lane, Wanted::Planned(Box::new(asked))).await
}

/// Has an order of few devices planned and written, as [`take`] has one with a plan.
pub(super) async fn take_brief(app: &App, room: Room, brief: Brief) -> Result<Response, Problem> {
    let lane = brief.asked.action.lane();
    enqueue(app, room, lane, Wanted::Brief(Box::new(brief))).await
}

async fn enqueue(app: &App, room: Room, lane: Lane, order: Wanted) -> Result<Response, Problem> {
    let (reply, answer) = oneshot::channel();
    let waiting = Waiting { _room: room, order, reply };
    if let Err(closed) = app.intake.queues.get(lane).send(waiting).await {
        // The drain has begun, and this request was there before: a batch of its own.
        let tx = begin(app, lane, Actor::System).await?;
        write(app, tx, lane, vec![closed.0]).await;
    }
    let is_stopping = || Problem::new(ProblemKind::Unavailable, "this node is stopping");
    answer.await.unwrap_or_else(|_| Err(is_stopping()))
}

/// Writes the orders of one lane until the drain begins.
pub(crate) async fn write_orders(app: App, lane: Lane) -> Result<(), Infallible> {
    let mut inbox = app.intake.inboxes.get(lane).lock().await;
    loop {
        let first = tokio::select! {
            biased;
            first = inbox.recv() => first,
            () = app.drain.soft().cancelled(), if !inbox.is_closed() => {
                inbox.close();
                continue;
            }
        };
        let Some(first) = first else { return Ok(()) };
        // What comes while others write is in this batch.
        match begin(&app, lane, Actor::System).await {
            Ok(tx) => write(&app, tx, lane, gather(first, &mut inbox)).await,
            Err(problem) => {
                // Those that came meanwhile as well: the store would let each wait as long again.
                let _ = first.reply.send(Err(problem.clone()));
                while let Ok(waiting) = inbox.try_recv() {
                    let _ = waiting.reply.send(Err(problem.clone()));
                }
            }
        }
    }
}

pub(super) async fn begin(app: &App, lane: Lane, actor: Actor) -> Result<Tx, Problem> {
    let rank = match lane {
        Lane::Urgent => Rank::First,
        Lane::Bulk => Rank::InOrder,
    };
    Ok(app.db.write_as(rank, actor, app.now()).await?)
}

/// Those that wait already, up to about one batch.
fn gather(first: Waiting, inbox: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut total = first.order.devices();
    let mut batch = vec![first];
    while batch.len() < ORDERS && total < DEVICES {
        let Ok(next) = inbox.try_recv() else { break };
        total += next.order.devices();
        batch.push(next);
    }
    batch
}

/// Writes a batch and answers each of its orders. When the store is there and does not take them,
/// each is tried alone, so that what is wrong with one is told to that one.
async fn write(app: &App, mut tx: Tx, lane: Lane, batch: Vec<Waiting>) {
    let briefs = batch.iter().filter_map(|waiting| waiting.order.as_brief());
    let seen = match Seen::of(app, &mut tx, briefs).await {
        Ok(seen) => seen,
        Err(error) => {
            let problem = Problem::from(error);
            for waiting in batch {
                let _ = waiting.reply.send(Err(problem.clone()));
            }
            return;
        }
    };
    let (batch, replies) = plan_all(app, &mut tx, batch, &seen).await;
    if batch.is_empty() {
        return;
    }
    let outcome = write_together(app, tx, lane, &batch, &seen).await;
    // Whoever asked may be gone: then nobody is told.
    match outcome {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }
        Err(Failed::Refused(_)) if batch.len() > 1 => {
            for (reply, asked) in replies.into_iter().zip(&batch) {
                let _ = reply.send(write_alone(app, lane, asked).await);
            }
        }
        Err(Failed::Away(problem) | Failed::Refused(problem)) => {
            for reply in replies {
                let _ = reply.send(Err(problem.clone()));
            }
        }
    }
}

/// Plans those that have no plan yet, and answers those that get none.
async fn plan_all(
    app: &App,
    tx: &mut Tx,
    batch: Vec<Waiting>,
    seen: &Seen,
) -> (Vec<Asked>, Vec<Reply>) {
    let (mut planned, mut replies) = (Vec::new(), Vec::new());
    for Waiting { order, reply, .. } in batch {
        let outcome = match order {
            Wanted::Planned(asked) => Ok(*asked),
            Wanted::Brief(brief) => brief.plan(app, tx, seen).await,
        };
        match outcome {
            Ok(asked) => {
                planned.push(asked);
                replies.push(reply);
            }
            Err(answer) => {
                let _ = reply.send(answer);
            }
        }
    }
    (planned, replies)
}

/// Why a batch was not written.
#[derive(Debug)]
enum Failed {
    /// The store does not answer, or nobody knows whether it took the batch.
    Away(Problem),
    /// Something about the batch is refused, before its commit: nothing of it is written.
    Refused(Problem),
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        let is_away = problem.kind == ProblemKind::Unavailable;
        if is_away { Self::Away(problem) } else { Self::Refused(problem) }
    }
}

impl From<DbError> for Failed {
    fn from(error: DbError) -> Self {
        let is_answer = error.is_answer();
        let problem = error.into();
        if is_answer { Self::Refused(problem) } else { Self::from(problem) }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        let (Failed::Away(problem) | Failed::Refused(problem)) = failed;
        problem
    }
}

async fn write_alone(app: &App, lane: Lane, asked: &Asked) -> Result<Response, Problem> {
    let mut tx = begin(app, lane, Actor::System).await?;
    if let Some(token) = asked.token
        && auth::standing(tx.conn(), &[token].into(), app.now()).await?.is_empty()
    {
        return Err(auth::refused());
    }
    write_one(app, tx, lane, asked).await
}

async fn write_one(app: &App, tx: Tx, lane: Lane, asked: &Asked) -> Result<Response, Problem> {
    let seen = Seen::default();
    let answers = write_together(app, tx, lane, std::slice::from_ref(asked), &seen).await?;
    let none = || Err(Problem::conflict("the order has no answer"));
    answers.into_iter().next().unwrap_or_else(none)
}

/// Writes an order that budgets, lockdowns or the brake concern. It is alone in its transaction:
/// when it is refused, nothing of it was spent.
async fn write_guarded(app: &App, lane: Lane, asked: &Asked) -> Result<Response, Problem> {
    let mut tx = begin(app, lane, Actor::Operator(asked.person.clone())).await?;
    if let Some(claim) = &asked.claim
        && let Some(response) = claim.former(tx.conn()).await?
    {
        return Ok(response);
    }
    if let Some(why) = guard::pass(app, &mut tx, &asked.person, &asked.plan).await? {
        drop(tx);
        brake(app, &why).await?;
        return Err(lockdown::refusal(&why));
    }
    write_one(app, tx, lane, asked).await
}

/// Writes an order in a transaction of the caller, who sends what is answered after its commit.
pub(super) async fn write_within(
    app: &App,
    tx: &mut Tx,
    asked: &Asked,
) -> Result<(CreatedOrder, Vec<Delivery>), Problem> {
    let lane = asked.plan.manifest().action.lane();
    let (verdicts, mut drafts) =
        judge(app, tx, std::slice::from_ref(asked), &BTreeMap::new(), &Seen::default()).await?;
    if let Some(Verdict::Refused(problem)) = verdicts.into_iter().next() {
        return Err(problem);
    }
    let ready = drafts.iter_mut().map(Draft::ready).collect();
    let signed = queue::number_and_sign(app, tx, lane, ready).await?;
    insert(tx, &drafts, &signed).await?;
    let none = || Problem::conflict("the order has no answer");
    let created = drafts.into_iter().next().ok_or_else(none)?.created;
    Ok((created, signed.into_iter().flatten().map(Delivery::from).collect()))
}

async fn write_together(
    app: &App,
    mut tx: Tx,
    lane: Lane,
    batch: &[Asked],
    seen: &Seen,
) -> Result<Vec<Result<Response, Problem>>, Failed> {
    // The transaction may have been asked for before the newest of them was planned, and no envelope
    // is older than its order: it would be valid for too long.
    tx.restamp(batch.iter().map(|asked| asked.planned_at).fold(app.now(), Timestamp::max));
    let claims: Vec<_> = batch.iter().filter_map(|asked| asked.claim.as_ref()).collect();
    let mut answered = idempotency::answered(tx.conn(), &claims).await?;
    // It may have begun since they were planned.
    lockdown::admit(tx.conn(), VerbClass::Routine).await?;
    let (verdicts, mut drafts) = judge(app, &mut tx, batch, &answered, seen).await?;
    let ready = drafts.iter_mut().map(Draft::ready).collect();
    let signed = queue::number_and_sign(app, &mut tx, lane, ready).await?;
    insert(&mut tx, &drafts, &signed).await?;
    let bodies =
        drafts.iter().map(|draft| encode(&draft.created)).collect::<Result<Vec<_>, _>>()?;
    let fresh = drafts.iter().zip(&bodies).filter_map(|(draft, body)| {
        let claim = draft.asked.claim.as_ref()?;
        Some((claim.place().clone(), claim.answer(StatusCode::CREATED, body.clone())))
    });
    let fresh: BTreeMap<Place, Answered> = fresh.collect();
    idempotency::remember(&mut tx, &fresh).await?;
    if !signed.is_empty() {
        // Whether a commit that failed is one nobody knows: it is not tried again.
        tx.commit().await.map_err(|error| Failed::Away(error.into()))?;
        metrics::orders_committed(signed.len());
    }
    for signed in signed {
        app.outbox.push(signed.into_iter().map(Delivery::from).collect());
    }
    answered.extend(fresh);
    let mut bodies = bodies.into_iter();
    let answers = batch.iter().zip(verdicts).map(|(asked, verdict)| match verdict {
        Verdict::Drafted => Ok(respond(StatusCode::CREATED, bodies.next().unwrap_or_default())),
        Verdict::Repeats => replay(asked, &answered),
        Verdict::Refused(problem) => Err(problem),
    });
    Ok(answers.collect())
}

fn replay(asked: &Asked, answered: &BTreeMap<Place, Answered>) -> Result<Response, Problem> {
    let known = asked.claim.as_ref().and_then(|claim| Some((claim, answered.get(claim.place())?)));
    let (claim, former) = known.ok_or_else(|| Problem::conflict("repeats what has no answer"))?;
    former.replay(claim)
}
