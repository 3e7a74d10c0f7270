//! `tocsin-agent`: reads the command line and carries it out.

use std::io::Write as _;
use std::process::ExitCode;

use agent::{cli, command};

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os().skip(1)).map_err(anyhow::Error::from).and_then(
        |invocation| {
            if invocation.verb.holds_keys() {
                runtime::memory::keep_private()?;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(command::carry_out(invocation))
        },
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is gone as well.
            let _ = writeln!(std::io::stderr(), "tocsin-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
