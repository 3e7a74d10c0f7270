//! The push hub: holds the agents' sessions and passes frames between them and the broker.
//!
//! Owns the agent port, the sessions and their registry. It has no store, no signing key and no
//! durable state, opens no envelope, and killing it costs nothing but a reconnect.

pub mod config;
pub mod hub;
pub mod identity;
pub mod port;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod socket;

mod admission;
mod budget;
mod certificate;
mod core;
mod dispatch;
mod door;
mod greeting;
mod handle;
mod link;
mod listener;
mod metrics;
mod owed;
mod poll;
mod presence;
mod registry;
mod reload;
mod session;
mod turns;
mod upstream;

pub use config::Config;
pub use hub::{Deps, Hub, StartError, agent_tls};
pub use reload::Reload;
