//! Budgets: how many devices orders may reach within a while, and the brake on what destroys.
//!
//! Owns the counters, which are in the store and change in the transaction of the order: exact
//! across nodes, and the same after a restart. Who may order at all is not judged here.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::action::Verb;
use protocol::id::{GroupName, PersonName};
use protocol::state::VerbClass;
use protocol::time::Timestamp;
use serde::Deserialize;

use crate::db::{DbError, Tx, millis, sql};
use crate::http::{Problem, ProblemKind};
use crate::metrics;

#[cfg(test)]
mod tests;

/// Parts of a window: what was spent comes back in steps of this fraction.
const PARTS: u32 = 60;
/// For how long the brake remembers what is usual.
const USUAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// How many devices orders may reach within a window; 0: no bound. Orders of the mass role count
/// in none of them: its people are asked one by one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budgets {
    /// The window.
    #[serde(with = "runtime::config::duration")]
    pub within: Duration,
    /// Devices of one operator's destructive orders.
    pub destructive_per_operator: u32,
    /// Devices of one group in destructive orders.
    pub destructive_per_group: u32,
    /// Devices in destructive orders altogether.
    pub destructive_in_all: u32,
    /// Devices of one operator's disruptive orders.
    pub disruptive_per_operator: u32,
    /// Devices of one group in disruptive orders.
    pub disruptive_per_group: u32,
    /// Devices that one operator revokes.
    pub revocations_per_operator: u32,
    /// Devices of one operator's orders of a verb, such as `{ reboot = 100 }`.
    pub verbs: BTreeMap<Verb, u32>,
    /// Devices in destructive orders of about an hour that never trip the brake; 0: no brake.
    pub brake_above: u32,
    /// Beyond them: how many times the busiest hour of the last 30 days trip it.
    pub brake_times: u32,
    /// For how long it freezes every device besides; 0: not at all.
    #[serde(with = "runtime::config::duration")]
    pub brake_freeze: Duration,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            within: HOUR,
            destructive_per_operator: 20,
            destructive_per_group: 20,
            destructive_in_all: 40,
            disruptive_per_operator: 0,
            disruptive_per_group: 0,
            revocations_per_operator: 50,
            verbs: BTreeMap::new(),
            brake_above: 30,
            brake_times: 3,
            brake_freeze: HOUR,
        }
    }
}

/// An order as budgets see it.
#[derive(Debug, Clone)]
pub(crate) struct Spending<'a> {
    pub(crate) operator: &'a PersonName,
    pub(crate) verb: Verb,
    pub(crate) devices: u32,
    /// How many of them are in each group.
    pub(crate) groups: BTreeMap<GroupName, u32>,
}

/// One bound: whose, and how much is asked of it.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    budget: String,
    subject: String,
    most: u32,
    asked: u32,
}

impl Budgets {
    /// Whether there is any bound for a verb that disrupts.
    pub(crate) fn concern_disruptive(&self, verb: Verb) -> bool {
        let of_verb = self.verbs.get(&verb).copied().unwrap_or(0);
        self.disruptive_per_operator > 0 || self.disruptive_per_group > 0 || of_verb > 0
    }

    /// Whether any bound needs to know the groups of devices for that verb.
    pub(crate) const fn concerns_groups(&self, verb: Verb) -> bool {
        match verb.class() {
            VerbClass::Routine | VerbClass::Stop => false,
            VerbClass::Disruptive => self.disruptive_per_group > 0,
            VerbClass::Destructive => self.destructive_per_group > 0,
        }
    }

    fn bounds(&self, spending: &Spending<'_>) -> Vec<Bound> {
        let Spending { operator, verb, devices, groups } = spending;
        let (class, per_operator, per_group, in_all) = match verb.class() {
            VerbClass::Routine => ("routine", 0, 0, 0),
            VerbClass::Stop => ("stop", 0, 0, 0),
            VerbClass::Disruptive => {
                ("disruptive", self.disruptive_per_operator, self.disruptive_per_group, 0)
            }
            VerbClass::Destructive => (
                "destructive",
                self.destructive_per_operator,
                self.destructive_per_group,
                self.destructive_in_all,
            ),
        };
        let bound = |budget: String, subject: &str, most: u32, asked: u32| Bound {
            budget,
            subject: subject.to_owned(),
            most,
            asked,
        };
        let of_verb = self.verbs.get(verb).copied().unwrap_or(0);
        let mut bounds = vec![
            bound(format!("{verb}/operator"), operator.as_str(), of_verb, *devices),
            bound(format!("{class}/operator"), operator.as_str(), per_operator, *devices),
            bound(format!("{class}/all"), "", in_all, *devices),
        ];
        bounds.extend(groups.iter().map(|(group, devices)| {
            bound(format!("{class}/group"), group.as_str(), per_group, *devices)
        }));
        bounds.retain(|bound| bound.most > 0);
        bounds
    }
}

/// Takes an order out of every budget that it concerns.
///
/// # Errors
/// [`ProblemKind::OverBudget`] when one of them is exhausted; the transaction must not be
/// committed then.
pub(crate) async fn spend(
    tx: &mut Tx,
    budgets: &Budgets,
    spending: &Spending<'_>,
) -> Result<(), Problem> {
    spend_all(tx, budgets, spending.operator, budgets.bounds(spending)).await
}

/// Spends what a revocation asks for, in the transaction that revokes.
///
/// # Errors
/// [`ProblemKind::OverBudget`].
pub(crate) async fn spend_revocation(
    tx: &mut Tx,
    budgets: &Budgets,
    operator: &PersonName,
) -> Result<(), Problem> {
    let most = budgets.revocations_per_operator;
    let (budget, subject) = ("revocations/operator".to_owned(), operator.to_string());
    let bound = Bound { budget, subject, most, asked: 1 };
    spend_all(tx, budgets, operator, (most > 0).then_some(bound)).await
}

async fn spend_all(
    tx: &mut Tx,
    budgets: &Budgets,
    operator: &PersonName,
    bounds: impl IntoIterator<Item = Bound>,
) -> Result<(), Problem> {
    let part = (budgets.within / PARTS).max(Duration::from_secs(1));
    let slot = slot(tx.now(), part);
    let since = slot - i64::from(PARTS);
    for bound in bounds {
        let Bound { budget, subject, most, asked } = bound;
        let spent = spent(tx, (&budget, &subject), since).await?;
        if spent + i64::from(asked) > i64::from(most) {
            metrics::over_budget();
            let operator = operator.as_str();
            tracing::warn!(budget, subject, operator, spent, asked, most, "budget exhausted");
            let of = if subject.is_empty() { String::new() } else { format!(" of {subject}") };
            let detail = format!(
                "the budget {budget}{of} is {most} devices within {} s: {spent} are spent, \
                 {asked} are asked for",
                budgets.within.as_secs()
            );
            let mut problem = Problem::new(ProblemKind::OverBudget, detail);
            problem.retry_after_secs = Some(part.as_secs());
            return Err(problem);
        }
        let ends = tx.now().plus(budgets.within + part);
        count(tx, (&budget, &subject), (slot, asked), ends).await?;
    }
    Ok(())
}

/// Whether that many devices more in destructive orders are far from usual. Counts them.
pub(crate) async fn trips_brake(
    tx: &mut Tx,
    budgets: &Budgets,
    devices: u32,
) -> Result<Option<String>, DbError> {
    if budgets.brake_above == 0 {
        return Ok(None);
    }
    let slot = slot(tx.now(), HOUR);
    let now = spent(tx, USUAL_KEY, slot - 2).await? + i64::from(devices);
    let row = sql("SELECT COALESCE(MAX(devices), 0) FROM spendings \
         WHERE budget = $1 AND subject = $2 AND slot <= $3")
    .bind(USUAL_KEY.0)
    .bind(USUAL_KEY.1)
    .bind(slot - 2)
    .fetch_one(tx.conn())
    .await?;
    let busiest: i64 = row.try_get(0)?;
    let most = i64::from(budgets.brake_above).max(busiest * i64::from(budgets.brake_times));
    if now > most {
        return Ok(Some(format!(
            "{now} devices in destructive orders of the last hours, {busiest} in the busiest \
             hour of a month"
        )));
    }
    let ends = tx.now().plus(USUAL);
    count(tx, USUAL_KEY, (slot, devices), ends).await?;
    Ok(None)
}

const USUAL_KEY: (&str, &str) = ("destructive/usual", "");

fn slot(now: Timestamp, part: Duration) -> i64 {
    let part = u64::try_from(part.as_millis()).unwrap_or(u64::MAX).max(1);
    i64::try_from(now.as_millis() / part).unwrap_or(i64::MAX)
}

/// What was spent in slots after `since`.
async fn spent(tx: &mut Tx, key: (&str, &str), since: i64) -> Result<i64, DbError> {
    let row = sql("SELECT CAST(COALESCE(SUM(devices), 0) AS BIGINT) FROM spendings \
         WHERE budget = $1 AND subject = $2 AND slot > $3")
    .bind(key.0)
    .bind(key.1)
    .bind(since)
    .fetch_one(tx.conn())
    .await?;
    row.try_get(0)
}

async fn count(
    tx: &mut Tx,
    key: (&str, &str),
    (slot, devices): (i64, u32),
    ends: Timestamp,
) -> Result<(), DbError> {
    sql("INSERT INTO spendings (budget, subject, slot, devices, expires_at) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (budget, subject, slot) DO UPDATE SET \
         devices = spendings.devices + excluded.devices, expires_at = excluded.expires_at")
    .bind(key.0)
    .bind(key.1)
    .bind(slot)
    .bind(devices)
    .bind(millis(ends))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The brake counts from now on: somebody on the console looked at what it counted before.
pub(crate) async fn release_brake(tx: &mut Tx) -> Result<(), DbError> {
    let since = slot(tx.now(), HOUR) - 2;
    sql("DELETE FROM spendings WHERE budget = $1 AND subject = $2 AND slot > $3")
        .bind(USUAL_KEY.0)
        .bind(USUAL_KEY.1)
        .bind(since)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets what counts nowhere any more.
pub(crate) async fn forget(tx: &mut Tx) -> Result<(), DbError> {
    let now = millis(tx.now());
    sql("DELETE FROM spendings WHERE expires_at < $1").bind(now).execute(tx.conn()).await?;
    Ok(())
}
