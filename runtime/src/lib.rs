//! What every process needs and nothing of the domain: time, chance, lifecycle, configuration,
//! observability, files, memory, TLS and serving HTTP.
//!
//! The only crate that may touch ambient time, randomness or bare spawning; everybody else takes
//! a [`clock::Clock`], an [`entropy::Entropy`] or a [`lifecycle::Drain`] as a value. It imports
//! nothing of ours and must never learn what a device or a command is.
//!
//! The feature `server` (on by default) adds what only processes that serve HTTP need: [`http`],
//! [`admin`] and the recorder of metrics. The agent runs as root everywhere and does without.
#![warn(missing_docs)]

#[cfg(feature = "server")]
pub mod admin;
pub mod backoff;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod files;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
#[cfg(feature = "server")]
pub mod http;
pub mod lifecycle;
pub mod memory;
pub mod observability;
pub mod tls;

#[cfg(feature = "server")]
mod metrics;

pub use backoff::Backoff;
pub use blocking::Blocking;
pub use clock::Clock;
pub use entropy::Entropy;
pub use lifecycle::Drain;
