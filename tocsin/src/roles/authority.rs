//! `tocsin authority`: one authority follows another, in steps that a person takes.
//!
//! Works offline, on the files of a data folder; each step counts from the next start of the
//! control plane on.

use std::path::PathBuf;

use api::pki::{self, Authority, SuccessionError};
use clap::{Args, Subcommand};
use runtime::tls::SpkiPin;
use serde_json::json;

use crate::cli::{Context, Exit, Failure};

/// The verbs of `tocsin authority`.
#[derive(Debug, Subcommand)]
pub enum AuthorityVerb {
    /// Show which authority issues, and which are trusted
    Show(AuthorityArgs),
    /// Make the successor: trusted from the next start on, and issues nothing yet
    Prepare(AuthorityArgs),
    /// Put the successor in its place; the former stays trusted
    Switch(AuthorityArgs),
    /// End the trust in the former
    Retire(AuthorityArgs),
}

/// Where the authority is.
#[derive(Debug, Args)]
pub struct AuthorityArgs {
    /// Folder with the authority's files, that of `tocsin api`
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Takes a step.
///
/// # Errors
/// When the step before it was not taken, or a file is not accessible.
pub fn run(context: &Context, verb: &AuthorityVerb) -> Result<Exit, Failure> {
    let (data, next) = match verb {
        AuthorityVerb::Show(args) => (&args.data, None),
        AuthorityVerb::Prepare(args) => {
            pki::prepare(&args.data, context.now(), &context.entropy)?;
            (&args.data, Some("when every device has renewed its certificate: `authority switch`"))
        }
        AuthorityVerb::Switch(args) => {
            pki::switch(&args.data)?;
            (&args.data, Some("when every device has renewed its certificate: `authority retire`"))
        }
        AuthorityVerb::Retire(args) => {
            pki::retire(&args.data)?;
            (&args.data, Some("devices that have not renewed since must be enrolled again"))
        }
    };
    let authority = Authority::load(data, context.entropy.clone())?;
    let pins: Vec<_> = authority
        .trusted()
        .iter()
        .map(|trusted| SpkiPin::of(trusted).map(|pin| pin.to_string()))
        .collect::<Result<_, _>>()
        .map_err(Failure::of)?;
    let out = context.out;
    out.object(&json!({ "issues": pins.first(), "trusted": pins }));
    for (place, pin) in pins.iter().enumerate() {
        let what = if place == 0 { "issues " } else { "trusted" };
        out.line(&format!("{what}  {pin}"));
    }
    if let Some(next) = next {
        out.note("restart the control planes, and give the hubs the new authority.pem");
        out.note(next);
    }
    Ok(Exit::Success)
}

impl From<SuccessionError> for Failure {
    fn from(error: SuccessionError) -> Self {
        Self::of(error)
    }
}
