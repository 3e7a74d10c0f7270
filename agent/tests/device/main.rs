//! The agent against a scripted hub and control plane over real TLS and WebSocket.
#![expect(clippy::unwrap_used, reason = "the bench is a test as well")]

mod bench;
mod budget;
mod checkpoints;
mod collections;
mod commands;
mod console;
mod cut;
mod disk;
mod enrollment;
mod escrow;
#[path = "../support/host.rs"]
#[expect(dead_code, reason = "shared with the tests of executors, which use the rest")]
mod host;
mod hostile;
mod hostile_hub;
mod hostile_talk;
mod impostor;
mod moves;
mod names;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "shared with the tests of quarantine, which use the rest")]
mod netns;
mod notices;
mod offline;
mod pins;
mod plans;
#[path = "../support/ports.rs"]
mod ports;
mod power;
mod read_only;
mod reboot;
mod refusals;
mod rungs;
mod scripts;
mod server;
mod start;
mod status;
mod stops;
mod suspend;
mod undo;
