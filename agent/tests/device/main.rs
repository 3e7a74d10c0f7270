//! The agent against a scripted hub and control plane over real TLS and WebSocket.

mod bench;
mod commands;
mod enrollment;
mod refusals;
mod rungs;
