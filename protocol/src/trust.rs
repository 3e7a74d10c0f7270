//! The trust root: which keys may order what, and how many people must agree.
//!
//! Pinned at enrollment, signed by offline root keys, and replaced only by the next version with
//! an unbroken chain of signatures, as The Update Framework does. What it does not name it
//! forbids.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::action::Verb;
use crate::id::{DeviceId, KeyId, PersonName};
use crate::jws::{self, CompactJws, JwsError, Parsed, Signer};
use crate::key::PublicKey;
use crate::limits;
use crate::manifest::Manifest;
use crate::state::VerbClass;
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// The media type of a trust root's JWS header.
pub const TYP: &str = "tocsin-trust-root+jws";

/// What a trust root says. Verbs are texts here: a newer root may name verbs that an older agent
/// does not know, and must still be accepted by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRoot {
    /// Counts up by one.
    pub version: u32,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Who may sign the next version.
    pub root: RootKeys,
    /// Who may sign envelopes.
    pub command_keys: Vec<CommandKey>,
    /// Who may approve.
    #[serde(default)]
    pub approvers: Vec<Approver>,
    /// How many different persons must approve, by verb. A destructive verb that is not named
    /// needs two, any other none.
    #[serde(default)]
    pub approvals: BTreeMap<String, u8>,
    /// Devices that need one approval more for anything but routine verbs.
    #[serde(default)]
    pub protected_devices: BTreeSet<DeviceId>,
}

/// The offline keys, and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKeys {
    /// The keys.
    pub keys: Vec<PublicKey>,
    /// How many different ones must sign; at least one.
    pub threshold: u8,
}

/// A key that signs envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandKey {
    /// The key.
    pub key: PublicKey,
    /// The verbs it may order.
    pub verbs: BTreeSet<String>,
}

/// A key that approves, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// The key.
    pub key: PublicKey,
    /// Its owner. A person with several keys counts once.
    pub person: PersonName,
}

/// Why a trust root is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read.
    #[error("a signature of the trust root cannot be read")]
    Document(#[from] JwsError),
    /// It carries no signature at all, or signatures over different texts.
    #[error("the trust root's signatures are not all over the same text")]
    Inconsistent,
    /// Too few of the root keys signed.
    #[error("signed by {signed} of {needed} root keys of version {version}")]
    TooFewSignatures {
        /// The version whose root keys were asked for.
        version: u32,
        /// How many of them signed.
        signed: usize,
        /// How many must.
        needed: u8,
    },
    /// Not the version that follows.
    #[error("version {offered} does not follow version {current}")]
    NotNext {
        /// The version in force.
        current: u32,
        /// The version offered.
        offered: u32,
    },
    /// It says something that cannot be meant.
    #[error("the trust root is not sound: {0}")]
    Unsound(&'static str),
}

/// A trust root as it travels: the same text, signed by one or more root keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignedTrustRoot(Vec<CompactJws>);

impl SignedTrustRoot {
    /// Signs a trust root with each of those keys.
    pub fn sign(root: &TrustRoot, signers: &[&dyn Signer]) -> Result<Self, JwsError> {
        signers
            .iter()
            .map(|signer| jws::sign(TYP, root, *signer))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The signatures, each a whole document.
    pub fn signatures(&self) -> &[CompactJws] {
        &self.0
    }

    /// Believes a first version, because of how it came: at enrollment, over a pinned connection.
    pub fn pin(&self) -> Result<TrustRoot, TrustError> {
        let (root, parsed) = self.open()?;
        root.root.require(root.version, &parsed)?;
        Ok(root)
    }

    /// Believes the version that follows `current`: signed by enough root keys of both.
    pub fn succeed(&self, current: &TrustRoot) -> Result<TrustRoot, TrustError> {
        let (root, parsed) = self.open()?;
        if current.version.checked_add(1) != Some(root.version) {
            return Err(TrustError::NotNext { current: current.version, offered: root.version });
        }
        current.root.require(current.version, &parsed)?;
        root.root.require(root.version, &parsed)?;
        Ok(root)
    }

    /// Reads what is signed, believing nothing yet.
    fn open(&self) -> Result<(TrustRoot, Vec<Parsed<'_>>), TrustError> {
        if self.0.len() > limits::APPROVALS {
            return Err(TrustError::Inconsistent);
        }
        // All of them travel in one frame: a root that no session can carry must not be accepted.
        if self.0.iter().map(|jws| jws.as_str().len()).sum::<usize>() > limits::TRUST_ROOT_BYTES {
            return Err(JwsError::TooLong { max: limits::TRUST_ROOT_BYTES }.into());
        }
        let parsed = self
            .0
            .iter()
            .map(|jws| jws::parse(jws, TYP, limits::TRUST_ROOT_BYTES))
            .collect::<Result<Vec<_>, _>>()?;
        let mut roots = parsed.iter().map(Parsed::claims::<TrustRoot>);
        let root = roots.next().ok_or(TrustError::Inconsistent)??;
        for other in roots {
            if other? != root {
                return Err(TrustError::Inconsistent);
            }
        }
        root.check()?;
        Ok((root, parsed))
    }
}

impl RootKeys {
    fn require(&self, version: u32, parsed: &[Parsed<'_>]) -> Result<(), TrustError> {
        let has_signed = |key: &&PublicKey| parsed.iter().any(|p| p.verify(*key).is_ok());
        let distinct: BTreeSet<_> = self.keys.iter().collect();
        let signed = distinct.into_iter().filter(has_signed).count();
        if signed >= usize::from(self.threshold.max(1)) {
            Ok(())
        } else {
            Err(TrustError::TooFewSignatures { version, signed, needed: self.threshold.max(1) })
        }
    }
}

impl TrustRoot {
    fn check(&self) -> Result<(), TrustError> {
        if self.root.threshold == 0 {
            return Err(TrustError::Unsound("the threshold of root keys is zero"));
        }
        if self.root.keys.len() < usize::from(self.root.threshold) {
            return Err(TrustError::Unsound("fewer root keys than must sign"));
        }
        let approver_keys: BTreeSet<_> = self.approvers.iter().map(|a| a.key.id()).collect();
        if approver_keys.len() != self.approvers.len() {
            return Err(TrustError::Unsound("an approver key is named twice"));
        }
        if self.command_keys.iter().any(|command| approver_keys.contains(command.key.id())) {
            return Err(TrustError::Unsound("a command key is an approver key as well"));
        }
        Ok(())
    }

    /// The command key of that name.
    pub fn command_key(&self, id: &KeyId) -> Option<&CommandKey> {
        self.command_keys.iter().find(|command| command.key.id() == id)
    }

    /// The approver whose key has that name.
    pub fn approver(&self, id: &KeyId) -> Option<&Approver> {
        self.approvers.iter().find(|approver| approver.key.id() == id)
    }

    /// How many different persons must approve this manifest before that device obeys.
    pub fn approvals_needed(&self, manifest: &Manifest, device: &DeviceId) -> u8 {
        let verb = manifest.action.verb();
        let is_many = match verb.class() {
            VerbClass::Disruptive => manifest.device_count > limits::DISRUPTIVE_DEVICES,
            VerbClass::Routine | VerbClass::Destructive => false,
        };
        let is_protected =
            verb.class() != VerbClass::Routine && self.protected_devices.contains(device);
        self.threshold(verb) + u8::from(is_many) + u8::from(is_protected)
    }

    /// How many different persons the verb needs on any device.
    fn threshold(&self, verb: Verb) -> u8 {
        let default = match verb.class() {
            VerbClass::Routine | VerbClass::Disruptive => 0,
            VerbClass::Destructive => 2,
        };
        self.approvals.get(verb.as_str()).copied().unwrap_or(default).min(u8::MAX - 2)
    }
}

impl CommandKey {
    /// Whether the key may order that verb.
    pub fn may_order(&self, verb: Verb) -> bool {
        self.verbs.contains(verb.as_str())
    }
}
