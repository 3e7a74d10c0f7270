//! `tocsin trust`: whom the devices trust, and the next version of it.
//!
//! Owns making a version on the machine that holds the root key. What the control plane says is
//! in force is taken only when this very root key signed it: otherwise a control plane that was
//! broken into could have its own keys signed along.

use std::path::{Path, PathBuf};

use api::trust::{SucceedRequest, TrustView};
use clap::{Args, Subcommand};
use protocol::jws;
use protocol::key::{PublicKey, SigningKey};
use protocol::trust::{self, SignedTrustRoot, TrustRoot};

use self::change::Change;
use super::ask::{self, Demand};
use super::{Context, Exit, Failure};
use crate::keyfile;
use crate::output::Tone;

pub mod change;
pub mod draft;
pub mod show;
#[cfg(test)]
mod tests;

/// The verbs of `tocsin trust`.
#[derive(Debug, Subcommand)]
pub enum TrustVerb {
    /// Show the version in force, its chain of signatures verified here; or a draft
    Show {
        /// A draft, in place of the version in force
        #[arg(long, value_name = "FILE")]
        draft: Option<PathBuf>,
    },
    /// Begin a draft of the next version, for several root keys to sign
    Init {
        /// Where to
        draft: PathBuf,
    },
    /// Sign a draft with a root key; asks no server
    Sign(draft::SignArgs),
    /// Add the signatures of other copies of a draft
    Merge {
        /// The draft
        draft: PathBuf,
        /// Its copies, signed elsewhere
        #[arg(required = true)]
        copies: Vec<PathBuf>,
    },
    /// Hand in a draft that enough root keys have signed
    Publish {
        /// The draft
        draft: PathBuf,
    },
    /// A change.
    #[command(flatten)]
    Change(Change),
}

/// How a change is signed: at once by the one root key, or with others in a draft.
#[derive(Debug, Clone, Args)]
#[group(id = "how", required = true, multiple = true)]
pub struct Signing {
    /// Change this draft, and sign nothing yet
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root_key", "passphrase_file"])]
    pub draft: Option<PathBuf>,
    /// Sign and publish at once: the file of the first start, or one of `tocsin key new`
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// File with the passphrase of a sealed root key
    #[arg(long, value_name = "FILE", requires = "root_key")]
    pub passphrase_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long, requires = "root_key")]
    pub yes: bool,
}

/// Carries out a verb on the trust root.
pub async fn run(context: &Context, verb: TrustVerb) -> Result<Exit, Failure> {
    match verb {
        TrustVerb::Show { draft: None } => show::run(context).await,
        TrustVerb::Show { draft: Some(path) } => {
            draft::show(context.out, &draft::Draft::load(&path)?)?;
            Ok(Exit::Success)
        }
        TrustVerb::Init { draft } => draft::init(context, &draft).await,
        TrustVerb::Sign(args) => draft::sign(context, args).await,
        TrustVerb::Merge { draft, copies } => draft::merge(context, &draft, &copies),
        TrustVerb::Publish { draft } => draft::publish(context, &draft).await,
        TrustVerb::Change(change) => match &change.signing().draft {
            Some(path) => draft::change(context, path, &change),
            None => succeed(context, &change).await,
        },
    }
}

/// The version in force, believed because this root key signed it.
pub fn believe(view: &TrustView, key: &PublicKey) -> Result<TrustRoot, Failure> {
    let signed = view.signed.signatures().iter().any(|document| {
        jws::parse(document, trust::TYP, protocol::limits::TRUST_ROOT_BYTES)
            .is_ok_and(|parsed| parsed.verify(key).is_ok())
    });
    if !signed {
        return Err(Failure::new(format!(
            "version {} was not signed by this root key",
            view.version
        ))
        .next(
            "is this the root key of this installation? if it is, do not sign: treat the \
                   control plane as broken into",
        ));
    }
    view.signed.pin().map_err(Failure::of)
}

async fn succeed(context: &Context, change: &Change) -> Result<Exit, Failure> {
    let signing = change.signing();
    let file = signing.root_key.as_deref();
    let file = file.ok_or_else(|| Failure::usage("name the root key, or a draft"))?;
    let (out, client) = (context.out, context.client()?);
    let key = root_key(file, signing.passphrase_file.as_deref())?;
    let view: TrustView = client.get("/v1/trust").await?;
    let current = believe(&view, key.public())?;
    let version = current.version + 1;
    let mut next = TrustRoot { version, issued_at: context.now(), ..current.clone() };
    change.apply(&mut next)?;
    let changes = change::describe(&current, &next);
    if !signing.yes {
        out.note(&format!("version {} of the trust root", next.version));
        for change in &changes {
            out.note(&format!("  {change}"));
        }
        out.note(
            "Every device takes it at its next contact, and nothing but a later version undoes it.",
        );
        ask::confirm(out, "Sign and publish?", &Demand::Yes).await?;
    }
    let signed = SignedTrustRoot::sign(&next, &[&key]).map_err(Failure::of)?;
    signed.succeed(&current).map_err(|error| {
        Failure::of(error).next(
            "with several root keys, or several changes at once, make a draft: tocsin trust init",
        )
    })?;
    let view: TrustView = client.create("/v1/trust", &SucceedRequest { signed }).await?;
    out.object(&view);
    let done = out.paint(Tone::Good, "published");
    out.line(&format!("{done}: version {}", view.version));
    for change in &changes {
        out.line(&format!("  {change}"));
    }
    show::warn(out, &view.root);
    Ok(Exit::Success)
}

/// The root key, sealed or plain.
fn root_key(file: &Path, passphrase_file: Option<&Path>) -> Result<SigningKey, Failure> {
    if !keyfile::is_sealed(file)? {
        return Ok(keyfile::open_plain(file)?);
    }
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase = ask::passphrase(passphrase_file, variable.as_deref(), false)?;
    Ok(keyfile::open(file, &passphrase)?)
}
