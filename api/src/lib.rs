//! The control plane: the truth about devices, orders, commands and receipts.
//!
//! A small strict kernel (`db`, `audit`, `auth`, `http`, `jobs`, `pki`) carries vertical features;
//! features import the kernel and one another's roots only. Nothing is answered as accepted
//! before it is committed, and nothing is committed without its events.

pub mod config;
pub mod start;
pub mod time;

pub mod app;
pub mod audit;
pub mod auth;
pub mod budgets;
mod checkpoints;
pub mod db;
mod deliver;
mod dial;
#[cfg(feature = "fixture")]
pub mod fixture;
mod housekeeping;
pub mod http;
mod installation;
pub mod jobs;
pub mod keys;
pub mod leases;
pub mod limits;
pub mod lockdown;
pub mod metrics;
pub mod openapi;
pub mod outbox;
pub mod pki;
mod reload;
pub mod vault;

pub mod approvals;
pub mod cluster;
pub mod collections;
pub mod commands;
pub mod devices;
pub mod enrollment;
pub mod escrows;
pub mod events;
pub mod factors;
pub mod operators;
pub mod sign_in;
pub mod sinks;
pub mod trust;

pub use config::Config;
pub use installation::InstallationError;
pub use reload::{AuthorityError, Reload};
pub use start::{Api, Deps, FirstStart, StartError};
