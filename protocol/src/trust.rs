//! The trust root: which keys may order what, and how many people must agree.
//!
//! Pinned at enrollment, signed by offline root keys, and replaced only by the next version with
//! an unbroken chain of signatures, as The Update Framework does. What it does not name it
//! forbids.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::action::Verb;
use crate::id::{DeviceId, GroupName, KeyId, PersonName};
use crate::jws::{self, CompactJws, JwsError, Parsed, Signer};
use crate::key::PublicKey;
use crate::limits;
use crate::time::Timestamp;

pub use self::pin::{AuthorityPin, ParsePinError};
pub use self::rules::{Approved, Authority, Forbidden, Needs, Role, Tally};

mod pin;
mod rules;
#[cfg(test)]
mod tests;

/// The media type of a trust root's JWS header.
pub const TYP: &str = "tocsin-trust-root+jws";

/// The most authorities that a trust root pins.
pub const AUTHORITY_PINS: usize = 8;

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
    /// needs two, a script one, any other none.
    #[serde(default)]
    pub approvals: BTreeMap<String, u8>,
    /// Devices on which nothing destructive is done, whoever signs, and which need one approval
    /// more for anything disruptive.
    #[serde(default)]
    pub protected_devices: BTreeSet<DeviceId>,
    /// Devices that need more persons than others, by the name of their group here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<GroupName, TrustGroup>,
    /// Who together may let one order destroy on more than a few devices. Nobody: it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mass: Option<Quorum>,
    /// Who may stand in for the approvers of what can be undone. Loud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<Quorum>,
    /// The shortest undo window, in seconds, by verb that destroys. None where it is not named: then
    /// the order's own counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undo_secs: BTreeMap<String, u32>,
    /// Freezes whose validity began before this are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thawed_at: Option<Timestamp>,
    /// The keys of the authorities that hubs and control plane may have, one of them not in use: the
    /// backup. None: any authority that the control plane names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub authority_pins: BTreeSet<AuthorityPin>,
}

/// Devices for which an order needs more persons than elsewhere. They are listed one by one,
/// since a device believes no control plane about the groups that it is in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustGroup {
    /// The devices.
    pub devices: BTreeSet<DeviceId>,
    /// How many different persons must approve, by verb. Less than elsewhere counts for nothing.
    pub approvals: BTreeMap<String, u8>,
}

/// Keys that are kept for one purpose, and how many of their owners must sign together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// The keys. They approve nothing else.
    pub approvers: Vec<Approver>,
    /// How many different persons must sign.
    pub threshold: u8,
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
    /// The operators that its owner is for the control plane, beside one of the same name: orders
    /// that these asked for somebody else approves.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub operators: BTreeSet<PersonName>,
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

    /// Signatures that were made apart, each a whole document.
    pub const fn of(signatures: Vec<CompactJws>) -> Self {
        Self(signatures)
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
        let root_keys: BTreeSet<_> = self.root.keys.iter().map(PublicKey::id).collect();
        if root_keys.len() < usize::from(self.root.threshold) {
            return Err(TrustError::Unsound("fewer root keys than must sign"));
        }
        let every = || self.signers().map(|(_, approver)| approver);
        let approver_keys: BTreeSet<_> = every().map(|a| a.key.id()).collect();
        if approver_keys.len() != every().count() {
            return Err(TrustError::Unsound("an approver key is named twice"));
        }
        if self.command_keys.iter().any(|command| approver_keys.contains(command.key.id())) {
            return Err(TrustError::Unsound("a command key is an approver key as well"));
        }
        match self.authority_pins.len() {
            0 | 2..=AUTHORITY_PINS => {}
            1 => return Err(TrustError::Unsound("one authority is pinned, and no backup")),
            _ => return Err(TrustError::Unsound("too many authorities are pinned")),
        }
        if let Some(mass) = &self.mass {
            mass.check(2, "the mass role must take at least two persons, and have them")?;
        }
        if let Some(break_glass) = &self.break_glass {
            break_glass.check(1, "break-glass must take at least one person, and have them")?;
        }
        Ok(())
    }

    /// Whether an authority with that key may vouch for hubs and control plane.
    pub fn may_vouch(&self, pin: AuthorityPin) -> bool {
        self.authority_pins.is_empty() || self.authority_pins.contains(&pin)
    }

    /// Every key that approves, with what it is for.
    fn signers(&self) -> impl Iterator<Item = (Role, &Approver)> {
        let ordinary = self.approvers.iter().map(|approver| (Role::Approver, approver));
        let mass = self.mass.iter().flat_map(|quorum| &quorum.approvers);
        let glass = self.break_glass.iter().flat_map(|quorum| &quorum.approvers);
        let mass = mass.map(|approver| (Role::Mass, approver));
        ordinary.chain(mass).chain(glass.map(|approver| (Role::BreakGlass, approver)))
    }

    /// The command key of that name.
    pub fn command_key(&self, id: &KeyId) -> Option<&CommandKey> {
        self.command_keys.iter().find(|command| command.key.id() == id)
    }

    /// The approver whose key has that name, and what the key is for.
    pub fn signer(&self, id: &KeyId) -> Option<(Role, &Approver)> {
        self.signers().find(|(_, approver)| approver.key.id() == id)
    }
}

impl Quorum {
    fn check(&self, least: u8, problem: &'static str) -> Result<(), TrustError> {
        let persons: BTreeSet<_> = self.approvers.iter().map(|a| &a.person).collect();
        if self.threshold >= least && persons.len() >= usize::from(self.threshold) {
            Ok(())
        } else {
            Err(TrustError::Unsound(problem))
        }
    }
}

impl CommandKey {
    /// Whether the key may order that verb.
    pub fn may_order(&self, verb: Verb) -> bool {
        self.verbs.contains(verb.as_str())
    }
}
