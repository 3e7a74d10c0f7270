//! Where devices are: writing and reading presence.
//!
//! Owns the rounds that it takes. An entry counts under its hub's lease only, and lease and entry
//! may lie on different servers: so an entry that is in the way is read, its lease is looked at,
//! and where that is gone the entry is replaced if it is still the same.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{DeviceId, HubId, SessionId};
use redis::Value;

use super::dial::Failure;
use super::entry::{self, Entry};
use super::holders;
use super::nodes::Nodes;
use super::reply::{bytes, int, list};
use super::script::Script;
use super::shared::Shared;
use crate::metrics::Refused;
use crate::{Arrival, Presence};

/// An entry changes under our hands only when sessions of one device race.
const ROUNDS: usize = 5;

/// What the script answered for one entry.
struct Placed {
    is_written: bool,
    /// The entry that was there: its bytes, and what they say.
    known: Option<(Vec<u8>, Option<Entry>)>,
}

/// Who holds the leases that matter.
type Holders = BTreeMap<HubId, Option<SessionId>>;

/// Writes entries, each unless a live one keeps its place. With `stays` one of the same epoch does.
pub(super) async fn place(
    shared: &Shared,
    nodes: &Nodes,
    entries: &[(DeviceId, Presence)],
    stays: bool,
) -> Result<Vec<Arrival>, Failure> {
    let mut arrivals = vec![Arrival::Stale; entries.len()];
    // Which entries are still open, and what was in the way of each and is dead.
    let mut open: Vec<(usize, Vec<u8>)> = (0..entries.len()).map(|at| (at, Vec::new())).collect();
    for _ in 0..ROUNDS {
        let calls = open.iter().map(|(at, dead)| {
            let (device, presence) = &entries[*at];
            let key = shared.names.presence(*device);
            let mut call = nodes.script(Script::Place, &key);
            call.arg(&entry::field(*device)[..]).arg(entry::encode(presence));
            call.arg(&dead[..]).arg(u8::from(stays));
            (key, call)
        });
        let answers = nodes.ask_all(calls.collect()).await?;
        let placed: Vec<_> =
            answers.iter().map(|answer| Placed::read(shared, answer)).collect::<Result<_, _>>()?;
        let known = placed.iter().filter_map(Placed::entry);
        let holders = leases(shared, nodes, known).await?;
        let mut again = Vec::new();
        for ((at, _), placed) in open.into_iter().zip(placed) {
            let presence = &entries[at].1;
            let live = placed.entry().and_then(|entry| live(entry, &holders));
            match (placed.is_written, live, placed.known) {
                (true, live, _) => {
                    let is_other = |known: &Presence| known.hub != presence.hub;
                    arrivals[at] = Arrival::Written { replaced: live.filter(is_other) };
                }
                (false, Some(_), _) => arrivals[at] = Arrival::Stale,
                (false, None, Some((dead, _))) => again.push((at, dead)),
                (false, None, None) => return Err(Failure::Answer("an arrival")),
            }
        }
        if again.is_empty() {
            return Ok(arrivals);
        }
        open = again;
    }
    Err(Failure::Role("an entry of presence does not rest"))
}

/// Where devices are, in the order asked.
pub(super) async fn locate(
    shared: &Shared,
    nodes: &Nodes,
    devices: &[DeviceId],
) -> Result<Vec<Option<Presence>>, Failure> {
    let question = |device: &DeviceId| {
        let key = shared.names.presence(*device);
        let mut get = redis::cmd("HGET");
        get.arg(&key).arg(&entry::field(*device)[..]);
        (key, get)
    };
    let mut found = Vec::with_capacity(devices.len());
    for some in devices.chunks(crate::BATCH) {
        let answers = nodes.ask_all(some.iter().map(question).collect()).await?;
        let entries: Vec<_> = answers
            .iter()
            .map(|answer| bytes(answer).and_then(|bytes| read(shared, bytes)))
            .collect();
        let holders = leases(shared, nodes, entries.iter().flatten()).await?;
        found.extend(entries.iter().map(|entry| live(entry.as_ref()?, &holders)));
    }
    Ok(found)
}

async fn leases<'a>(
    shared: &Shared,
    nodes: &Nodes,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<Holders, Failure> {
    let hubs: BTreeSet<&HubId> = entries.map(|entry| &entry.hub).collect();
    let held = holders(shared, nodes, hubs.iter().copied()).await?;
    Ok(hubs.into_iter().cloned().zip(held).collect())
}

fn live(entry: &Entry, holders: &Holders) -> Option<Presence> {
    entry.live(holders.get(&entry.hub).copied().flatten())
}

fn read(shared: &Shared, bytes: &[u8]) -> Option<Entry> {
    let entry = entry::decode(bytes);
    if entry.is_none() {
        shared.metrics.refused(Refused::Presence);
    }
    entry
}

impl Placed {
    fn read(shared: &Shared, answer: &Value) -> Result<Self, Failure> {
        let parts = list(answer).unwrap_or_default();
        let is_written = match parts.first().and_then(int) {
            Some(0) => false,
            Some(1) => true,
            Some(_) | None => return Err(Failure::Answer("an arrival")),
        };
        let known = parts.get(1).and_then(bytes).map(|raw| (raw.to_vec(), read(shared, raw)));
        Ok(Self { is_written, known })
    }

    fn entry(&self) -> Option<&Entry> {
        self.known.as_ref()?.1.as_ref()
    }
}
