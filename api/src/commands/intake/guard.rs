//! What stands between a plan and the store: lockdowns, budgets and the brake.
//!
//! Owns which orders they concern. Those are written one by one.

use std::collections::BTreeMap;

use protocol::action::Verb;
use protocol::id::PersonName;
use protocol::limits::DESTRUCTIVE_DEVICES;
use protocol::state::VerbClass;

use crate::app::App;
use crate::budgets::{self, Spending};
use crate::commands::plan::Plan;
use crate::db::Tx;
use crate::http::Problem;
use crate::{devices, lockdown};

/// Whether any of them has a say in orders of that verb.
pub(in crate::commands) fn concerns(app: &App, verb: Verb) -> bool {
    match verb.class() {
        // Who stops must not run out of it.
        VerbClass::Routine | VerbClass::Stop => false,
        VerbClass::Disruptive => app.policy.load().budgets.concern_disruptive(verb),
        VerbClass::Destructive => true,
    }
}

/// Lockdowns, budgets and the brake, in the transaction of the order. Answers why the brake is
/// tripped, if it is.
pub(in crate::commands) async fn pass(
    app: &App,
    tx: &mut Tx,
    person: &PersonName,
    plan: &Plan,
) -> Result<Option<String>, Problem> {
    let (verb, policy) = (plan.manifest().action.verb(), app.policy.load_full());
    let budgets = &policy.budgets;
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
    if plan.manifest().simulated {
        // Nothing is locked or destroyed by it, and what is usual is told by orders that do.
        return Ok(None);
    }
    let mut groups: BTreeMap<_, u32> = BTreeMap::new();
    if budgets.concerns_groups(verb) {
        let ids: Vec<_> = plan.devices().iter().map(|device| device.id).collect();
        let of_devices = devices::groups_of(tx.conn(), &ids).await?;
        for group in of_devices.into_values().flatten() {
            *groups.entry(group).or_default() += 1;
        }
    }
    let spending = Spending { operator: person, verb, devices, groups };
    budgets::spend(tx, budgets, &spending).await?;
    if is_destructive {
        return Ok(budgets::trips_brake(tx, budgets, devices).await?);
    }
    Ok(None)
}
