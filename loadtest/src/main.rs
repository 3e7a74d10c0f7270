//! `tocsin-loadtest`: measures a platform from outside.

use std::process::ExitCode;

use clap::Parser as _;
use loadtest::cli::Cli;
use loadtest::command;

fn main() -> ExitCode {
    command::carry_out(Cli::parse())
}
