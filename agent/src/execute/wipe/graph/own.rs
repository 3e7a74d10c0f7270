//! Which file systems are the machine's own, so that a wipe may erase them whole.
//!
//! Owns the doubts: whatever might be somebody else's is not one's own. Must not open a device.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Graph, entries, line, text};
use crate::host::Host;

/// File systems that are mounted in parts although all of them is the machine's.
const SUBVOLUMES: &str = "btrfs";
/// What managers of containers put into them.
const CONTAINED: [&str; 3] = ["/run/systemd/container", "/run/.containerenv", "/.dockerenv"];
/// How NVMe reaches namespaces of other machines.
const FABRICS: [&str; 4] = ["fc", "loop", "rdma", "tcp"];

/// Of those devices the ones whose drives are all the machine's own: none can be pulled out, and none is anything
/// but hardware, such as a file, or a device of the network's. Who sees a folder of a file system and not the whole is in
/// a container, and the drive is another's; nothing is one's own there.
pub(in crate::execute::wipe) fn own(host: &Host, devices: &[PathBuf]) -> BTreeSet<PathBuf> {
    if is_contained(host) {
        return BTreeSet::new();
    }
    let (graph, mounts) = (Graph::read(host), text(&host.path("/proc/self/mountinfo")));
    let whole = graph.mounted_as(host, &mounts, |root, kind| root == "/" || kind == SUBVOLUMES);
    let whole: BTreeSet<_> = whole.into_iter().map(|(name, _)| name).collect();
    let mounted = graph.mounted(host);
    let is_part = |name: &String| mounted.contains_key(name) && !whole.contains(name);
    let is_own = |path: &&PathBuf| {
        let name = graph.nodes.keys().find(|name| graph.is_at(host, name, path));
        let drives = name.filter(|name| !is_part(name)).and_then(|name| graph.drives(name));
        drives.is_some_and(|drives| drives.iter().all(|drive| !is_remote(host, drive)))
    };
    devices.iter().filter(is_own).cloned().collect()
}

/// Whether this is a container.
pub(super) fn is_contained(host: &Host) -> bool {
    CONTAINED.iter().any(|path| host.path(path).exists())
}

/// Whether a drive is another machine's, which the network brings here: by iSCSI, Fibre Channel, rbd or NVMe over
/// fabrics. To the kernel it is hardware like any other; where it hangs tells it.
pub(super) fn is_remote(host: &Host, drive: &str) -> bool {
    let disk = host.path("/sys/block").join(drive);
    let place = disk.canonicalize().unwrap_or_default();
    let is_reached = |part: &str| {
        part.starts_with("session") || part.starts_with("rport-") || part.starts_with("rbd")
    };
    let device = disk.join("device");
    // A namespace with several paths hangs on its subsystem, and those are in there.
    let paths = entries(&device).into_iter().chain([device]);
    place.iter().any(|part| part.to_str().is_some_and(is_reached))
        || paths
            .filter_map(|path| line(&path.join("transport")))
            .any(|transport| FABRICS.contains(&transport.as_str()))
}
