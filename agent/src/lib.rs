//! The agent: one per Linux device, the only part of Tocsin that acts on an endpoint.
//!
//! Push, long-poll and check-in feed one `reconcile` that owns ledger, journal and trust root;
//! workers run the executors; nothing that was not verified and journalled takes effect.

pub mod addresses;
pub mod agent;
pub mod cli;
pub mod command;
pub mod config;
pub mod console;
pub mod enroll;
pub mod execute;
pub mod host;
pub mod http;
pub mod identity;
pub mod journal;
pub mod mark;
pub mod network;
pub mod notify;
pub mod offline;
pub mod recognise;
pub mod state;
pub mod status;

mod checkpoint;
mod dial;
mod epoch;
mod hellos;
mod ladder;
mod peers;
mod reconcile;
mod renew;
mod standing;
mod worker;

pub use agent::{Agent, Deps, Machine, StartError};
pub use config::Config;
