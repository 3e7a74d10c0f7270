//! `tocsin run-script`: a script on devices, approved by its hash.
//!
//! Owns reading the file. What follows `--` reaches the script word by word: neither this program nor
//! the device ever makes shell text of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use protocol::action::{Action, RunScript, is_script};
use protocol::limits;

use super::order::{OrderArgs, Wish, duration, give_all};
use super::{Context, Exit, Failure};

/// Arguments of `tocsin run-script`.
#[derive(Debug, Args)]
pub struct RunScriptArgs {
    /// The script; its first line names the interpreter, such as `#!/bin/sh`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How long it may take until it is killed
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "DURATION")]
    pub budget: Duration,
    /// Run it as root, and not as the account that devices keep for scripts
    #[arg(long)]
    pub as_root: bool,
    /// Targets and the rest.
    #[command(flatten)]
    pub order: OrderArgs,
    /// What the script is given, word by word
    #[arg(last = true, value_name = "ARG")]
    pub args: Vec<String>,
}

/// Runs a script on devices.
pub async fn run(context: &Context, args: RunScriptArgs) -> Result<Exit, Failure> {
    let script = read(&args.file)?;
    let budget_secs = u32::try_from(args.budget.as_secs()).unwrap_or(u32::MAX);
    let run = RunScript { as_root: args.as_root, ..RunScript::of(&script, args.args, budget_secs) };
    let (action, script) = (Action::RunScript(run), Some(script));
    let wish = Wish { script, ..Wish::of(action) };
    give_all(context, wish, args.order).await
}

/// The script in that file, if it is one that can be approved and run.
fn read(path: &Path) -> Result<String, Failure> {
    let bytes = runtime::files::read_bounded(path, limits::SCRIPT_BYTES).map_err(Failure::of)?;
    let script = String::from_utf8(bytes).ok().filter(|text| is_script(text));
    script.ok_or_else(|| {
        let what = format!("{} is no script that people could approve", path.display());
        Failure::new(what).next(
            "its first line must name an interpreter (`#!/bin/sh`), and all of it must be plain \
             text: UTF-8, line ends of Unix, no hidden characters",
        )
    })
}
