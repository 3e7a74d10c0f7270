//! `tocsin`: the operator's command line, and every role in one binary.

use std::process::ExitCode;

use clap::Parser as _;

/// Hubs and control planes allocate small pieces on all threads, and many of them (docs/adr/0061).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tocsin::cli::start(tocsin::cli::Cli::parse())
}
