//! From a request to a plan: which devices, how many approvals, until when.
//!
//! Owns every check of an order before anything is written. A plan exists only for devices that
//! the permit reaches, each of them checked: an order for one device too many is no order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::action::{Action, Freeze, Verb, is_printable};
use protocol::envelope::longest_validity;
use protocol::id::{DeviceId, OrderId};
use protocol::limits;
use protocol::manifest::{DeviceTree, Hash, Manifest};
use protocol::receipt::Outcome;
use protocol::state::VerbClass;
use protocol::time::Timestamp;
use protocol::trust::{Forbidden, Needs, TrustRoot};

use super::waves::Waves;
use super::wire::{CreateOrder, Targets};
use super::{hold, store};
use crate::auth::{Permit, Reach, ability};
use crate::db::Conn;
use crate::devices::{self, Device};
use crate::http::Problem;

/// How long an order is valid when the request does not say.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// The shortest validity: below, no device on a lower rung could ever take it.
const SHORTEST_VALIDITY: Duration = Duration::from_secs(10);

/// Devices of one order. What is more than one piece is written in several transactions, and held in
/// memory meanwhile: some 5 MiB.
const ORDER_DEVICES: u32 = 10_000;

/// Devices as they are in the transaction of the plan, read together for several of them.
pub(super) type Known = BTreeMap<DeviceId, Device>;

/// An order that may be given.
#[derive(Debug)]
pub(super) struct Plan {
    manifest: Manifest,
    tree: DeviceTree,
    devices: Vec<Device>,
    reason: Option<String>,
    script: Option<String>,
    first_wave: Option<u32>,
    accept_cloned: bool,
    skipped: u32,
}

impl Plan {
    /// Checks a request against the permit, and against what the store says of its devices: where not all
    /// of them are known already, it is asked.
    pub(super) async fn new(
        (conn, known, policy): (&mut Conn, &Known, &Waves),
        permit: &Permit<ability::Order>,
        asked: &CreateOrder,
        order_id: OrderId,
        now: Timestamp,
    ) -> Result<Self, Problem> {
        let reason = reason(asked)?;
        let validity = validity(asked)?;
        asked.action.check().map_err(|e| Problem::field("/action/params", e.to_string()))?;
        ends(asked, now)?;
        if !asked.action.goes_with(asked.script.as_deref()) {
            let detail = "must be the script that the action names by its hash, and readable";
            return Err(Problem::field("/script", detail));
        }
        let Targeted { devices, skipped } = targets((conn, known), permit, asked).await?;
        let no_devices = || Problem::field("/targets", nobody(asked, skipped));
        let tree = DeviceTree::new(devices.keys().copied()).ok_or_else(no_devices)?;
        let device_count = u32::try_from(tree.devices().len())
            .ok()
            .filter(|count| *count <= ORDER_DEVICES)
            .ok_or_else(|| {
                let detail = format!("name more than {ORDER_DEVICES} devices; split the order");
                Problem::field("/targets", detail)
            })?;
        let plans = plans(conn, asked, &devices).await?;
        let manifest = Manifest {
            plans,
            order_id,
            action: asked.action.clone(),
            expires_at: now.plus(validity).whole_secs(),
            device_count,
            device_root: tree.root(),
            undo_secs: undo_secs(asked)?,
            offline_codes: offline_codes(asked, &devices)?,
            requested_by: Some(permit.person().clone()),
            simulated: asked.simulated,
        };
        let first_wave = first_wave(policy, asked, device_count)?;
        let (devices, script) = (devices.into_values().collect(), asked.script.clone());
        let accept_cloned = asked.accept_cloned;
        Ok(Self { manifest, tree, devices, reason, script, first_wave, accept_cloned, skipped })
    }

    /// A freeze of devices that the brake orders: nobody asked for it.
    pub(super) fn freeze(
        devices: Vec<Device>,
        (until, reason): (Timestamp, String),
        order_id: OrderId,
    ) -> Option<Self> {
        let tree = DeviceTree::new(devices.iter().map(|device| device.id))?;
        let manifest = Manifest {
            plans: BTreeMap::new(),
            order_id,
            action: Action::Freeze(Freeze { until }),
            expires_at: until,
            device_count: u32::try_from(devices.len()).ok()?,
            device_root: tree.root(),
            undo_secs: None,
            offline_codes: BTreeMap::new(),
            requested_by: None,
            simulated: false,
        };
        let (reason, script, first_wave) = (Some(reason), None, None);
        let (accept_cloned, skipped) = (false, 0);
        Some(Self { manifest, tree, devices, reason, script, first_wave, accept_cloned, skipped })
    }

    /// Whether nobody asked for it.
    pub(super) const fn is_by_the_brake(&self) -> bool {
        self.manifest.requested_by.is_none()
    }

    pub(super) const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) const fn tree(&self) -> &DeviceTree {
        &self.tree
    }

    pub(super) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// How many devices go first, if some do.
    pub(super) const fn first_wave(&self) -> Option<u32> {
        self.first_wave
    }

    /// Whether whoever asked knows that two machines may hold the identity of a device.
    pub(super) const fn accept_cloned(&self) -> bool {
        self.accept_cloned
    }

    /// Devices of the group that are of the other kind, simulated or not: they are passed by.
    pub(super) const fn skipped(&self) -> u32 {
        self.skipped
    }

    pub(super) fn script(&self) -> Option<&str> {
        self.script.as_deref()
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Who must approve before that device obeys, by the device's own rules.
    pub(super) fn needs(&self, trust: &TrustRoot, device: DeviceId) -> Result<Needs, Forbidden> {
        trust.needs(&self.manifest, &device)
    }

    /// Checks that every device would obey, once enough people approved.
    pub(super) fn check(&self, trust: &TrustRoot) -> Result<(), Problem> {
        for device in &self.devices {
            self.needs(trust, device.id).map_err(|forbidden| {
                let detail = match forbidden {
                    Forbidden::Protected(_) => format!("name {}: {forbidden}", device.name),
                    Forbidden::TooManyDevices { .. } => {
                        format!("are {forbidden} without a mass role in the trust root")
                    }
                };
                Problem::field("/targets", detail)
            })?;
        }
        Ok(())
    }

    /// Of two machines with one identity one would obey, and nobody can say which: what changes a
    /// device waits for somebody who knows.
    pub(super) fn check_cloned(&self, cloned: &BTreeSet<DeviceId>) -> Result<(), Problem> {
        let is_held = hold::concerns(self.manifest.action.verb()) && !self.accept_cloned;
        let mut cloned = self.devices.iter().filter(|device| cloned.contains(&device.id));
        match cloned.next().filter(|_| is_held) {
            None => Ok(()),
            Some(device) => {
                let detail = format!(
                    "name {}, whose identity two machines hold; revoke it and enroll it again, or \
                     set accept_cloned",
                    device.name
                );
                Err(Problem::field("/targets", detail))
            }
        }
    }
}

/// The hashes of the plans that the order is bound to: one of each device, or none at all. Whether a
/// plan is the device's own and of this action is judged by people and by the device.
async fn plans(
    conn: &mut Conn,
    asked: &CreateOrder,
    devices: &BTreeMap<DeviceId, Device>,
) -> Result<BTreeMap<DeviceId, Hash>, Problem> {
    let mut plans = BTreeMap::new();
    if asked.plans.is_empty() {
        return Ok(plans);
    }
    if asked.plans.len() > devices.len() {
        return Err(Problem::field("/plans", "are more than the order has devices"));
    }
    match asked.action.verb().class() {
        VerbClass::Destructive => {}
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => {
            return Err(Problem::field("/plans", "bind only what destroys"));
        }
    }
    for (index, id) in asked.plans.iter().enumerate() {
        let no_plan = || {
            let detail = "is no plan that a device of this order has signed";
            Problem::field(format!("/plans/{index}"), detail)
        };
        let (device, outcome) = store::signed_plan(conn, *id).await?.ok_or_else(no_plan)?;
        let hash = plan_hash(&outcome).filter(|_| devices.contains_key(&device));
        plans.insert(device, hash.ok_or_else(no_plan)?);
    }
    if plans.len() == devices.len() {
        Ok(plans)
    } else {
        Err(Problem::field("/plans", "are needed of every device of the order, or of none"))
    }
}

/// What ends by itself must end after it began, and a freeze within what devices take.
fn ends(asked: &CreateOrder, now: Timestamp) -> Result<(), Problem> {
    let Some(until) = asked.action.until() else { return Ok(()) };
    let wrong = |detail: String| Err(Problem::field("/action/params/until", detail));
    if until <= now {
        return wrong(format!("is over; it is {now}"));
    }
    let is_freeze = asked.action.verb() == Verb::Freeze;
    if is_freeze && until > now.whole_secs().plus(limits::FREEZE) {
        return wrong(format!("must be in the next {} s; it is {now}", limits::FREEZE.as_secs()));
    }
    Ok(())
}

/// How many devices go first. Nobody skips that where nothing can be taken back.
fn first_wave(policy: &Waves, asked: &CreateOrder, devices: u32) -> Result<Option<u32>, Problem> {
    let class = asked.action.verb().class();
    if !asked.all_at_once {
        return Ok(policy.size(class, devices));
    }
    match class {
        VerbClass::Destructive => {
            Err(Problem::field("/all_at_once", "is not for what destroys; leave it out"))
        }
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => Ok(None),
    }
}

/// The undo window that the order asks for.
fn undo_secs(asked: &CreateOrder) -> Result<Option<u32>, Problem> {
    let wrong = |detail: String| Problem::field("/undo_secs", detail);
    let Some(undo_secs) = asked.undo_secs else { return Ok(None) };
    match asked.action.verb().class() {
        VerbClass::Destructive => {}
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => {
            return Err(wrong("delays only what destroys".to_owned()));
        }
    }
    let most = limits::UNDO_WINDOW.as_secs();
    if u64::from(undo_secs) <= most {
        Ok(Some(undo_secs))
    } else {
        Err(wrong(format!("must be at most {most}")))
    }
}

/// The commitments to offline codes that the order brings.
fn offline_codes(
    asked: &CreateOrder,
    devices: &BTreeMap<DeviceId, Device>,
) -> Result<BTreeMap<DeviceId, Hash>, Problem> {
    let codes = &asked.offline_codes;
    let wrong = |detail: String| Err(Problem::field("/offline_codes", detail));
    if !codes.is_empty() && asked.action.ended_by().is_none() {
        return wrong("end only a lock of sessions and a quarantine".to_owned());
    }
    if codes.len() > limits::OFFLINE_CODES {
        let most = limits::OFFLINE_CODES;
        return wrong(format!("must be of at most {most} devices; split the order"));
    }
    if let Some(stranger) = codes.keys().find(|device| !devices.contains_key(device)) {
        return wrong(format!("name {stranger}, which is no device of the order"));
    }
    Ok(codes.clone())
}

fn plan_hash(outcome: &Outcome) -> Option<Hash> {
    let Outcome::Succeeded { evidence } = outcome else { return None };
    serde_json::from_value(evidence.get("plan_hash")?.clone()).ok()
}

fn reason(asked: &CreateOrder) -> Result<Option<String>, Problem> {
    let reason = asked.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| !is_printable(reason)) {
        return Err(Problem::field("/reason", "is too long or has hidden characters"));
    }
    match asked.action.verb().class() {
        VerbClass::Routine => {}
        VerbClass::Disruptive | VerbClass::Destructive | VerbClass::Stop => {
            if reason.is_none() {
                return Err(Problem::field("/reason", "is needed for this verb"));
            }
        }
    }
    Ok(reason.map(str::to_owned))
}

fn validity(asked: &CreateOrder) -> Result<Duration, Problem> {
    let longest = longest_validity(asked.action.verb().class());
    let validity = asked.expires_in_secs.map_or(DEFAULT_VALIDITY, Duration::from_secs);
    if (SHORTEST_VALIDITY..=longest).contains(&validity) {
        Ok(validity)
    } else {
        let (least, most) = (SHORTEST_VALIDITY.as_secs(), longest.as_secs());
        Err(Problem::field("/expires_in_secs", format!("must be {least} to {most}")))
    }
}

/// The devices meant, and how many of their group are not.
#[derive(Debug)]
struct Targeted {
    devices: BTreeMap<DeviceId, Device>,
    skipped: u32,
}

/// The devices meant, each of them within reach of the permit. Whoever is named and of the other
/// kind, simulated or not, is refused; of a group they are passed by.
async fn targets(
    (conn, known): (&mut Conn, &Known),
    permit: &Permit<ability::Order>,
    asked: &CreateOrder,
) -> Result<Targeted, Problem> {
    let is_meant = |device: &Device| device.is_simulated == asked.simulated;
    let mut skipped = 0_usize;
    let found = match &asked.targets {
        Targets::Devices(ids) => by_id((conn, known), permit, ids).await?,
        Targets::Group(group) => {
            permit.demand(std::slice::from_ref(group))?;
            let mut found = devices::in_group(conn, group).await?;
            let all = found.len();
            found.retain(is_meant);
            skipped = all - found.len();
            found
        }
        Targets::Names(names) => by_name(conn, names).await?,
    };
    let mut groups = match permit.reach() {
        // Whoever reaches all of them is not asked where they are.
        Reach::Everything => BTreeMap::new(),
        Reach::Groups(_) => {
            let ids: Vec<_> = found.iter().map(|device| device.id).collect();
            devices::groups_of(conn, &ids).await?
        }
    };
    let mut devices = BTreeMap::new();
    for device in found {
        permit.demand(&groups.remove(&device.id).unwrap_or_default())?;
        if !is_meant(&device) {
            return Err(of_the_other_kind(asked, &device));
        }
        devices.insert(device.id, device);
    }
    Ok(Targeted { devices, skipped: u32::try_from(skipped).unwrap_or(u32::MAX) })
}

/// A device that was named, and that the order must not reach.
fn of_the_other_kind(asked: &CreateOrder, device: &Device) -> Problem {
    let place = match &asked.targets {
        Targets::Devices(ids) => {
            ids.iter().position(|id| *id == device.id).map(|at| ("devices", at))
        }
        Targets::Names(names) => {
            names.iter().position(|name| *name == device.name).map(|at| ("names", at))
        }
        Targets::Group(_) => None,
    };
    let pointer = match place {
        Some((list, index)) => format!("/targets/{list}/{index}"),
        None => "/targets".to_owned(),
    };
    let detail = if device.is_simulated {
        "is a simulated device, and the order is not `simulated`"
    } else {
        "is no simulated device, and the order is `simulated`"
    };
    Problem::field(pointer, detail)
}

/// Why there is nobody to order anything.
fn nobody(asked: &CreateOrder, skipped: u32) -> String {
    match (skipped, asked.simulated) {
        (0, _) => "name no device".to_owned(),
        (_, false) => {
            format!("name only simulated devices ({skipped}); the order is not `simulated`")
        }
        (_, true) => {
            format!("name no simulated device ({skipped} others); the order is `simulated`")
        }
    }
}

async fn by_id(
    (conn, known): (&mut Conn, &Known),
    permit: &Permit<ability::Order>,
    ids: &[DeviceId],
) -> Result<Vec<Device>, Problem> {
    let mut wanted = ids.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let read: Option<Vec<_>> = wanted.iter().map(|id| known.get(id).cloned()).collect();
    let found = match read {
        Some(found) => found,
        None => devices::with_ids(conn, &wanted).await?,
    };
    let known: BTreeMap<_, _> = found.iter().map(|device| (device.id, device)).collect();
    for (index, id) in ids.iter().enumerate() {
        let at = || format!("/targets/devices/{index}");
        match known.get(id) {
            Some(device) if device.is_revoked() => {
                return Err(Problem::field(at(), "is revoked"));
            }
            Some(_) => {}
            None => {
                // A token bound to groups must not learn which ids exist elsewhere.
                permit.demand(&[])?;
                return Err(Problem::field(at(), "is no device"));
            }
        }
    }
    Ok(found)
}

async fn by_name(conn: &mut Conn, names: &[String]) -> Result<Vec<Device>, Problem> {
    let found = devices::with_names(conn, names).await?;
    for (index, name) in names.iter().enumerate() {
        let count = found.iter().filter(|device| device.name == *name).count();
        if count != 1 {
            let detail = match count {
                0 => "names no device".to_owned(),
                _ => format!("names {count} devices; use their ids"),
            };
            return Err(Problem::field(format!("/targets/names/{index}"), detail));
        }
    }
    Ok(found)
}
