//! The first wave: some devices of a large order show what it does before the others get it.
//!
//! Owns which orders have one, who goes first, and what is concluded from how it went: everybody
//! succeeded, and the others follow at once; somebody did not, and they wait for a person. It saves
//! from mistakes. It is no defence against whoever has the control plane: devices do not know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::id::{DeviceId, OrderId};
use protocol::state::{CommandState, VerbClass};
use protocol::time::Timestamp;
use runtime::Entropy;
use serde::Deserialize;
use serde_json::json;

use super::queue::{self, Fresh, Words};
use super::store::orders::{self, Order};
use super::store::preparations;
use super::store::waves::{self, Stands};
use super::wire::WaveState;
use crate::app::App;
use crate::approvals;
use crate::audit::Kind;
use crate::auth::Reach;
use crate::db::Tx;
use crate::devices::{self, Device};
use crate::http::{Problem, ProblemKind};
use crate::jobs::Found;
use crate::leases::Lease;
use crate::outbox::Delivery;
use crate::{lockdown, trust};

/// Who was heard of this lately is there, as far as the store knows.
const HEARD: Duration = Duration::from_secs(30 * 60);
/// Commands that follow in one transaction. Urgent orders are written between two of them.
const PIECE: usize = 500;

/// Which orders have a first wave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Waves {
    /// Orders that disrupt have one beyond so many devices; 0: none has.
    pub disruptive_above: u32,
    /// Orders that destroy have one beyond so many devices; 0: none has.
    pub destructive_above: u32,
    /// How many in a hundred go first: at least one device.
    pub percent: u32,
    /// At most so many devices go first.
    pub most: u32,
}

impl Default for Waves {
    fn default() -> Self {
        Self { disruptive_above: 50, destructive_above: 5, percent: 10, most: 20 }
    }
}

impl Waves {
    /// How many devices go first, of so many; `None`: all at once.
    pub(super) fn size(&self, class: VerbClass, devices: u32) -> Option<u32> {
        let above = match class {
            // Who looks harms nobody, and who stops must be there before what is stopped.
            VerbClass::Routine | VerbClass::Stop => 0,
            VerbClass::Disruptive => self.disruptive_above,
            VerbClass::Destructive => self.destructive_above,
        };
        let share = devices.saturating_mul(self.percent) / 100;
        (above > 0 && devices > above).then(|| share.min(self.most).max(1))
    }

    /// A setting that cannot be meant.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str)> {
        if !(1..=50).contains(&self.percent) {
            Some(("first_wave.percent", "must be 1 to 50"))
        } else if self.most == 0 {
            Some(("first_wave.most", "must be at least 1"))
        } else {
            None
        }
    }
}

/// Draws who goes first: of those who are there, as far as there are enough of them.
pub(super) fn draw<'a>(
    entropy: &Entropy,
    now: Timestamp,
    devices: impl Iterator<Item = &'a Device>,
    size: u32,
) -> BTreeSet<DeviceId> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let is_there =
        |device: &&Device| device.last_seen_at.is_some_and(|seen| now.since(seen) <= HEARD);
    let (mut there, mut away): (Vec<_>, Vec<_>) = devices.partition(is_there);
    let mut drawn = BTreeSet::new();
    while drawn.len() < size {
        let from = if there.is_empty() { &mut away } else { &mut there };
        let Ok(bound) = u64::try_from(from.len()) else { break };
        if bound == 0 {
            break;
        }
        let index = usize::try_from(entropy.below(bound)).unwrap_or_default();
        drawn.insert(from.swap_remove(index).id);
    }
    drawn
}

/// Which of these commands may leave now, of an order that may have a first wave. The others wait
/// for it from now on.
pub(super) async fn let_go(
    app: &App,
    tx: &mut Tx,
    order: &Order,
    fresh: Vec<Fresh>,
) -> Result<Vec<Fresh>, Problem> {
    let wave = waves::find(tx.conn(), order.id).await?;
    let Some(wave) = wave.filter(|wave| wave.state != WaveState::Passed) else { return Ok(fresh) };
    let first = if wave.state == WaveState::Running && !waves::has_begun(tx, order.id).await? {
        let ids: Vec<_> = fresh.iter().map(|fresh| fresh.device).collect();
        let known = devices::with_ids(tx.conn(), &ids).await?;
        draw(&app.entropy, tx.now(), known.iter(), wave.size)
    } else {
        BTreeSet::new()
    };
    let (first, behind): (Vec<_>, Vec<_>) =
        fresh.into_iter().partition(|fresh| first.contains(&fresh.device));
    let devices: BTreeMap<_, _> = behind.iter().map(|fresh| (fresh.id, fresh.device)).collect();
    let ids: Vec<_> = devices.keys().copied().collect();
    for id in waves::put_behind(tx, &ids).await? {
        let payload = json!({ "order_id": order.id, "device_id": devices.get(&id) });
        tx.append(Kind::CommandAwaitsWave, id, payload);
    }
    Ok(first)
}

/// What is to be concluded of a first wave.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing yet.
    Open,
    /// Everybody succeeded who was not withdrawn, and somebody did.
    Passed,
    /// Somebody did not.
    Stopped(String),
}

fn verdict(stands: &Stands) -> Verdict {
    use CommandState as S;
    let count = |state| stands.get(&state).copied().unwrap_or(0);
    let bad: Vec<_> = [S::Failed, S::Refused, S::InDoubt, S::Expired]
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {}", count(state), state.as_str()))
        .collect();
    if !bad.is_empty() {
        return Verdict::Stopped(format!("of the first wave: {}", bad.join(", ")));
    }
    let is_over = stands.iter().all(|(state, count)| state.is_terminal() || *count == 0);
    if is_over && count(S::Succeeded) > 0 { Verdict::Passed } else { Verdict::Open }
}

/// Concludes what can be concluded of these orders, in the transaction of what became of their
/// commands. What it answers is sent after the commit.
pub(super) async fn conclude(
    app: &App,
    tx: &mut Tx,
    orders: &BTreeSet<OrderId>,
) -> Result<Vec<Delivery>, Problem> {
    let mut deliveries = Vec::new();
    if orders.is_empty() {
        return Ok(deliveries);
    }
    for (id, stands) in waves::running_of(tx.conn(), orders).await? {
        match verdict(&stands) {
            Verdict::Open => {}
            Verdict::Stopped(why) => {
                tracing::warn!(order.id = %id, why, "first wave stopped");
                waves::end(tx, id, WaveState::Stopped, Some(&why)).await?;
                tx.append(Kind::FirstWaveStopped, id, json!({ "why": why }));
            }
            // Some of the first wave are not written yet; the job looks again.
            Verdict::Passed if preparations::is_being_written(tx.conn(), id).await? => {}
            Verdict::Passed => {
                waves::end(tx, id, WaveState::Passed, None).await?;
                let succeeded = stands.get(&CommandState::Succeeded);
                tx.append(Kind::FirstWavePassed, id, json!({ "succeeded": succeeded }));
                deliveries.extend(follow(app, tx, id).await?);
            }
        }
    }
    Ok(deliveries)
}

/// Queues devices behind a first wave that has passed: as many as one transaction takes.
pub(super) async fn follow(app: &App, tx: &mut Tx, id: OrderId) -> Result<Vec<Delivery>, Problem> {
    let Some(order) = orders::find_order(tx.conn(), &Reach::Everything, id).await? else {
        return Ok(Vec::new());
    };
    let is_over = order.manifest.expires_at <= tx.now();
    let class = order.manifest.action.verb().class();
    match lockdown::admit(tx.conn(), class).await {
        // One that began meanwhile keeps them where they are.
        Err(problem) if problem.kind == ProblemKind::Locked => return Ok(Vec::new()),
        admitted => admitted?,
    }
    if is_over {
        return Ok(Vec::new());
    }
    let trust = trust::current(tx.conn()).await?.root;
    let now = tx.now();
    let (counted, tally) = approvals::counting(tx, &order.manifest, &trust, now).await?;
    let words = Words { trust: &trust, approvals: &counted, tally: &tally };
    queue::release_behind(app, tx, &order, (&words, PIECE)).await
}

/// Finds what became of first waves without a device's report, and has the rest of large orders
/// follow.
pub(crate) async fn waves(app: App, lease: Lease) -> Result<Found, Problem> {
    let mut conn = app.db.read().await?;
    let running = waves::running(&mut conn).await?;
    let passed = waves::passed(&mut conn).await?;
    drop(conn);
    let over: BTreeSet<_> = running
        .into_iter()
        .filter(|(_, stands)| verdict(stands) != Verdict::Open)
        .map(|(id, _)| id)
        .collect();
    if over.is_empty() && passed.is_empty() {
        return Ok(Found::Nothing);
    }
    let Some(mut tx) = lease.write(&app, app.now()).await? else { return Ok(Found::Nothing) };
    let mut deliveries = conclude(&app, &mut tx, &over).await?;
    for id in passed {
        if deliveries.is_empty() {
            deliveries.extend(follow(&app, &mut tx, id).await?);
        }
    }
    let found = if deliveries.is_empty() { Found::Nothing } else { Found::More };
    tx.commit().await?;
    app.outbox.push(deliveries);
    Ok(found)
}

#[cfg(test)]
mod tests;
