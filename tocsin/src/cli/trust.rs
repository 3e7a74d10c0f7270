//! `tocsin trust`: whom the devices trust, and the next version of it.
//!
//! Owns making a version on the machine that holds the root key. What the control plane says is
//! in force is taken only when this very root key signed it: otherwise a control plane that was
//! broken into could have its own keys signed along.

use std::path::PathBuf;

use api::trust::{SucceedRequest, TrustView};
use clap::{Args, Subcommand};
use protocol::action::Verb;
use protocol::id::PersonName;
use protocol::jws;
use protocol::key::{PublicKey, SigningKey};
use protocol::trust::{self, Approver, SignedTrustRoot, TrustRoot};

use super::ask::{self, Demand};
use super::{Context, Exit, Failure};
use crate::client::Client;
use crate::keyfile;
use crate::output::{Out, Tone, text};

/// The verbs of `tocsin trust`.
#[derive(Debug, Subcommand)]
pub enum TrustVerb {
    /// Show the version in force, its chain of signatures verified here
    Show,
    /// Let a person's key approve
    AddApprover {
        /// The key, `ed25519:…`, as `tocsin key new` prints it
        public_key: PublicKey,
        /// Whose it is. A person with several keys counts once
        #[arg(long)]
        person: PersonName,
        /// How it is signed.
        #[command(flatten)]
        signing: SigningArgs,
    },
    /// Let a person's key approve no more
    RemoveApprover {
        /// The key, `ed25519:…`
        public_key: PublicKey,
        /// How it is signed.
        #[command(flatten)]
        signing: SigningArgs,
    },
    /// Say how many different persons must approve a verb
    SetThreshold {
        /// The verb
        verb: Verb,
        /// How many
        #[arg(value_parser = clap::value_parser!(u8).range(0..=16))]
        persons: u8,
        /// How it is signed.
        #[command(flatten)]
        signing: SigningArgs,
    },
}

/// How a version is signed.
#[derive(Debug, Clone, Args)]
pub struct SigningArgs {
    /// The root key: the file of the first start, or one of `tocsin key new`
    #[arg(long, value_name = "FILE")]
    pub root_key: PathBuf,
    /// File with the passphrase of a sealed root key
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Carries out a verb on the trust root.
pub async fn run(context: &Context, verb: TrustVerb) -> Result<Exit, Failure> {
    match verb {
        TrustVerb::Show => show(context).await,
        TrustVerb::AddApprover { public_key, person, signing } => {
            let what = format!("{person} may approve with {public_key}");
            let change = |root: &mut TrustRoot| add(root, public_key, person);
            succeed(context, &signing, &what, change).await
        }
        TrustVerb::RemoveApprover { public_key, signing } => {
            let what = format!("{public_key} may approve no more");
            let change = |root: &mut TrustRoot| remove(root, &public_key);
            succeed(context, &signing, &what, change).await
        }
        TrustVerb::SetThreshold { verb, persons, signing } => {
            let what =
                format!("{verb} needs the approval of {}", text::count(persons.into(), "person"));
            let change = |root: &mut TrustRoot| {
                root.approvals.insert(verb.as_str().to_owned(), persons);
                Ok(())
            };
            succeed(context, &signing, &what, change).await
        }
    }
}

fn add(root: &mut TrustRoot, key: PublicKey, person: PersonName) -> Result<(), Failure> {
    if let Some(known) = root.approver(key.id()) {
        return Err(Failure::new(format!("that key is {}'s already", known.person)));
    }
    root.approvers.push(Approver { key, person });
    Ok(())
}

fn remove(root: &mut TrustRoot, key: &PublicKey) -> Result<(), Failure> {
    let before = root.approvers.len();
    root.approvers.retain(|approver| approver.key != *key);
    if root.approvers.len() == before {
        return Err(Failure::new("that key is no approver's"));
    }
    Ok(())
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

async fn succeed(
    context: &Context,
    signing: &SigningArgs,
    what: &str,
    change: impl FnOnce(&mut TrustRoot) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let key = root_key(signing)?;
    let view: TrustView = client.get("/v1/trust").await?;
    let current = believe(&view, key.public())?;
    let mut next = current.clone();
    change(&mut next)?;
    next.version = current.version + 1;
    next.issued_at = context.now();
    if !signing.yes {
        out.note(&format!("version {} of the trust root: {what}", next.version));
        out.note(
            "Every device takes it at its next contact, and nothing but a later version undoes it.",
        );
        ask::confirm(out, "Sign and publish?", &Demand::Yes).await?;
    }
    let signed = SignedTrustRoot::sign(&next, &[&key]).map_err(Failure::of)?;
    signed.succeed(&current).map_err(|error| {
        Failure::of(error).next("with several root keys, sign the version with all of them")
    })?;
    let view: TrustView = client.create("/v1/trust", &SucceedRequest { signed }).await?;
    out.object(&view);
    let done = out.paint(Tone::Good, "published");
    out.line(&format!("{done}: version {}: {what}", view.version));
    warn(out, &view.root);
    Ok(Exit::Success)
}

/// The root key, sealed or plain.
fn root_key(signing: &SigningArgs) -> Result<SigningKey, Failure> {
    if !keyfile::is_sealed(&signing.root_key)? {
        return Ok(keyfile::open_plain(&signing.root_key)?);
    }
    let variable = std::env::var("TOCSIN_PASSPHRASE").ok();
    let passphrase =
        ask::passphrase(signing.passphrase_file.as_deref(), variable.as_deref(), false)?;
    Ok(keyfile::open(&signing.root_key, &passphrase)?)
}

async fn show(context: &Context) -> Result<Exit, Failure> {
    let (out, client) = (context.out, context.client()?);
    let root = verified_chain(&client).await?;
    let view: TrustView = client.get("/v1/trust").await?;
    if view.root != root {
        return Err(Failure::new("the version in force is not the end of the chain of signatures")
            .next("treat the control plane as broken into"));
    }
    out.object(&view);
    let issued = api::time::Time(root.issued_at);
    let head = format!("trust root, version {}", root.version);
    out.line(&format!("{}, {issued}; its chain is verified", out.paint(Tone::Strong, &head)));
    let must =
        format!("{} of {} root keys sign the next", root.root.threshold, root.root.keys.len());
    out.line(&format!("  {must}"));
    for key in &root.root.keys {
        out.line(&format!("    {key}"));
    }
    out.line("  approvers");
    for approver in &root.approvers {
        out.line(&format!("    {:<24} {}", approver.person.to_string(), approver.key));
    }
    out.line("  command keys");
    for command in &root.command_keys {
        let verbs: Vec<_> = command.verbs.iter().map(|verb| text::clean(verb)).collect();
        out.line(&format!("    {} for {}", command.key, verbs.join(", ")));
    }
    out.line("  persons who must approve");
    for verb in Verb::ALL {
        out.line(&format!("    {:<12} {}", verb.as_str(), threshold(&root, verb)));
    }
    if !root.protected_devices.is_empty() {
        let count = text::count(root.protected_devices.len(), "device");
        out.line(&format!("  {count} need one person more"));
    }
    warn(out, &root);
    Ok(Exit::Success)
}

/// Every version from the first, each believed because the one before says so.
async fn verified_chain(client: &Client) -> Result<TrustRoot, Failure> {
    let chain: Vec<TrustView> = client.get("/v1/trust/chain").await?;
    let mut versions = chain.iter();
    let first = versions.next().ok_or_else(|| Failure::new("there is no trust root"))?;
    let mut root = first.signed.pin().map_err(Failure::of)?;
    for view in versions {
        root = view.signed.succeed(&root).map_err(Failure::of)?;
    }
    Ok(root)
}

/// How many persons a verb needs on an ordinary device.
fn threshold(root: &TrustRoot, verb: Verb) -> u8 {
    let default = match verb.class() {
        protocol::state::VerbClass::Routine | protocol::state::VerbClass::Disruptive => 0,
        protocol::state::VerbClass::Destructive => 2,
    };
    root.approvals.get(verb.as_str()).copied().unwrap_or(default)
}

/// Says what cannot work, or should not.
fn warn(out: Out, root: &TrustRoot) {
    let persons: std::collections::BTreeSet<_> =
        root.approvers.iter().map(|approver| &approver.person).collect();
    for verb in Verb::ALL {
        let needed = threshold(root, verb);
        if persons.len() < usize::from(needed) {
            let have = text::count(persons.len(), "person");
            let text = format!("! {verb} needs {needed} approvals, and {have} can approve");
            out.note(&out.paint_note(Tone::Waiting, &text));
        }
    }
    if threshold(root, Verb::Wipe) == 0 {
        let text = "! wipe needs no approval: one stolen token could wipe every device";
        out.note(&out.paint_note(Tone::Bad, text));
    }
}
