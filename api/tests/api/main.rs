//! The control plane as its users meet it: real HTTPS, real SQLite files, a real bus.
//! `tests/on_postgres` is the same with a real PostgreSQL server.
#![expect(clippy::unwrap_used, reason = "helpers of tests stop the test as its own lines do")]

/// What the store is.
pub(crate) const STORE: bench::Store = bench::Store::Sqlite;

mod actors;
mod approvals;
mod bench;
mod budgets;
mod checkpoints;
mod clones;
mod collections;
mod devices;
mod documents;
mod enrollment;
mod escrows;
mod gate;
mod grades;
mod hostile;
mod hostile_bus;
mod lanes;
mod large;
mod malformed;
mod matrix;
mod numbers;
mod orders;
mod places;
mod plans;
mod receipts;
mod refusals;
mod reload;
mod renewal;
mod roles;
mod scans;
mod sign_in;
mod simulated;
mod sinks;
mod step_up;
mod stolen;
mod stops;
mod streams;
mod vault;
mod waves;
