//! What nf_tables holds: quarantine's own tables in full, everybody else's as one digest.
//!
//! Only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::netlink::{Attributes, Message, NetlinkError, Socket, Value, text};
use super::ruleset::{CANARY, INET, NETDEV, ON_DEVICE, PRIORITY, TABLE};
use crate::execute::{hex, sha256_hex};

/// Kinds of nf_tables messages that ask; what they ask for comes with the number before.
const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_OBJECT: u8 = 19;
const GET_FLOWTABLE: u8 = 23;
const ANY_FAMILY: u8 = 0;

/// The first attribute of every object: its table, or of a table its name.
pub(super) const OF_TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_OWNER: u16 = 7;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const DEVICE_NAME: u16 = 1;

/// A table may be changed by the socket that made it only.
pub(super) const OWNED: u32 = 2;
/// Such a table outlives its owner.
pub(super) const PERSISTENT: u32 = 4;

/// One of quarantine's tables, the canary included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) family: u8,
    pub(super) name: String,
    pub(super) flags: u32,
    /// The netlink socket that holds it.
    pub(super) owner: Option<u32>,
}

/// One base chain of quarantine's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    pub(super) family: u8,
    pub(super) name: String,
    hook: u32,
    priority: i32,
    is_dropping: bool,
    devices: Vec<String>,
}

impl BaseChain {
    /// Its policy, when its hook and priority are as a quarantine makes them.
    pub(super) fn policy(&self) -> Option<&'static str> {
        (self.priority == PRIORITY).then_some(if self.is_dropping { "drop" } else { "accept" })
    }
}

/// What stands of a quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// Its tables.
    pub(super) tables: Vec<Table>,
    /// Its base chains.
    pub(super) chains: Vec<BaseChain>,
    /// Digest of chains, policies and rules, without handles, and without the base chains of
    /// devices, which come and go.
    pub(super) sha256: String,
    /// Whether each base chain of a device drops all that the common chain does not accept.
    pub(super) are_devices_sound: bool,
}

impl Observed {
    /// Looks.
    pub(super) fn now(socket: &mut Socket) -> Result<Self, NetlinkError> {
        let mut tables = Vec::new();
        socket
            .dump_tables((GET_TABLE, ANY_FAMILY), &[], |found| tables.extend(own_table(found)))?;
        if !tables.iter().any(|table| table.name == TABLE) {
            return Ok(Self { tables, ..Self::default() });
        }
        let (mut chains, mut lines) = (Vec::new(), Vec::new());
        let mut rules: BTreeMap<(u8, String), Vec<Vec<u8>>> = BTreeMap::new();
        socket.dump_tables((GET_CHAIN, ANY_FAMILY), &[], |found| {
            let Some((line, base)) = own_chain(found) else { return };
            chains.extend(base);
            lines.extend(line);
        })?;
        let filter = Value::default().text(OF_TABLE, TABLE);
        // With a table's name the kernel ends at the first of that name, so each has its dump.
        for family in [INET, NETDEV] {
            socket.dump_tables((GET_RULE, family), filter.bytes(), |found| {
                let Some((chain, rule)) = own_rule(found) else { return };
                rules.entry(chain).or_default().push(rule);
            })?;
        }
        let mut are_devices_sound = true;
        for base in chains.iter().filter(|chain: &&BaseChain| chain.family == NETDEV) {
            let its = rules.remove(&(NETDEV, base.name.clone())).unwrap_or_default();
            let leads = matches!(&*its, [rule] if leads_to_common_chain(rule));
            are_devices_sound &= leads && base.policy() == Some("drop");
        }
        lines.sort_unstable();
        for (chain, rules) in &rules {
            lines.extend(rules.iter().map(|rule| format!("{chain:?} {}", hex(rule))));
        }
        let sha256 = sha256_hex(lines.join("\n").as_bytes());
        Ok(Self { tables, chains, sha256, are_devices_sound })
    }

    /// That table, if it stands.
    pub(super) fn table(&self, family: u8, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| (table.family, &*table.name) == (family, name))
    }

    /// Whether the kernel keeps everybody but the agent from changing the table, and keeps the
    /// table when the agent ends.
    pub(super) fn is_owned(&self) -> bool {
        let owned = OWNED | PERSISTENT;
        self.table(INET, TABLE).is_some_and(|table| table.flags & owned == owned)
    }

    /// Those of the devices whose frames nothing judges.
    pub(super) fn uncovered(&self, devices: Vec<String>) -> Vec<String> {
        let on_devices = |chain: &&BaseChain| chain.family == NETDEV;
        let covered: BTreeSet<_> =
            self.chains.iter().filter(on_devices).flat_map(|chain| &chain.devices).collect();
        devices.into_iter().filter(|device| !covered.contains(device)).collect()
    }
}

fn own_table(found: Message<'_>) -> Option<Table> {
    let attributes = found.netfilter();
    let name = attributes.text(OF_TABLE)?;
    let family = found.family();
    let is_own = matches!((family, name), (INET | NETDEV, TABLE) | (INET, CANARY));
    is_own.then(|| Table {
        family,
        name: name.to_owned(),
        flags: attributes.number(TABLE_FLAGS).unwrap_or_default(),
        owner: attributes.number(TABLE_OWNER),
    })
}

/// A chain's line for the digest, and what it is if packets begin there.
fn own_chain(found: Message<'_>) -> Option<(Option<String>, Option<BaseChain>)> {
    let (family, attributes) = (found.family(), found.netfilter());
    if attributes.text(OF_TABLE)? != TABLE || !matches!(family, INET | NETDEV) {
        return None;
    }
    let name = attributes.text(CHAIN_NAME)?.to_owned();
    let hook = attributes.inside(CHAIN_HOOK);
    let Some(number) = hook.number(HOOK_NUMBER) else {
        return Some((Some(format!("{family} {name}")), None));
    };
    let chain = BaseChain {
        family,
        name,
        hook: number,
        priority: hook.number(HOOK_PRIORITY).unwrap_or_default().cast_signed(),
        is_dropping: attributes.number(CHAIN_POLICY) == Some(0),
        devices: hook
            .filter_map(|(kind, value)| (kind == HOOK_DEVICE).then(|| text(value)).flatten())
            .map(str::to_owned)
            .chain(hook.inside(HOOK_DEVICES).filter_map(device_name))
            .collect(),
    };
    let BaseChain { name, hook, priority, is_dropping, .. } = &chain;
    let line = format!("{family} {name} {hook} {priority} {is_dropping}");
    Some(((family != NETDEV).then_some(line), Some(chain)))
}

fn device_name((kind, value): (u16, &[u8])) -> Option<String> {
    (kind == DEVICE_NAME).then(|| text(value)).flatten().map(str::to_owned)
}

/// A rule's chain, and its expressions.
fn own_rule(found: Message<'_>) -> Option<((u8, String), Vec<u8>)> {
    let (family, attributes) = (found.family(), found.netfilter());
    let chain = attributes.text(RULE_CHAIN).filter(|_| attributes.text(OF_TABLE) == Some(TABLE))?;
    Some(((family, chain.to_owned()), attributes.get(RULE_EXPRESSIONS)?.to_vec()))
}

/// Whether a rule's only expression is the verdict that the common chain decides.
fn leads_to_common_chain(expressions: &[u8]) -> bool {
    let mut expressions = Attributes::new(expressions);
    let verdict = expressions.next().and_then(|(_, expression)| {
        // Immediate: its data, the verdict in it, the chain that the verdict leads to.
        Attributes::new(expression).inside(2).inside(2).inside(2).text(2)
    });
    verdict == Some(ON_DEVICE) && expressions.next().is_none()
}

/// Digest of every table that is not quarantine's, with handles; without counters, and without the
/// elements of sets, which change by themselves.
pub(super) fn others_sha256(socket: &mut Socket) -> Result<String, NetlinkError> {
    let mut text = String::new();
    let kinds: [(u8, &[u16]); 6] = [
        (GET_TABLE, &[1, 2, 4]),
        (GET_CHAIN, &[1, 2, 3, 4, 5, 7, 10]),
        (GET_RULE, &[1, 2, 3]),
        (GET_SET, &[1, 2, 3, 4, 5, 16]),
        (GET_OBJECT, &[1, 2, 3, 6]),
        (GET_FLOWTABLE, &[1, 2, 5]),
    ];
    for (kind, kept) in kinds {
        socket.dump_tables((kind, ANY_FAMILY), &[], |found| {
            // The end of the dump, and not an object.
            if found.kind & 0xff != u16::from(kind - 1) {
                return;
            }
            let attributes = found.netfilter();
            if matches!(attributes.text(OF_TABLE), Some(TABLE | CANARY)) {
                return;
            }
            let _ = write!(text, "\n{kind} {}", found.family());
            for (number, value) in attributes.filter(|(number, _)| kept.contains(number)) {
                let _ = write!(text, " {number}={}", hex(value));
            }
            if kind == GET_RULE {
                write_expressions(&mut text, attributes.inside(RULE_EXPRESSIONS));
            }
        })?;
    }
    Ok(sha256_hex(text.as_bytes()))
}

/// Expressions, but of those that count only the name.
fn write_expressions(text: &mut String, expressions: Attributes<'_>) {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    for (_, expression) in expressions {
        let expression = Attributes::new(expression);
        let name = expression.text(NAME).unwrap_or_default();
        let _ = write!(text, " {name}");
        if !matches!(name, "counter" | "quota" | "last" | "limit") {
            let _ = write!(text, ":{}", hex(expression.get(DATA).unwrap_or_default()));
        }
    }
}
