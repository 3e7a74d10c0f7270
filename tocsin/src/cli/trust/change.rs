//! Changes of the trust root: what each verb makes of a version.
//!
//! Owns the changes as values. Whether the whole is sound is the protocol's judgement, when it is
//! signed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use protocol::action::{ParseVerbError, Verb};
use protocol::id::{DeviceId, GroupName, PersonName};
use protocol::key::PublicKey;
use protocol::limits;
use protocol::state::VerbClass;
use protocol::trust::{Approver, AuthorityPin, CommandKey, Quorum, TrustRoot};

use super::Signing;
use crate::cli::Failure;
use crate::output::text;

/// Persons of the mass role who must sign, unless it is said otherwise.
const MASS: u8 = 3;

/// The verbs of `tocsin trust` that change what a version says.
#[derive(Debug, Subcommand)]
pub enum Change {
    /// Let a person's key approve
    AddApprover(Signed<AddApprover>),
    /// Let a person's key approve no more
    RemoveApprover(Signed<OneKey>),
    /// Say how many different persons must approve a verb, or sign together
    SetThreshold(Signed<SetThreshold>),
    /// Have devices refuse everything that destroys, whoever signs
    Protect(Signed<Devices>),
    /// Protect devices no more
    Unprotect(Signed<Devices>),
    /// Put devices into a group that needs more persons than others
    GroupDevices(Signed<Grouped>),
    /// Take devices out of such a group
    UngroupDevices(Signed<Grouped>),
    /// Say how long a verb that destroys waits on devices, so that it can be called back
    SetUndo(Signed<SetUndo>),
    /// End every freeze that was ordered before now
    EndFreezes(Signed<Nothing>),
    /// Let the control plane's keys order further verbs, after an upgrade
    AllowVerbs(Signed<Verbs>),
    /// Let a key sign the next versions
    AddRootKey(Signed<OneKey>),
    /// Let a key sign no next version
    RemoveRootKey(Signed<OneKey>),
    /// Let a control plane's key sign commands
    AddCommandKey(Signed<OneKey>),
    /// Let a control plane's key sign no more commands
    RemoveCommandKey(Signed<OneKey>),
    /// Have devices believe hubs and control planes of these authorities alone
    PinAuthority(Signed<Pins>),
    /// Have devices believe those of these authorities no more; of all of them: of any again
    UnpinAuthority(Signed<Pins>),
}

/// A change, and how it is signed.
#[derive(Debug, Clone, Args)]
pub struct Signed<T: Args> {
    /// The change.
    #[command(flatten)]
    pub change: T,
    /// How it is signed.
    #[command(flatten)]
    pub signing: Signing,
}

/// Arguments of `tocsin trust add-approver`.
#[derive(Debug, Clone, Args)]
pub struct AddApprover {
    /// The key, `ed25519:…`, as `tocsin key new` prints it
    pub public_key: PublicKey,
    /// Whose it is. A person with several keys counts once
    #[arg(long)]
    pub person: PersonName,
    /// Which operator that person is, beside one of the same name: what that operator asks for somebody
    /// else approves; may be repeated
    #[arg(long = "operator", value_name = "NAME")]
    pub operators: Vec<PersonName>,
    /// What the key is for. One for `mass` or `break-glass` approves nothing else
    #[arg(long, value_enum, default_value_t = KeyRole::Approver)]
    pub role: KeyRole,
}

/// What a key that approves is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyRole {
    /// Orders that need approvals
    Approver,
    /// Orders that destroy on more than 10 devices; to be kept offline
    Mass,
    /// Orders that can be undone, in place of the approvers; loud
    BreakGlass,
}

/// One key.
#[derive(Debug, Clone, Args)]
pub struct OneKey {
    /// The key, `ed25519:…`
    pub public_key: PublicKey,
}

/// Arguments of `tocsin trust set-threshold`.
#[derive(Debug, Clone, Args)]
pub struct SetThreshold {
    /// A verb, or `root`, `mass` or `break-glass`
    #[arg(value_name = "WHAT", value_parser = what)]
    pub what: What,
    /// How many persons; of `root`, how many keys
    #[arg(value_parser = clap::value_parser!(u8).range(0..=16))]
    pub persons: u8,
    /// On the devices of this group only, if it is more than elsewhere
    #[arg(long)]
    pub group: Option<GroupName>,
}

/// Arguments of `tocsin trust set-undo`.
#[derive(Debug, Clone, Args)]
pub struct SetUndo {
    /// The verb
    #[arg(value_parser = verb)]
    pub verb: Verb,
    /// How long at least, such as 10m; a day at most, 0s for as long as the order says
    #[arg(value_parser = crate::cli::order::duration)]
    pub least: Duration,
}

/// No argument.
#[derive(Debug, Clone, Args)]
pub struct Nothing {}

/// Authorities.
#[derive(Debug, Clone, Args)]
pub struct Pins {
    /// Their pins, as `tocsin authority show` and `prepare` print them; two at least, one of them the
    /// backup
    #[arg(required = true, value_name = "PIN")]
    pub pins: Vec<AuthorityPin>,
}

/// Verbs.
#[derive(Debug, Clone, Args)]
pub struct Verbs {
    /// The verbs
    #[arg(required = true, value_name = "VERB", value_parser = verb)]
    pub verbs: Vec<Verb>,
}

fn verb(text: &str) -> Result<Verb, String> {
    text.replace('-', "_").parse().map_err(|error: ParseVerbError| error.to_string())
}

/// What has a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Orders of that verb.
    Verb(Verb),
    /// The next version of the trust root.
    Root,
    /// What destroys on many devices.
    Mass,
    /// Break-glass.
    BreakGlass,
}

fn what(text: &str) -> Result<What, String> {
    match text {
        "root" => Ok(What::Root),
        "mass" => Ok(What::Mass),
        "break-glass" | "break_glass" => Ok(What::BreakGlass),
        verb => verb.replace('-', "_").parse().map(What::Verb).map_err(|error| {
            format!("{error}; what has a threshold beside verbs: root, mass, break-glass")
        }),
    }
}

/// Devices, by id: a name would be the control plane's word.
#[derive(Debug, Clone, Args)]
pub struct Devices {
    /// Ids of devices, as `tocsin-agent status` tells them on the device
    #[arg(required = true, value_name = "DEVICE-ID")]
    pub devices: Vec<DeviceId>,
}

/// Devices and their group.
#[derive(Debug, Clone, Args)]
pub struct Grouped {
    /// The group, as the trust root calls it
    pub group: GroupName,
    /// The devices.
    #[command(flatten)]
    pub devices: Devices,
}

impl Change {
    /// How it is signed.
    pub const fn signing(&self) -> &Signing {
        match self {
            Self::AddApprover(signed) => &signed.signing,
            Self::RemoveApprover(signed)
            | Self::AddRootKey(signed)
            | Self::RemoveRootKey(signed)
            | Self::AddCommandKey(signed)
            | Self::RemoveCommandKey(signed) => &signed.signing,
            Self::SetThreshold(signed) => &signed.signing,
            Self::SetUndo(signed) => &signed.signing,
            Self::EndFreezes(signed) => &signed.signing,
            Self::AllowVerbs(signed) => &signed.signing,
            Self::Protect(signed) | Self::Unprotect(signed) => &signed.signing,
            Self::GroupDevices(signed) | Self::UngroupDevices(signed) => &signed.signing,
            Self::PinAuthority(signed) | Self::UnpinAuthority(signed) => &signed.signing,
        }
    }

    /// Makes the change.
    pub fn apply(&self, root: &mut TrustRoot) -> Result<(), Failure> {
        match self {
            Self::AddApprover(signed) => add_approver(root, &signed.change),
            Self::RemoveApprover(signed) => remove_approver(root, &signed.change.public_key),
            Self::SetThreshold(signed) => set_threshold(root, &signed.change),
            Self::SetUndo(signed) => set_undo(root, &signed.change),
            Self::EndFreezes(_) => {
                root.thawed_at = Some(root.issued_at);
                Ok(())
            }
            Self::AllowVerbs(signed) => {
                let verbs = || signed.change.verbs.iter().map(|verb| verb.as_str().to_owned());
                for command in &mut root.command_keys {
                    command.verbs.extend(verbs());
                }
                Ok(())
            }
            Self::Protect(signed) => {
                root.protected_devices.extend(&signed.change.devices);
                Ok(())
            }
            Self::Unprotect(signed) => {
                take_out(&mut root.protected_devices, &signed.change.devices, "protected")
            }
            Self::GroupDevices(Signed { change, .. }) => {
                let group = root.groups.entry(change.group.clone()).or_default();
                group.devices.extend(&change.devices.devices);
                Ok(())
            }
            Self::UngroupDevices(Signed { change, .. }) => ungroup(root, change),
            Self::AddRootKey(signed) => {
                add_key(&mut root.root.keys, &signed.change.public_key, "a root key")
            }
            Self::RemoveRootKey(signed) => {
                let keys = &mut root.root.keys;
                remove(keys, |key| *key == signed.change.public_key, "no root key")
            }
            Self::AddCommandKey(signed) => add_command_key(root, &signed.change.public_key),
            Self::RemoveCommandKey(signed) => {
                let is_it = |command: &CommandKey| command.key == signed.change.public_key;
                remove(&mut root.command_keys, is_it, "no command key")
            }
            Self::PinAuthority(signed) => {
                root.authority_pins.extend(&signed.change.pins);
                Ok(())
            }
            Self::UnpinAuthority(signed) => {
                take_out(&mut root.authority_pins, &signed.change.pins, "pinned")
            }
        }
    }
}

fn add_approver(root: &mut TrustRoot, added: &AddApprover) -> Result<(), Failure> {
    if let Some((role, known)) = root.signer(added.public_key.id()) {
        let text = format!("that key is {}'s already, as {}", known.person, role.as_str());
        return Err(Failure::new(text));
    }
    let approver = Approver {
        key: added.public_key.clone(),
        person: added.person.clone(),
        operators: added.operators.iter().cloned().collect(),
    };
    let quorum = |threshold| Quorum { approvers: Vec::new(), threshold };
    match added.role {
        KeyRole::Approver => root.approvers.push(approver),
        KeyRole::Mass => root.mass.get_or_insert(quorum(MASS)).approvers.push(approver),
        KeyRole::BreakGlass => {
            root.break_glass.get_or_insert(quorum(1)).approvers.push(approver);
        }
    }
    Ok(())
}

/// A role without keys is no role.
fn remove_approver(root: &mut TrustRoot, key: &PublicKey) -> Result<(), Failure> {
    if root.signer(key.id()).is_none() {
        return Err(Failure::new("that key is no approver's"));
    }
    root.approvers.retain(|approver| approver.key != *key);
    for role in [&mut root.mass, &mut root.break_glass] {
        if let Some(quorum) = role {
            quorum.approvers.retain(|approver| approver.key != *key);
        }
        role.take_if(|quorum| quorum.approvers.is_empty());
    }
    Ok(())
}

fn set_threshold(root: &mut TrustRoot, set: &SetThreshold) -> Result<(), Failure> {
    let missing = |role: &str| {
        Failure::new(format!("nobody is of {role}"))
            .next(format!("tocsin trust add-approver KEY --person NAME --role {role}"))
    };
    match (set.what, &set.group) {
        (What::Verb(verb), None) => {
            root.approvals.insert(verb.as_str().to_owned(), set.persons);
        }
        (What::Verb(verb), Some(group)) => {
            let group = root.groups.get_mut(group).ok_or_else(|| {
                Failure::new(format!("the trust root has no group {group}"))
                    .next("tocsin trust group-devices GROUP DEVICE-ID…")
            })?;
            group.approvals.insert(verb.as_str().to_owned(), set.persons);
        }
        (What::Root | What::Mass | What::BreakGlass, Some(_)) => {
            return Err(Failure::usage("only verbs have a threshold by group"));
        }
        (What::Root, None) => root.root.threshold = set.persons,
        (What::Mass, None) => {
            root.mass.as_mut().ok_or_else(|| missing("mass"))?.threshold = set.persons;
        }
        (What::BreakGlass, None) => {
            let quorum = root.break_glass.as_mut().ok_or_else(|| missing("break-glass"))?;
            quorum.threshold = set.persons;
        }
    }
    Ok(())
}

fn set_undo(root: &mut TrustRoot, set: &SetUndo) -> Result<(), Failure> {
    match set.verb.class() {
        VerbClass::Destructive => {}
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => {
            return Err(Failure::usage("only what destroys has an undo window"));
        }
    }
    if set.least > limits::UNDO_WINDOW {
        return Err(Failure::usage("an undo window lasts a day at most"));
    }
    let verb = set.verb.as_str();
    root.undo_secs.remove(verb);
    let secs = u32::try_from(set.least.as_secs()).unwrap_or(u32::MAX);
    root.undo_secs.extend((secs > 0).then(|| (verb.to_owned(), secs)));
    Ok(())
}

fn ungroup(root: &mut TrustRoot, change: &Grouped) -> Result<(), Failure> {
    let group = root.groups.get_mut(&change.group);
    let group = group.ok_or_else(|| Failure::new("the trust root has no such group"))?;
    take_out(&mut group.devices, &change.devices.devices, "of that group")?;
    if group.devices.is_empty() {
        root.groups.remove(&change.group);
    }
    Ok(())
}

fn take_out<T: Copy + Ord + fmt::Display>(
    from: &mut BTreeSet<T>,
    those: &[T],
    what: &str,
) -> Result<(), Failure> {
    match those.iter().find(|one| !from.contains(one)) {
        Some(stranger) => Err(Failure::new(format!("{stranger} is not {what}"))),
        None => {
            from.retain(|one| !those.contains(one));
            Ok(())
        }
    }
}

fn add_key(keys: &mut Vec<PublicKey>, key: &PublicKey, what: &str) -> Result<(), Failure> {
    if keys.contains(key) {
        return Err(Failure::new(format!("that is {what} already")));
    }
    keys.push(key.clone());
    Ok(())
}

/// A further key of the control plane may order what the former ones may.
fn add_command_key(root: &mut TrustRoot, key: &PublicKey) -> Result<(), Failure> {
    if root.command_key(key.id()).is_some() {
        return Err(Failure::new("that is a command key already"));
    }
    let verbs = root.command_keys.iter().flat_map(|command| command.verbs.clone()).collect();
    root.command_keys.push(CommandKey { key: key.clone(), verbs });
    Ok(())
}

fn remove<T>(from: &mut Vec<T>, is_it: impl Fn(&T) -> bool, what: &str) -> Result<(), Failure> {
    let before = from.len();
    from.retain(|one| !is_it(one));
    if from.len() == before { Err(Failure::new(format!("that is {what}"))) } else { Ok(()) }
}

/// What a version changes, in sentences for whoever signs it. Nothing is left out: what no
/// sentence is about is shown as it is written.
pub fn describe(current: &TrustRoot, next: &TrustRoot) -> Vec<String> {
    let mut said = Vec::new();
    let mut compare = |what: &str, before: BTreeSet<String>, after: BTreeSet<String>| {
        said.extend(before.difference(&after).map(|line| format!("- {what} {line}")));
        said.extend(after.difference(&before).map(|line| format!("+ {what} {line}")));
    };
    let roots = |root: &TrustRoot| root.root.keys.iter().map(ToString::to_string).collect();
    compare("root key", roots(current), roots(next));
    let of = |root: &TrustRoot| BTreeSet::from([root.root.threshold.to_string()]);
    compare("root keys that must sign:", of(current), of(next));
    let commands = |root: &TrustRoot| root.command_keys.iter().map(command_key).collect();
    compare("command key", commands(current), commands(next));
    let approvers = |root: &TrustRoot| root.approvers.iter().map(approver).collect();
    compare("approver", approvers(current), approvers(next));
    for (what, before, after) in [
        ("mass", &current.mass, &next.mass),
        ("break-glass", &current.break_glass, &next.break_glass),
    ] {
        compare(what, quorum(before), quorum(after));
    }
    let thresholds = |root: &TrustRoot| {
        Verb::ALL.map(|verb| format!("{verb}: {}", root.threshold_anywhere(verb))).into()
    };
    compare("persons for", thresholds(current), thresholds(next));
    let protected = |root: &TrustRoot| root.protected_devices.iter().map(text_of).collect();
    compare("protected device", protected(current), protected(next));
    let groups = |root: &TrustRoot| root.groups.iter().flat_map(group).collect();
    compare("group", groups(current), groups(next));
    compare("undo window of", undo_windows(current), undo_windows(next));
    let thawed = |root: &TrustRoot| {
        root.thawed_at.iter().map(|at| api::time::Time(*at).to_string()).collect()
    };
    let pins = |root: &TrustRoot| root.authority_pins.iter().map(ToString::to_string).collect();
    compare("authority that is believed", pins(current), pins(next));
    compare("freezes end that were ordered before", thawed(current), thawed(next));
    if said.is_empty() && current.approvals != next.approvals {
        said.push(format!("approvals: {:?} instead of {:?}", next.approvals, current.approvals));
    }
    said
}

fn undo_windows(root: &TrustRoot) -> BTreeSet<String> {
    let windows = root.undo_secs.iter();
    windows.map(|(verb, secs)| format!("{}: at least {secs} s", text::clean(verb))).collect()
}

fn text_of(device: &DeviceId) -> String {
    device.to_string()
}

fn approver(approver: &Approver) -> String {
    format!("{} {}", approver.person, approver.key)
}

fn command_key(command: &CommandKey) -> String {
    let verbs: Vec<_> = command.verbs.iter().map(|verb| text::clean(verb)).collect();
    format!("{} for {}", command.key, verbs.join(", "))
}

fn quorum(quorum: &Option<Quorum>) -> BTreeSet<String> {
    let lines = quorum.iter().flat_map(|quorum| {
        let must = format!("persons who must sign: {}", quorum.threshold);
        quorum.approvers.iter().map(approver).chain([must])
    });
    lines.collect()
}

fn group((name, group): (&GroupName, &protocol::trust::TrustGroup)) -> Vec<String> {
    let devices = group.devices.iter().map(|device| format!("{name} {device}"));
    let persons = group
        .approvals
        .iter()
        .map(|(verb, persons)| format!("{name} persons for {}: {persons}", text::clean(verb)));
    devices.chain(persons).collect()
}
