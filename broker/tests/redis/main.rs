//! The bus on Redis, against real servers.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod access;
mod cluster;
mod cost;
mod failover;
mod faults;
mod hostile;
mod promotion;
mod standalone;
mod support;
