//! Which file systems nobody has mounted, on the machine's own drives.
//!
//! Owns telling them from what a machine starts from, which is mounted only at times: by the type of the partition, as
//! udev keeps it, by fstab(5), and a FAT whose type nobody knows. Types: UEFI specification, Discoverable Partitions
//! Specification. Must not open a device.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::own::{is_contained, is_remote};
use super::{Graph, Node, STARTED_FROM, device, text};
use crate::host::Host;

/// Types of partitions that a machine starts from: the EFI system partition, by GPT and by MBR, and what it loads
/// the kernel from.
const STARTED_FROM_TYPES: [&str; 3] =
    ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef", "bc13c2ff-59e6-4262-a352-b275fd6f7172"];
/// What firmware reads.
const READ_BY_FIRMWARE: &str = "vfat ";
/// Where udev links devices by what fstab calls them.
const LINKS: [(&str, &str); 4] = [
    ("UUID=", "/dev/disk/by-uuid/"),
    ("LABEL=", "/dev/disk/by-label/"),
    ("PARTUUID=", "/dev/disk/by-partuuid/"),
    ("PARTLABEL=", "/dev/disk/by-partlabel/"),
];

impl Graph {
    /// Of the devices that hold such `plain` file systems those on which nothing stands, that nobody has mounted, and whose
    /// drives are all the machine's own. None in a container: the drives are its host's.
    pub(super) fn idle<'a>(
        &'a self,
        host: &'a Host,
        plain: &'a BTreeMap<PathBuf, String>,
    ) -> impl Iterator<Item = &'a String> {
        let (mounted, swapped) = (self.mounted(host), self.swapped(host));
        let started_from = self.started_from(host);
        let is_contained = is_contained(host);
        let idle = self.nodes.iter().filter(move |(name, node)| {
            let Some(file_system) = plain.get(&device(host, name)) else { return false };
            let is_used = mounted.contains_key(*name) || swapped.contains(*name);
            let has_parts = || self.nodes.values().any(|part| part.part_of.as_ref() == Some(name));
            let is_own = || {
                let drives = self.drives(name);
                drives.is_some_and(|drives| drives.iter().all(|drive| !is_remote(host, drive)))
            };
            let starts = || started_from.contains(*name) || starts_machine(host, node, file_system);
            let is_leaf = node.holders.is_empty() && !is_used && !has_parts();
            !is_contained && is_leaf && is_own() && !starts()
        });
        idle.map(|(name, _)| name)
    }

    /// The devices that fstab has for what a machine starts from.
    fn started_from(&self, host: &Host) -> Vec<String> {
        let lines = text(&host.path("/etc/fstab"));
        let lines = lines.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (source, place) = (words.next()?, words.next()?);
            STARTED_FROM.contains(&place).then(|| self.at(host, &path_of(source)))?
        });
        lines.collect()
    }
}

/// Where the device is that fstab means.
fn path_of(source: &str) -> String {
    let link = LINKS.iter().find_map(|(tag, folder)| {
        let name = source.strip_prefix(tag)?;
        Some(format!("{folder}{}", name.trim_matches('"')))
    });
    link.unwrap_or_else(|| source.to_owned())
}

/// Whether a partition is of a type that a machine starts from.
fn starts_machine(host: &Host, node: &Node, file_system: &str) -> bool {
    let known = text(&host.path(format!("/run/udev/data/b{}", node.number)));
    let of_type = known.lines().find_map(|line| line.strip_prefix("E:ID_PART_ENTRY_TYPE="));
    match of_type {
        Some(of_type) => STARTED_FROM_TYPES.contains(&of_type),
        None => file_system.starts_with(READ_BY_FIRMWARE),
    }
}
