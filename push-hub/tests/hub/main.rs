//! The hub over real sockets: what agents and the control plane see of it.
#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do: by a panic that shows what came instead"
)]

mod broker_loss;
mod drain;
mod frames;
mod handshakes;
mod links;
mod polls;
mod redis_faults;
mod reload;
mod sessions;
mod support;
mod tickets;
mod two_hubs;
