//! Orders of few devices: planned in the transaction that writes them.
//!
//! Owns which those are, and what is read once for all of a batch: whether the tokens stand by which they were
//! given, and their devices. Nothing about them is read before.

use std::collections::BTreeSet;

use axum::response::Response;
use protocol::id::{DeviceId, OrderId};
use protocol::time::Timestamp;
use uuid::Uuid;

use super::{Asked, guard};
use crate::app::App;
use crate::auth::{self, Act, Permit, ability};
use crate::commands::plan::{Known, Plan};
use crate::commands::wire::{CreateOrder, Targets};
use crate::db::{DbError, Tx};
use crate::devices;
use crate::http::Problem;
use crate::http::idempotency::Claim;

/// Devices of one at most: nobody waits long for its plan.
const DEVICES: usize = 16;

/// An order of few devices that was asked for and is to be planned and written.
#[derive(Debug)]
pub(in crate::commands) struct Brief {
    pub(in crate::commands) permit: Permit<ability::Order>,
    /// By which it was asked for.
    pub(in crate::commands) token: Uuid,
    /// When its validity begins.
    pub(in crate::commands) planned_at: Timestamp,
    pub(in crate::commands) claim: Option<Claim>,
    pub(in crate::commands) asked: CreateOrder,
}

/// Whether an order takes nothing but its devices to be planned, and they are few.
pub(in crate::commands) fn is_brief(app: &App, asked: &CreateOrder) -> bool {
    let verb = asked.action.verb();
    let Targets::Devices(ids) = &asked.targets else { return false };
    ids.len() <= DEVICES.min(app.config.order_piece)
        && asked.plans.is_empty()
        && !asked.dry_run
        && !guard::concerns(app, verb)
        && !app.policy.load().step_up.asks_for(Act::Order(verb))
}

impl Brief {
    /// How many devices it names.
    pub(super) fn devices(&self) -> &[DeviceId] {
        match &self.asked.targets {
            Targets::Devices(ids) => ids,
            Targets::Group(_) | Targets::Names(_) => &[],
        }
    }

    /// Its plan; otherwise what it is answered.
    pub(super) async fn plan(
        self,
        app: &App,
        tx: &mut Tx,
        seen: &Seen,
    ) -> Result<Asked, Result<Response, Problem>> {
        let Self { permit, token, planned_at, claim, asked } = self;
        if !seen.tokens.contains(&token) {
            return Err(Err(auth::refused()));
        }
        let order_id = OrderId::new(planned_at, app.random());
        let policy = app.policy.load_full();
        let about = (tx.conn(), &seen.devices, &policy.first_wave);
        match Plan::new(about, &permit, &asked, order_id, planned_at).await {
            Ok(plan) => {
                let (person, token) = (permit.person().clone(), Some(token));
                Ok(Asked { person, token, planned_at, claim, plan })
            }
            // A repetition is answered as it was before, whatever changed since.
            Err(problem) => {
                let Some(claim) = &claim else { return Err(Err(problem)) };
                Err(match claim.former(tx.conn()).await {
                    Ok(former) => former.ok_or(problem),
                    Err(problem) => Err(problem),
                })
            }
        }
    }
}

/// What the transaction of a batch says of what its orders need.
#[derive(Debug, Default)]
pub(super) struct Seen {
    tokens: BTreeSet<Uuid>,
    pub(super) devices: Known,
}

impl Seen {
    pub(super) async fn of<'a>(
        app: &App,
        tx: &mut Tx,
        all: impl Iterator<Item = &'a Brief>,
    ) -> Result<Self, DbError> {
        let (mut tokens, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for brief in all {
            tokens.insert(brief.token);
            ids.extend(brief.devices());
        }
        if tokens.is_empty() {
            return Ok(Self::default());
        }
        let tokens = auth::standing(tx.conn(), &tokens, app.now()).await?;
        let ids: Vec<_> = ids.into_iter().collect();
        let devices = devices::with_ids(tx.conn(), &ids).await?;
        Ok(Self {
            tokens,
            devices: devices.into_iter().map(|device| (device.id, device)).collect(),
        })
    }
}
