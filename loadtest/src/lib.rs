//! The load harness: swarms of simulated devices that speak to a real platform.
//!
//! Owns measuring: enrolling a swarm, driving the protocol's agent-side machine for each of its
//! devices, ordering at a constant intended rate, and the arithmetic of latencies. It knows a
//! platform only from outside, through its ports. A simulated device answers and never acts: no
//! order touches the machine that runs this.

pub mod book;
pub mod cli;
pub mod fleet;
pub mod http;
pub mod open_files;
pub mod operator;
pub mod pacer;
pub mod probe;
pub mod rate;
pub mod report;
pub mod scenario;
pub mod swarm;
