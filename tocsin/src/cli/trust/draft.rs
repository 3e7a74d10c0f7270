//! The ceremony: a draft of the next version goes from one root key to the other.
//!
//! Owns the draft's file, and whom its signers believe. Each signer's machine is offline: the
//! chain of versions travels with the draft, and counts from the newest version on that the
//! signer's own key has signed.

use std::path::{Path, PathBuf};

use api::trust::{SucceedRequest, TrustView};
use clap::Args;
use protocol::jws::{self, CompactJws};
use protocol::key::{PublicKey, SigningKey};
use protocol::limits;
use protocol::manifest::Hash;
use protocol::time::Timestamp;
use protocol::trust::{SignedTrustRoot, TYP, TrustError, TrustRoot};
use runtime::files;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::{self, Change};
use crate::cli::ask::{self, Demand};
use crate::cli::{Context, Exit, Failure};
use crate::output::{Out, Tone};

/// Bytes of the largest draft: some hundred versions of common size.
const DRAFT_BYTES: usize = 16 * 1024 * 1024;
/// A draft is no secret.
const MODE: u32 = 0o644;

/// A version that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// Of this form.
    tocsin_draft: u8,
    /// Every version so far, oldest first.
    chain: Vec<SignedTrustRoot>,
    /// What is to follow.
    next: TrustRoot,
    /// What root keys have signed of it.
    #[serde(default)]
    signatures: Vec<CompactJws>,
}

/// Arguments of `tocsin trust sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The draft
    pub draft: PathBuf,
    /// The root key: the file of the first start, or one of `tocsin key new`
    #[arg(long, value_name = "FILE")]
    pub root_key: PathBuf,
    /// File with the passphrase of a sealed root key
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The fingerprint of the version in force, from somebody whose key signed it: for a key that
    /// has signed none yet
    #[arg(long, value_name = "FINGERPRINT")]
    pub in_force: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Why a draft is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// Its versions do not follow one another.
    #[error("the versions in the draft do not follow one another")]
    Chain(#[from] TrustError),
    /// The key is none of the root keys that sign it.
    #[error("this key is no root key of version {0}, and none of the next")]
    NoRootKey(u32),
    /// Nothing in it was signed by the key that is to sign.
    #[error("this key has signed no version in the draft, so nothing vouches for them")]
    Stranger,
    /// The version in force is not the one that the signer expects.
    #[error("version {version} has the fingerprint {found}")]
    OtherVersion {
        /// The version in force, as the draft says.
        version: u32,
        /// Its fingerprint.
        found: String,
    },
}

/// What a person compares to know that two machines mean the same version.
pub fn fingerprint(root: &TrustRoot) -> String {
    let text = serde_json::to_vec(root).unwrap_or_default();
    Hash::sha256(&text).to_string()
}

impl Draft {
    /// A draft that changes nothing yet.
    pub fn new(chain: Vec<SignedTrustRoot>, now: Timestamp) -> Result<Self, TrustError> {
        let current = verify(&chain)?;
        let next = TrustRoot { version: current.version + 1, issued_at: now, ..current };
        Ok(Self { tocsin_draft: 1, chain, next, signatures: Vec::new() })
    }

    /// Reads one, with those signatures that are of root keys and over what it says.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = files::read_bounded(path, DRAFT_BYTES).map_err(Failure::of)?;
        let no_draft = |error| Failure::new(format!("{} is no draft: {error}", path.display()));
        let mut draft: Self = serde_json::from_slice(&bytes).map_err(no_draft)?;
        let current = draft.current().map_err(Failure::of)?;
        let signatures = std::mem::take(&mut draft.signatures);
        draft.take(&current, signatures);
        Ok(draft)
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).map_err(Failure::of)?;
        text.push(b'\n');
        files::write_atomic(path, &text, MODE).map_err(Failure::of)
    }

    /// The version in force, as far as the draft's own chain goes.
    pub fn current(&self) -> Result<TrustRoot, TrustError> {
        verify(&self.chain)
    }

    /// Makes a change. What was signed before was signed without it.
    pub fn change(&mut self, change: &Change) -> Result<usize, Failure> {
        change.apply(&mut self.next)?;
        Ok(std::mem::take(&mut self.signatures).len())
    }

    /// Adds those signatures that are of root keys and over this very version.
    fn take(&mut self, current: &TrustRoot, signatures: Vec<CompactJws>) {
        for signature in signatures {
            let is_good = root_keys(current, &self.next)
                .any(|key| signed(&signature, key).is_some_and(|root| root == self.next));
            if is_good && !self.signatures.contains(&signature) {
                self.signatures.push(signature);
            }
        }
    }

    /// Adds what was signed of another copy of the same draft.
    pub fn merge(&mut self, other: Self) -> Result<(), Failure> {
        if self.next != other.next || self.chain != other.chain {
            return Err(Failure::new("these are not copies of one draft"));
        }
        let current = self.current().map_err(Failure::of)?;
        self.take(&current, other.signatures);
        Ok(())
    }

    /// The version in force, believed because that very key vouches for it: it signed a version
    /// from which the chain leads here, or its owner was told the fingerprint.
    pub fn believe(
        &self,
        key: &PublicKey,
        expected: Option<&str>,
    ) -> Result<TrustRoot, DraftError> {
        let current = self.current()?;
        if !root_keys(&current, &self.next).any(|root_key| root_key == key) {
            return Err(DraftError::NoRootKey(current.version));
        }
        let found = fingerprint(&current);
        let is_mine = |version: &SignedTrustRoot| {
            version.signatures().iter().any(|signature| signed(signature, key).is_some())
        };
        match expected {
            Some(expected) if expected == found => Ok(current),
            Some(_) => Err(DraftError::OtherVersion { version: current.version, found }),
            None if self.chain.iter().any(is_mine) => Ok(current),
            None => Err(DraftError::Stranger),
        }
    }

    /// Signs it with a key.
    pub fn sign(&mut self, current: &TrustRoot, key: &SigningKey) -> Result<(), Failure> {
        let document = jws::sign(TYP, &self.next, key).map_err(Failure::of)?;
        // Too few signatures are no fault of a draft; everything else is.
        match SignedTrustRoot::of(vec![document.clone()]).succeed(current) {
            Ok(_) | Err(TrustError::TooFewSignatures { .. }) => {}
            Err(error) => return Err(Failure::of(error)),
        }
        self.take(current, vec![document]);
        Ok(())
    }

    /// The version with all of its signatures, if they are enough.
    pub fn finish(&self, current: &TrustRoot) -> Result<SignedTrustRoot, TrustError> {
        let signed = SignedTrustRoot::of(self.signatures.clone());
        signed.succeed(current)?;
        Ok(signed)
    }

    fn signers(&self, of: &TrustRoot) -> Vec<(PublicKey, bool)> {
        let has = |key: &PublicKey| self.signatures.iter().any(|s| signed(s, key).is_some());
        of.root.keys.iter().map(|key| (key.clone(), has(key))).collect()
    }
}

fn verify(chain: &[SignedTrustRoot]) -> Result<TrustRoot, TrustError> {
    let mut versions = chain.iter();
    let first = versions.next().ok_or(TrustError::Inconsistent)?.pin()?;
    versions.try_fold(first, |current, next| next.succeed(&current))
}

fn root_keys<'a>(
    current: &'a TrustRoot,
    next: &'a TrustRoot,
) -> impl Iterator<Item = &'a PublicKey> {
    current.root.keys.iter().chain(&next.root.keys)
}

/// What that key has signed there.
fn signed(signature: &CompactJws, key: &PublicKey) -> Option<TrustRoot> {
    let parsed = jws::parse(signature, TYP, limits::TRUST_ROOT_BYTES).ok()?;
    parsed.verify(key).ok()?;
    parsed.claims().ok()
}

/// Begins a draft of the version that follows the one in force.
pub async fn init(context: &Context, path: &Path) -> Result<Exit, Failure> {
    if path.exists() {
        return Err(Failure::new(format!("{} exists already", path.display())));
    }
    let chain: Vec<TrustView> = context.client()?.get("/v1/trust/chain").await?;
    let chain = chain.into_iter().map(|view| view.signed).collect();
    let draft = Draft::new(chain, context.now()).map_err(Failure::of)?;
    draft.save(path)?;
    show(context.out, &draft)?;
    context.out.note("change it with --draft; then carry it to the root keys: tocsin trust sign");
    Ok(Exit::Success)
}

/// Changes a draft.
pub fn change(context: &Context, path: &Path, change: &Change) -> Result<Exit, Failure> {
    let mut draft = Draft::load(path)?;
    let lost = draft.change(change)?;
    draft.save(path)?;
    show(context.out, &draft)?;
    if lost > 0 {
        context.out.note("what was signed before is void: it was signed without this change");
    }
    Ok(Exit::Success)
}

/// Signs a draft, offline.
pub async fn sign(context: &Context, args: SignArgs) -> Result<Exit, Failure> {
    let mut draft = Draft::load(&args.draft)?;
    let key = super::root_key(&args.root_key, args.passphrase_file.as_deref())?;
    let expected = args.in_force.as_deref();
    let current = draft.believe(key.public(), expected).map_err(|error| {
        let next = match &error {
            DraftError::Stranger => {
                "ask somebody whose key signed it for its fingerprint, by a way of your own, and \
                 give it with --in-force"
            }
            DraftError::Chain(_) | DraftError::OtherVersion { .. } => {
                "do not sign: treat the control plane as broken into"
            }
            DraftError::NoRootKey(_) => "is this the root key of this installation?",
        };
        Failure::of(error).next(next)
    })?;
    show(context.out, &draft)?;
    if !args.yes {
        ask::confirm(context.out, "\nSign exactly this?", &Demand::Yes).await?;
    }
    draft.sign(&current, &key)?;
    draft.save(&args.draft)?;
    progress(context.out, &draft, &current);
    Ok(Exit::Success)
}

/// Adds the signatures of other copies.
pub fn merge(context: &Context, path: &Path, others: &[PathBuf]) -> Result<Exit, Failure> {
    let mut draft = Draft::load(path)?;
    for other in others {
        draft.merge(Draft::load(other)?)?;
    }
    draft.save(path)?;
    show(context.out, &draft)?;
    Ok(Exit::Success)
}

/// Hands a version in that enough root keys have signed.
pub async fn publish(context: &Context, path: &Path) -> Result<Exit, Failure> {
    let draft = Draft::load(path)?;
    let current = draft.current().map_err(Failure::of)?;
    let signed = draft.finish(&current).map_err(Failure::of)?;
    let request = SucceedRequest { signed };
    let view: TrustView = context.client()?.create("/v1/trust", &request).await?;
    let out = context.out;
    out.object(&view);
    let done = out.paint(Tone::Good, "published");
    out.line(&format!("{done}: version {}, fingerprint {}", view.version, fingerprint(&view.root)));
    super::show::warn(out, &view.root);
    Ok(Exit::Success)
}

/// Shows what a draft would change, and who has signed it.
pub fn show(out: Out, draft: &Draft) -> Result<(), Failure> {
    let current = draft.current().map_err(Failure::of)?;
    let changes = change::describe(&current, &draft.next);
    let finished = draft.finish(&current).is_ok();
    out.object(&json!({
        "version": draft.next.version,
        "in_force": fingerprint(&current),
        "next": fingerprint(&draft.next),
        "changes": changes,
        "signatures": draft.signatures.len(),
        "finished": finished,
    }));
    let head = format!("draft of version {}", draft.next.version);
    out.line(&out.paint(Tone::Strong, &head));
    out.line(&format!("  in force  {}", fingerprint(&current)));
    out.line(&format!("  next      {}", fingerprint(&draft.next)));
    for change in &changes {
        out.line(&format!("  {change}"));
    }
    if changes.is_empty() {
        out.line("  changes nothing yet");
    }
    progress(out, draft, &current);
    super::show::warn(out, &draft.next);
    Ok(())
}

fn progress(out: Out, draft: &Draft, current: &TrustRoot) {
    for (of, whose) in [(current, "in force"), (&draft.next, "next")] {
        let signers = draft.signers(of);
        let have = signers.iter().filter(|(_, has)| *has).count();
        let needed = of.root.threshold;
        out.line(&format!("  signed by {have} of {needed} root keys of the version {whose}"));
        for (key, has) in signers {
            out.line(&format!("    {} {key}", if has { "x" } else { " " }));
        }
    }
    match draft.finish(current) {
        Ok(_) => out.note("enough have signed: tocsin trust publish"),
        Err(TrustError::TooFewSignatures { .. }) => {}
        Err(error) => out.note(&out.paint_note(Tone::Bad, &format!("! {error}"))),
    }
}
