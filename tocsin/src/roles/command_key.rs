//! `tocsin command-key`: one command key follows another, in steps that a person takes.
//!
//! Works offline, on the files of a data folder; the trust root says between two steps which keys
//! devices obey.

use std::path::PathBuf;

use api::keys::succession::{self, CommandKeyError};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::{Context, Exit, Failure};

/// The verbs of `tocsin command-key`.
#[derive(Debug, Subcommand)]
pub enum CommandKeyVerb {
    /// Show which key signs, and which will
    Show(CommandKeyArgs),
    /// Make the successor, which signs nothing yet
    Prepare(CommandKeyArgs),
    /// Have the successor sign from the next start on
    Switch(CommandKeyArgs),
    /// Remove the former key
    Retire(CommandKeyArgs),
}

/// Where the keys are.
#[derive(Debug, Args)]
pub struct CommandKeyArgs {
    /// Data folder of the control plane
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Takes a step.
///
/// # Errors
/// When the step before it was not taken, or a file is not accessible.
pub fn run(context: &Context, verb: &CommandKeyVerb) -> Result<Exit, Failure> {
    let (data, next) = match verb {
        CommandKeyVerb::Show(args) => (&args.data, None),
        CommandKeyVerb::Prepare(args) => {
            let public = succession::prepare(&args.data, &context.entropy)?;
            let next = format!(
                "copy command-next.key to every node, then let the devices trust it:\n  \
                 tocsin trust add-command-key {public} …\nand then: tocsin command-key switch"
            );
            (&args.data, Some(next))
        }
        CommandKeyVerb::Switch(args) => {
            succession::switch(&args.data)?;
            let next = "switch on every node, and restart them; when nothing that the former key \
                        signed is open any more:\n  tocsin trust remove-command-key FORMER …";
            (&args.data, Some(next.to_owned()))
        }
        CommandKeyVerb::Retire(args) => {
            succession::retire(&args.data)?;
            (&args.data, None)
        }
    };
    let keys = succession::show(data)?;
    let out = context.out;
    out.object(&json!({ "signs": keys.present, "next": keys.next, "former": keys.former }));
    out.line(&format!("signs   {}", keys.present));
    for (what, key) in [("next  ", keys.next), ("former", keys.former)] {
        if let Some(key) = key {
            out.line(&format!("{what}  {key}"));
        }
    }
    if let Some(next) = next {
        out.note(&next);
    }
    Ok(Exit::Success)
}

impl From<CommandKeyError> for Failure {
    fn from(error: CommandKeyError) -> Self {
        Self::of(error)
    }
}
