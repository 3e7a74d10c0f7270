//! Reading a scenario file and changing it.
//!
//! Owns the error texts: an unknown key names its line, and a change names itself.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use toml::{Table, Value};

use super::{Plan, Start, Store};

/// The scenarios that are shipped, in the order in which they are listed.
pub const SHIPPED: [(&str, &str); 19] = [
    ("idle", include_str!("../../scenarios/idle.toml")),
    ("connect", include_str!("../../scenarios/connect.toml")),
    ("storm", include_str!("../../scenarios/storm.toml")),
    ("unicast", include_str!("../../scenarios/unicast.toml")),
    ("bulk", include_str!("../../scenarios/bulk.toml")),
    ("urgent-under-bulk", include_str!("../../scenarios/urgent-under-bulk.toml")),
    ("broadcast", include_str!("../../scenarios/broadcast.toml")),
    ("hub-broadcast", include_str!("../../scenarios/hub-broadcast.toml")),
    ("slow-consumers", include_str!("../../scenarios/slow-consumers.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("drain", include_str!("../../scenarios/drain.toml")),
    ("redis-failover", include_str!("../../scenarios/redis-failover.toml")),
    ("redis-gone", include_str!("../../scenarios/redis-gone.toml")),
    ("hub-killed", include_str!("../../scenarios/hub-killed.toml")),
    ("dead-peers", include_str!("../../scenarios/dead-peers.toml")),
    ("dead-peers-urgent", include_str!("../../scenarios/dead-peers-urgent.toml")),
    ("poll-only", include_str!("../../scenarios/poll-only.toml")),
    ("many", include_str!("../../scenarios/many.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
];

/// The longest phase, in seconds: a month.
const MOST_SECS: f64 = 31.0 * 86_400.0;
/// Devices of a swarm at most.
const MOST_DEVICES: u64 = 1_000_000;

/// Why a text is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not TOML, or not a scenario; the text names line and key.
    #[error("{name} is not a scenario: {text}")]
    Text {
        /// The file.
        name: String,
        /// What is wrong, and where.
        text: String,
    },
    /// A change that cannot be made.
    #[error("--set {change}: {why}")]
    Change {
        /// The change.
        change: String,
        /// Why not.
        why: String,
    },
    /// Its parts do not go together.
    #[error("{name}: {why}")]
    Meaning {
        /// The file.
        name: String,
        /// What does not.
        why: String,
    },
}

/// The text of a shipped scenario.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Reads a scenario, with those changes: `population.connections=500`,
/// `phase.orders.orders.rate=100/s` (a phase by its name).
///
/// # Errors
/// [`PlanError`].
pub fn load(name: &str, text: &str, changes: &[String]) -> Result<Plan, PlanError> {
    let unreadable = |error: toml::de::Error| PlanError::Text {
        name: name.to_owned(),
        text: error.to_string().trim_end().to_owned(),
    };
    let mut plan: Plan = toml::from_str(text).map_err(unreadable)?;
    for change in changes {
        let failed = |why: String| PlanError::Change { change: change.clone(), why };
        let mut table = Table::try_from(&plan).map_err(|error| failed(error.to_string()))?;
        apply(&mut table, change).map_err(failed)?;
        let changed = Plan::deserialize(Value::Table(table));
        plan = changed.map_err(|error| failed(error.message().to_owned()))?;
    }
    check(&plan).map_err(|why| PlanError::Meaning { name: name.to_owned(), why })?;
    Ok(plan)
}

/// Sets one value.
fn apply(table: &mut Table, change: &str) -> Result<(), String> {
    let (path, value) = change.split_once('=').ok_or("not KEY=VALUE")?;
    let mut words: Vec<&str> = path.trim().split('.').collect();
    let last = words.pop().filter(|last| !last.is_empty()).ok_or("the key is empty")?;
    let mut at = table;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let entry = at.entry(word).or_insert_with(|| Value::Table(Table::new()));
        at = match entry {
            Value::Table(table) => table,
            Value::Array(list) => {
                let name = words.next().ok_or_else(|| format!("{word} needs a name"))?;
                let is_meant =
                    |entry: &&mut Value| entry.get("name").and_then(Value::as_str) == Some(name);
                let found = list.iter_mut().find(is_meant).and_then(Value::as_table_mut);
                found.ok_or_else(|| format!("there is no {word} {name}"))?
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => return Err(format!("{word} is a single value")),
        };
    }
    at.insert(last.to_owned(), read(value.trim()));
    Ok(())
}

/// A value as TOML has it; what is none is a text.
fn read(value: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {value}"));
    let parsed = parsed.ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(value.to_owned()))
}

/// What types alone cannot say.
fn check(plan: &Plan) -> Result<(), String> {
    let rule = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    let population = &plan.population;
    let is_sane = (1..=MOST_DEVICES).contains(&population.total());
    rule(is_sane, "population: between one device and a million")?;
    rule(is_time(population.check_in_secs), "population.check_in_secs is not a time")?;
    rule((1..=64).contains(&plan.platform.hubs), "platform.hubs must be 1 to 64")?;
    let is_one = plan.platform.start == Start::Split || plan.platform.hubs == 1;
    rule(is_one, "platform.hubs: only `split` has more than one")?;
    rule(!plan.phases.is_empty(), "there is no phase")?;
    let (mut names, mut is_connected) = (BTreeSet::new(), false);
    for phase in &plan.phases {
        let name = &phase.name;
        let of = |why: String| format!("phase {name}: {why}");
        if !names.insert(name) {
            return Err(of("another one has that name".to_owned()));
        }
        if phase.connect && is_connected {
            return Err(of("everybody is connected already".to_owned()));
        }
        is_connected |= phase.connect;
        check_phase(plan, phase, is_connected).map_err(of)?;
    }
    Ok(())
}

fn check_phase(plan: &Plan, phase: &super::Phase, is_connected: bool) -> Result<(), String> {
    let rule = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    rule(is_connected || phase.is_quiet(), "nobody is connected yet: begin with `connect = true`")?;
    let times = [phase.secs, phase.cut_at_secs].into_iter().flatten();
    let times = times.chain(phase.faults.iter().map(|fault| fault.at_secs));
    let mut times = times.chain(phase.group.iter().map(|group| group.at_secs));
    rule(times.all(is_time), "seconds must be between 0 and a month")?;
    if let Some(orders) = &phase.orders {
        let is_bounded = orders.count.is_some() || phase.secs.is_some();
        rule(is_bounded, "orders need a `count`, or the phase `secs`")?;
        rule((1..=1024).contains(&orders.desks), "orders.desks must be 1 to 1024")?;
        rule(plan.population.total() > plan.population.stalled, "orders need devices that answer")?;
    }
    if let Some(group) = &phase.group {
        rule((1..=100_000).contains(&group.times), "group.times must be 1 to 100000")?;
    }
    let has_hubs = plan.platform.start != Start::Given && plan.population.stalled > 0;
    rule(has_hubs || !phase.until_closed, "until_closed needs stalled devices and hubs of ours")?;
    for fault in &phase.faults {
        let known = processes(plan);
        if !known.contains(&fault.process) {
            return Err(format!(
                "there is no process {:?} that the harness starts; there are {known:?}",
                fault.process
            ));
        }
    }
    Ok(())
}

/// The processes that the harness starts.
fn processes(plan: &Plan) -> Vec<String> {
    let own = match plan.platform.start {
        Start::Up => vec!["up".to_owned()],
        Start::Split => {
            let hubs = (1..=plan.platform.hubs).map(|number| format!("hub-{number}"));
            ["redis".to_owned(), "api".to_owned()].into_iter().chain(hubs).collect()
        }
        Start::Given => return Vec::new(),
    };
    let store = (plan.platform.store == Store::Postgres).then(|| "postgres".to_owned());
    store.into_iter().chain(own).collect()
}

fn is_time(secs: f64) -> bool {
    (0.0..=MOST_SECS).contains(&secs)
}
