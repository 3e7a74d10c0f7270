//! The platform as separate processes: hubs and control plane over a real Redis, agents as
//! processes of their own, and the faults that befall each of them.

mod bench;
mod broker_lost;
mod budget;
mod bus;
mod chaos;
mod checker;
mod drain;
mod fault;
mod herd;
mod hubs;
#[path = "../support/operator.rs"]
#[expect(dead_code, reason = "shared with the tests of the whole path, which use the rest")]
mod operator;
#[path = "../../../agent/tests/support/ports.rs"]
mod ports;
#[path = "../support/program.rs"]
mod program;
mod revoked;
mod site;
