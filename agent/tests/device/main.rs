//! The agent against a scripted hub and control plane over real TLS and WebSocket.
#![expect(clippy::unwrap_used, reason = "the bench is a test as well")]

mod bench;
mod commands;
mod enrollment;
mod hostile;
mod refusals;
mod rungs;
