//! `tocsin`: the operator's command line, and every role in one binary.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    tocsin::cli::start(tocsin::cli::Cli::parse())
}
