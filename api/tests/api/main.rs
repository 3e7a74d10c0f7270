//! The control plane as its users meet it: real HTTPS, real SQLite files, a real bus.

mod approvals;
mod bench;
mod devices;
mod documents;
mod enrollment;
mod hostile;
mod orders;
mod receipts;
mod streams;
