//! The rules of the verb classes: what an order needs, and what no order can do.
//!
//! Owns the judgement that devices make. The control plane judges beforehand by the same
//! functions, so that it refuses what devices would refuse; only theirs counts.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Approver, Quorum, TrustRoot};
use crate::action::Verb;
use crate::id::{DeviceId, PersonName};
use crate::limits;
use crate::manifest::Manifest;
use crate::receipt::RefusalReason;
use crate::state::VerbClass;
use crate::time::Timestamp;

/// What a key that approves is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Approves what needs approvals.
    Approver,
    /// Approves what destroys on many devices, and nothing else.
    Mass,
    /// Stands in for approvers, for what can be undone.
    BreakGlass,
}

impl Role {
    /// The role as events and the command line spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approver => "approver",
            Self::Mass => "mass",
            Self::BreakGlass => "break_glass",
        }
    }
}

/// An approval whose signature holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approved<'a> {
    /// Whose key signed.
    pub approver: &'a Approver,
    /// What that key is for.
    pub role: Role,
    /// When, by the approver's clock.
    pub approved_at: Timestamp,
}

impl Approved<'_> {
    /// Whether a key whose approvals end soon was used before its time: it would end later.
    pub fn is_early(&self, now: Timestamp) -> bool {
        self.role == Role::BreakGlass && self.approved_at > now.plus(limits::CLOCK_SKEW)
    }
}

/// What no signature makes possible on a device under its trust root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The device is protected from what destroys.
    #[error("the trust root protects this device from {0}")]
    Protected(Verb),
    /// The manifest names more devices than its class may.
    #[error("{count} devices, at most {most}")]
    TooManyDevices {
        /// How many it names.
        count: u32,
        /// How many it may.
        most: u32,
    },
}

impl Forbidden {
    /// The reason of the refusal.
    pub const fn reason(&self) -> RefusalReason {
        match self {
            Self::Protected(_) => RefusalReason::ProtectedDevice,
            Self::TooManyDevices { .. } => RefusalReason::TooManyDevices,
        }
    }
}

/// Who must approve an order before a device obeys it. Persons count, never keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// How many different persons.
    pub persons: u8,
    /// How many of them with a key of the mass role.
    pub mass: u8,
    /// How many of break-glass suffice without anybody else, where they may stand in.
    pub break_glass: Option<u8>,
}

/// On whose word an order is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The approvers that it needs, which may be none.
    Approvers,
    /// Break-glass in their place.
    BreakGlass,
}

/// The persons who approved an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally<'a> {
    persons: BTreeSet<&'a PersonName>,
    mass: BTreeSet<&'a PersonName>,
    break_glass: BTreeSet<&'a PersonName>,
}

impl<'a> Tally<'a> {
    /// Counts one more approval.
    pub fn count(&mut self, approved: Approved<'a>) {
        let person = &approved.approver.person;
        match approved.role {
            Role::Approver => {
                self.persons.insert(person);
            }
            Role::Mass => {
                self.persons.insert(person);
                self.mass.insert(person);
            }
            Role::BreakGlass => {
                self.break_glass.insert(person);
            }
        }
    }

    /// How many different persons approved, break-glass aside.
    pub fn persons(&self) -> usize {
        self.persons.len()
    }

    /// How many of them with a key of the mass role.
    pub fn mass(&self) -> usize {
        self.mass.len()
    }

    /// The persons of break-glass who approved.
    pub fn break_glass(&self) -> impl Iterator<Item = &'a PersonName> {
        self.break_glass.iter().copied()
    }

    /// On whose word an order of those needs is carried out now, if on any.
    pub fn authority(&self, needs: Needs) -> Option<Authority> {
        let has = |persons: &BTreeSet<_>, needed: u8| persons.len() >= usize::from(needed);
        if has(&self.persons, needs.persons) && has(&self.mass, needs.mass) {
            return Some(Authority::Approvers);
        }
        let is_broken = needs.break_glass.is_some_and(|needed| has(&self.break_glass, needed));
        is_broken.then_some(Authority::BreakGlass)
    }
}

impl TrustRoot {
    /// How many persons must approve this manifest before that device obeys: as [`Self::needs`]
    /// says, or none where nobody can.
    pub fn approvals_needed(&self, manifest: &Manifest, device: &DeviceId) -> u8 {
        self.needs(manifest, device).map_or(0, |needs| needs.persons)
    }

    /// Who must approve this manifest before that device obeys.
    ///
    /// # Errors
    /// [`Forbidden`] when nobody can approve it.
    pub fn needs(&self, manifest: &Manifest, device: &DeviceId) -> Result<Needs, Forbidden> {
        let verb = manifest.action.verb();
        let count = manifest.device_count;
        let is_protected = self.protected_devices.contains(device);
        // Whoever holds a code could end it alone, and an order that ends by itself or spares
        // somebody takes the place of one that does not: so many must agree as must to let go.
        let end = manifest.lets_go().map_or(0, |end| self.threshold(end, device));
        let persons = self.threshold(verb, device).max(end);
        match verb.class() {
            // Who stops must not have to look for somebody else.
            VerbClass::Routine | VerbClass::Stop => Ok(Needs { persons, ..Needs::default() }),
            VerbClass::Disruptive => {
                let is_many = count > limits::DISRUPTIVE_DEVICES;
                Ok(Needs {
                    persons: persons + u8::from(is_many) + u8::from(is_protected),
                    mass: 0,
                    break_glass: self.stands_in(manifest).map(|quorum| quorum.threshold.max(1)),
                })
            }
            VerbClass::Destructive if is_protected => Err(Forbidden::Protected(verb)),
            VerbClass::Destructive if is_mass(manifest) => match &self.mass {
                Some(mass) => {
                    let mass = mass.threshold.max(2);
                    Ok(Needs { persons: persons.max(mass), mass, break_glass: None })
                }
                None => Err(Forbidden::TooManyDevices { count, most: limits::DESTRUCTIVE_DEVICES }),
            },
            VerbClass::Destructive => Ok(Needs { persons, ..Needs::default() }),
        }
    }

    /// Whether a key that is for that may approve such an order at all.
    pub(crate) fn admits(&self, role: Role, manifest: &Manifest, approved_at: Timestamp) -> bool {
        match role {
            Role::Approver => true,
            Role::Mass => {
                manifest.action.verb().class() == VerbClass::Destructive && is_mass(manifest)
            }
            Role::BreakGlass => {
                let lasts = manifest.expires_at.since(approved_at);
                self.stands_in(manifest).is_some() && lasts <= limits::BREAK_GLASS_VALIDITY
            }
        }
    }

    /// Whether that person asked for the order themselves. A person is whoever any of their keys says.
    pub fn asked_for(&self, person: &PersonName, manifest: &Manifest) -> bool {
        let Some(requester) = &manifest.requested_by else { return false };
        let of_person = |approver: &Approver| {
            approver.person == *person && approver.operators.contains(requester)
        };
        requester == person || self.signers().any(|(_, approver)| of_person(approver))
    }

    /// Break-glass, where it may stand in for approvers: on a few devices, for what can be undone.
    fn stands_in(&self, manifest: &Manifest) -> Option<&Quorum> {
        let is_few = manifest.device_count <= limits::BREAK_GLASS_DEVICES;
        let verb = manifest.action.verb();
        // What destroys could go on after a thaw, nobody can undo what a script did, and nobody makes
        // whoever has read a credential forget it.
        let is_final = matches!(verb, Verb::Thaw | Verb::RunScript | Verb::RotateCredentials);
        let can_be_undone = verb.class() == VerbClass::Disruptive && !is_final;
        self.break_glass.as_ref().filter(|_| is_few && can_be_undone)
    }

    /// How many different persons the verb needs on that device, however many it is about.
    pub fn threshold(&self, verb: Verb, device: &DeviceId) -> u8 {
        let groups = self.groups.values().filter(|group| group.devices.contains(device));
        let of_groups = groups.filter_map(|group| group.approvals.get(verb.as_str())).max();
        let of_groups = of_groups.copied().unwrap_or(0);
        if verb == Verb::Thaw && !self.approvals.contains_key(verb.as_str()) {
            return self.threshold(Verb::Wipe, device).max(of_groups);
        }
        self.threshold_anywhere(verb).max(of_groups).min(u8::MAX - 2)
    }

    /// How many different persons the verb needs on any device. To let destruction go on takes as
    /// many as to destroy.
    pub fn threshold_anywhere(&self, verb: Verb) -> u8 {
        let default = match verb.class() {
            VerbClass::Disruptive if verb == Verb::Thaw => self.threshold_anywhere(Verb::Wipe),
            // Whoever may run any program as root may do all that the other verbs guard.
            VerbClass::Disruptive if verb == Verb::RunScript => 1,
            // The order names whose key reads the new credential.
            VerbClass::Disruptive if verb == Verb::RotateCredentials => 1,
            VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => 0,
            VerbClass::Destructive => 2,
        };
        self.approvals.get(verb.as_str()).copied().unwrap_or(default)
    }

    /// How long a device waits before it begins what that manifest orders: what the manifest says,
    /// or longer where this asks for it. Nothing, for what destroys nothing.
    pub fn undo_window(&self, manifest: &Manifest) -> Duration {
        let verb = manifest.action.verb();
        match verb.class() {
            VerbClass::Destructive => {}
            VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => return Duration::ZERO,
        }
        let least = self.undo_secs.get(verb.as_str()).copied().unwrap_or(0);
        let asked = manifest.undo_secs.unwrap_or(0);
        Duration::from_secs(least.max(asked).into()).min(limits::UNDO_WINDOW)
    }

    /// Whether this ends a freeze whose validity began then.
    pub fn has_thawed(&self, ordered_at: Timestamp) -> bool {
        self.thawed_at.is_some_and(|thawed_at| ordered_at < thawed_at)
    }
}

const fn is_mass(manifest: &Manifest) -> bool {
    manifest.device_count > limits::DESTRUCTIVE_DEVICES
}
