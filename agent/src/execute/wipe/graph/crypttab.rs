//! What a machine opens at its start, as crypttab(5) says it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, text};
use crate::host::Host;

/// What crypttab names as the key of a volume that gets another key at every boot.
const RANDOM_KEYS: [&str; 2] = ["/dev/urandom", "/dev/random"];

/// A line of crypttab.
#[derive(Debug)]
pub(super) struct Crypt {
    pub(super) source: String,
    pub(super) has_random_key: bool,
}

/// Its lines.
pub(super) fn crypttab(host: &Host) -> Vec<Crypt> {
    let lines = text(&host.path("/etc/crypttab"));
    let lines = lines.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let crypts = lines.filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let source = words.next()?.to_owned();
        let has_random_key = words.next().is_some_and(|key| RANDOM_KEYS.contains(&key));
        Some(Crypt { source, has_random_key })
    });
    crypts.collect()
}

impl Graph {
    /// The LUKS volumes that crypttab names.
    pub(super) fn named(
        &self,
        host: &Host,
        crypts: &[Crypt],
        luks: &BTreeMap<String, String>,
    ) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for Crypt { source, .. } in crypts {
            if let Some(name) = self.at(host, source) {
                named.extend(luks.contains_key(&name).then_some(name));
                continue;
            }
            let by_id = |source: &str| {
                let uuid =
                    source.strip_prefix("UUID=").or(source.strip_prefix("/dev/disk/by-uuid/"));
                uuid.map(|uuid| uuid.trim_matches('"').to_owned())
            };
            if let Some(uuid) = by_id(source) {
                let has = luks.iter().filter(|(_, of)| **of == uuid);
                named.extend(has.map(|(name, _)| name.clone()));
            }
        }
        named
    }

    /// Whether a device decrypts with a key that nobody keeps.
    pub(super) fn has_random_key(&self, host: &Host, name: &str, crypts: &[Crypt]) -> bool {
        let node = self.nodes.get(name);
        let mapping = node.and_then(|node| node.mapping.as_deref()).unwrap_or_default();
        let below = self.below(name);
        let is_named = |crypt: &Crypt| {
            crypt.has_random_key
                && self.at(host, &crypt.source).is_some_and(|name| below.contains(&name))
        };
        mapping.starts_with("CRYPT-PLAIN-") || crypts.iter().any(is_named)
    }
}
