//! The control plane as its users meet it: real HTTPS, real SQLite files, a real bus.
#![expect(clippy::unwrap_used, reason = "helpers of tests stop the test as its own lines do")]

mod approvals;
mod bench;
mod devices;
mod documents;
mod enrollment;
mod gate;
mod hostile;
mod lanes;
mod numbers;
mod orders;
mod places;
mod receipts;
mod renewal;
mod streams;
