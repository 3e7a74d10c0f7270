//! `tocsin load`: the load harness, under the name that operators know.
//!
//! Owns finding the program. The harness is one of its own, so that what it draws and plots with
//! is not in what runs on servers.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::{Exit, Failure};

/// Name of the program.
const PROGRAM: &str = "tocsin-loadtest";

/// Arguments of `tocsin load`: those of `tocsin-loadtest`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// Becomes the harness: the one beside this program, else the one in `PATH`.
///
/// # Errors
/// When there is none.
pub fn run(args: LoadArgs) -> Result<Exit, Failure> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(PROGRAM));
    // Only an error comes back.
    let error = Command::new(&program).args(args.args).exec();
    Err(Failure::new(format!("{PROGRAM} cannot be started: {error}"))
        .next("it comes with the sources: cargo build --release --package loadtest"))
}
