//! From a plan to rows: orders as they are judged and written in their transaction.
//!
//! Owns the last look at an order, and the writing of orders, commands and events.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{CommandId, DeviceId};
use protocol::state::CommandState;
use protocol::time::Timestamp;
use protocol::trust::TrustRoot;

use super::Asked;
use super::brief::Seen;
use crate::app::App;
use crate::commands::queue::{Fresh, Ready, Signed};
use crate::commands::store::orders::{self, Order};
use crate::commands::wire::{CommandSummary, CreatedOrder, OrderView};
use crate::commands::{store, waves};
use crate::db::{DbError, Tx};
use crate::devices::{self, Device};
use crate::http::Problem;
use crate::http::idempotency::{Answered, Claim, Place};
use crate::trust;

/// What becomes of one order of a batch.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is the next of the drafts.
    Drafted,
    /// It repeats one that was answered, or that stands before it in the batch.
    Repeats,
    /// It is not written.
    Refused(Problem),
}

/// Looks at each order as the store is now. Devices and trust root may have changed since it was
/// planned.
pub(super) async fn judge<'a>(
    app: &App,
    tx: &mut Tx,
    batch: &'a [Asked],
    answered: &BTreeMap<Place, Answered>,
    seen: &Seen,
) -> Result<(Vec<Verdict>, Vec<Draft<'a>>), DbError> {
    let ids = batch.iter().flat_map(|asked| asked.plan.devices()).map(|device| device.id);
    let ids: BTreeSet<_> = ids.filter(|id| !seen.devices.contains_key(id)).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut standing = devices::standing_generations(tx.conn(), &ids).await?;
    let mut cloned = devices::cloned(tx.conn(), &ids).await?;
    let seen = seen.devices.values();
    standing.extend(seen.clone().filter(|it| !it.is_revoked()).map(|it| (it.id, it.generation)));
    cloned.extend(seen.filter(|it| it.cloned_at.is_some()).map(|it| it.id));
    let trust = trust::newest(app, tx.conn()).await?;
    let mut claimed: BTreeSet<&Place> = BTreeSet::new();
    let mut drafts = Vec::with_capacity(batch.len());
    let mut verdicts = Vec::with_capacity(batch.len());
    for asked in batch {
        let place = asked.claim.as_ref().map(Claim::place);
        if place.is_some_and(|place| answered.contains_key(place) || claimed.contains(place)) {
            verdicts.push(Verdict::Repeats);
            continue;
        }
        verdicts.push(match Draft::new(app, tx.now(), asked, (&standing, &cloned), &trust.root) {
            Ok(draft) => {
                drafts.push(draft);
                claimed.extend(place);
                Verdict::Drafted
            }
            Err(problem) => Verdict::Refused(problem),
        });
    }
    Ok((verdicts, drafts))
}

/// An order with its commands, before their numbers.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) asked: &'a Asked,
    order: Order,
    waiting: Vec<Fresh>,
    behind: Vec<Fresh>,
    free: Vec<Fresh>,
    pub(super) created: CreatedOrder,
}

impl<'a> Draft<'a> {
    fn new(
        app: &App,
        now: Timestamp,
        asked: &'a Asked,
        (standing, cloned): (&BTreeMap<DeviceId, u32>, &BTreeSet<DeviceId>),
        trust: &TrustRoot,
    ) -> Result<Self, Problem> {
        let plan = &asked.plan;
        plan.check(trust)?;
        plan.check_cloned(cloned)?;
        if plan.manifest().expires_at <= now {
            return Err(Problem::field("/expires_in_secs", "is over before the order was written"));
        }
        let order = Order::new(plan, &asked.person, now);
        let (mut waiting, mut behind, mut free) = (Vec::new(), Vec::new(), Vec::new());
        let first_wave = plan.first_wave();
        let first = first_wave.map(|size| {
            let is_free =
                |device: &&Device| trust.approvals_needed(plan.manifest(), &device.id) == 0;
            waves::draw(&app.entropy, now, plan.devices().iter().filter(is_free), size)
        });
        let mut commands = Vec::with_capacity(plan.devices().len());
        for device in plan.devices() {
            let proof = plan.tree().proof(&device.id);
            let proof = proof.filter(|_| standing.get(&device.id) == Some(&device.generation));
            let proof = proof.ok_or_else(|| Problem::field("/targets", "changed meanwhile"))?;
            let id = CommandId::new(now, app.random());
            let (device, generation) = (device.id, device.generation);
            let approvals_needed = trust.approvals_needed(plan.manifest(), &device);
            let fresh = Fresh { id, device, generation, approvals_needed, proof };
            let is_behind = first.as_ref().is_some_and(|first| !first.contains(&device));
            let (state, among) = match (approvals_needed, is_behind) {
                (0, false) => (CommandState::Queued, &mut free),
                (0, true) => (CommandState::AwaitingWave, &mut behind),
                (_, _) => (CommandState::AwaitingApproval, &mut waiting),
            };
            commands.push(CommandSummary { id, device_id: device, state });
            among.push(fresh);
        }
        let needed = waiting.iter().map(|fresh| fresh.approvals_needed).max().unwrap_or(0);
        let order_view = OrderView::of_new(&order, &commands, needed, first_wave);
        let created = CreatedOrder { order: order_view, commands, skipped: plan.skipped() };
        Ok(Self { asked, order, waiting, behind, free, created })
    }

    /// What of it may leave.
    pub(super) fn ready(&mut self) -> Ready<'_> {
        Ready { order: &self.order, approvals: &[], fresh: std::mem::take(&mut self.free) }
    }
}

pub(super) async fn insert(
    tx: &mut Tx,
    drafts: &[Draft<'_>],
    signed: &[Vec<Signed>],
) -> Result<(), DbError> {
    let (mut orders, mut waiting, mut queued) = (Vec::new(), Vec::new(), Vec::new());
    let (mut behind, mut first) = (Vec::new(), Vec::new());
    for (draft, signed) in drafts.iter().zip(signed) {
        let order = &draft.order;
        orders.push(order);
        waiting.extend(draft.waiting.iter().map(|fresh| (order, fresh)));
        behind.extend(draft.behind.iter().map(|fresh| (order, fresh)));
        first.extend(draft.asked.plan.first_wave().map(|size| (order.id, size)));
        queued.extend(signed.iter().map(|signed| (order, signed)));
    }
    orders::insert(tx, &orders).await?;
    store::waves::insert(tx, &first).await?;
    orders::insert_waiting(tx, &waiting, CommandState::AwaitingApproval).await?;
    orders::insert_waiting(tx, &behind, CommandState::AwaitingWave).await?;
    orders::insert_queued(tx, &queued).await?;
    for (draft, signed) in drafts.iter().zip(signed) {
        let actor = draft.asked.actor();
        orders::append(tx, &actor, &draft.order, (&draft.waiting, &draft.behind, signed));
    }
    Ok(())
}
