//! `tocsin authority`: one authority follows another, in steps that a person takes.
//!
//! Works offline, on the files of a data folder; each step counts from the next start of the
//! control plane on.

use std::path::{Path, PathBuf};

use api::db;
use api::pki::{self, Authority, SuccessionError};
use clap::{Args, Subcommand};
use protocol::trust::AuthorityPin;
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
    Switch(SwitchArgs),
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

/// Arguments of `tocsin authority switch`.
#[derive(Debug, Args)]
pub struct SwitchArgs {
    /// Where the authority is.
    #[command(flatten)]
    pub place: AuthorityArgs,
    /// I looked: the trust root pins no authority, or the successor too. Needed where the store is no
    /// file of the folder
    #[arg(long)]
    pub pinned: bool,
}

/// Takes a step.
///
/// # Errors
/// When the step before it was not taken, or a file is not accessible.
pub async fn run(context: &Context, verb: &AuthorityVerb) -> Result<Exit, Failure> {
    let (data, next) = match verb {
        AuthorityVerb::Show(args) => (&args.data, None),
        AuthorityVerb::Prepare(args) => {
            pki::prepare(&args.data, context.now(), &context.entropy)?;
            (&args.data, Some("when every device has renewed its certificate: `authority switch`"))
        }
        AuthorityVerb::Switch(args) => {
            if !args.pinned {
                would_be_believed(context, &args.place.data).await?;
            }
            pki::switch(&args.place.data)?;
            let next = "when every device has renewed its certificate: `authority retire`";
            (&args.place.data, Some(next))
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
        out.note(
            "have the control planes read it (SIGHUP), and give the hubs the new authority.pem",
        );
        out.note(next);
    }
    Ok(Exit::Success)
}

/// Devices that pin authorities would never come back to one that is not pinned, and could not be told of
/// it.
async fn would_be_believed(context: &Context, data: &Path) -> Result<(), Failure> {
    let file = data.join(db::FILE);
    if !file.exists() {
        return Err(Failure::new(
            "whether devices would believe the successor cannot be seen here",
        )
        .next("look with `tocsin trust show`, and say --pinned"));
    }
    let trust = api::trust::in_file(&file).await.map_err(Failure::of)?;
    for trusted in Authority::load(data, context.entropy.clone())?.trusted() {
        let pin = SpkiPin::of(&trusted).map_err(Failure::of)?;
        if !trust.may_vouch(AuthorityPin::from_bytes(*pin.as_bytes())) {
            let text = format!("the trust root pins authorities, and not {pin}");
            return Err(Failure::new(text).next(format!(
                "tocsin trust pin-authority {pin}, and wait until devices have it"
            )));
        }
    }
    Ok(())
}

impl From<SuccessionError> for Failure {
    fn from(error: SuccessionError) -> Self {
        Self::of(error)
    }
}
