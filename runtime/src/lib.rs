//! What every process needs and nothing of the domain: time, chance, lifecycle, configuration,
//! observability, files, TLS and serving HTTP.
//!
//! The only crate that may touch ambient time, randomness or bare spawning; everybody else takes
//! a [`clock::Clock`], an [`entropy::Entropy`] or a [`lifecycle::Drain`] as a value. It imports
//! nothing of ours and must never learn what a device or a command is.
#![warn(missing_docs)]

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod entropy;
pub mod files;
pub mod http;
pub mod lifecycle;
pub mod observability;
pub mod tls;

mod metrics;

pub use backoff::Backoff;
pub use clock::Clock;
pub use entropy::Entropy;
pub use lifecycle::Drain;
