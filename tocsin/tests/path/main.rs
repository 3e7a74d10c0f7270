//! The whole path with the real programs: `tocsin up`, agents as processes, and the operator's
//! command line, over real sockets, with real crashes.

mod ceremony;
mod checkpoints;
mod copies;
mod crash;
mod disk;
mod evidence;
mod hardware;
mod installation;
mod ladder;
mod links;
mod listeners;
mod lockdown;
mod memory;
#[path = "../support/operator.rs"]
#[expect(dead_code, reason = "shared with the tests of many processes, which use the rest")]
mod operator;
mod orders;
#[path = "../../../agent/tests/support/ports.rs"]
mod ports;
mod reload;
mod rollback;
mod rotate;
mod script;
mod secrets;
#[path = "../../../agent/tests/support/soft_tpm.rs"]
mod soft_tpm;
mod stops;
mod trap;
mod wipe;
