//! Every test of `tests/api` once more, with its store in a real PostgreSQL server.
#![expect(clippy::unwrap_used, reason = "helpers of tests stop the test as its own lines do")]

/// What the store is.
pub(crate) const STORE: bench::Store = bench::Store::Postgres;

#[path = "../api/actors.rs"]
mod actors;
#[path = "../api/approvals.rs"]
mod approvals;
#[path = "../api/bench.rs"]
mod bench;
#[path = "../api/budgets.rs"]
mod budgets;
#[path = "../api/checkpoints.rs"]
mod checkpoints;
#[path = "../api/clones.rs"]
mod clones;
#[path = "../api/collections.rs"]
mod collections;
#[path = "../api/devices.rs"]
mod devices;
#[path = "../api/documents.rs"]
mod documents;
#[path = "../api/enrollment.rs"]
mod enrollment;
#[path = "../api/escrows.rs"]
mod escrows;
#[path = "../api/gate.rs"]
mod gate;
#[path = "../api/grades.rs"]
mod grades;
#[path = "../api/hostile.rs"]
mod hostile;
#[path = "../api/lanes.rs"]
mod lanes;
#[path = "../api/large.rs"]
mod large;
#[path = "../api/malformed.rs"]
mod malformed;
#[path = "../api/numbers.rs"]
mod numbers;
#[path = "../api/orders.rs"]
mod orders;
#[path = "../api/places.rs"]
mod places;
#[path = "../api/plans.rs"]
mod plans;
#[path = "../api/receipts.rs"]
mod receipts;
#[path = "../api/reload.rs"]
mod reload;
#[path = "../api/renewal.rs"]
mod renewal;
#[path = "../api/simulated.rs"]
mod simulated;
#[path = "../api/sinks.rs"]
mod sinks;
#[path = "../api/step_up.rs"]
mod step_up;
#[path = "../api/stops.rs"]
mod stops;
#[path = "../api/streams.rs"]
mod streams;
#[path = "../api/vault.rs"]
mod vault;
#[path = "../api/waves.rs"]
mod waves;

mod copying;
mod failover;
mod faults;
mod nodes;
