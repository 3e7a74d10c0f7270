//! The load harness: swarms of simulated devices that speak to a real platform.
//!
//! Owns measuring: scenarios, the platform that they run against, swarms that drive the protocol's
//! agent-side machine for each device, orders at a constant intended rate, and the arithmetic of
//! latencies. It knows a platform only from outside, through its ports and `/proc`. A simulated
//! device answers and never acts: no order touches the machine that runs this.

pub mod cli;
pub mod command;
pub mod plan;
pub mod run;

mod ages;
mod conductor;
mod evaluate;
pub mod peers;
mod sampler;
pub mod scaling;
pub mod site;

pub mod crew;
pub mod fleet;
pub mod layout;
pub mod swarm;
pub mod tally;

pub mod http;
pub mod open_files;
pub mod operator;
pub mod pacer;
pub mod rate;

pub mod book;
pub mod compare;
pub mod dashboard;
pub mod html;
pub mod latency;
pub mod live;
pub mod meters;
pub mod moment;
pub mod probe;
pub mod report;
pub mod require;
