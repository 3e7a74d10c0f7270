//! Which file systems are the machine's own, so that a wipe may erase them whole.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Graph, text};
use crate::host::Host;

/// File systems that are mounted in parts although all of them is the machine's.
const SUBVOLUMES: &str = "btrfs";
/// What managers of containers put into them.
const CONTAINED: [&str; 3] = ["/run/systemd/container", "/run/.containerenv", "/.dockerenv"];

/// Of those devices the ones whose drives are all the machine's own: none can be pulled out, and none is anything
/// but hardware, such as a file, or a device of the network's. Who sees a folder of a file system and not the whole is in
/// a container, and the drive is another's; nothing is one's own there.
pub(in crate::execute::wipe) fn own(host: &Host, devices: &[PathBuf]) -> BTreeSet<PathBuf> {
    if CONTAINED.iter().any(|path| host.path(path).exists()) {
        return BTreeSet::new();
    }
    let (graph, mounts) = (Graph::read(host), text(&host.path("/proc/self/mountinfo")));
    let whole = graph.mounted_as(host, &mounts, |root, kind| root == "/" || kind == SUBVOLUMES);
    let whole: BTreeSet<_> = whole.into_iter().map(|(name, _)| name).collect();
    let is_own = |path: &&PathBuf| {
        let name = graph.nodes.keys().find(|name| graph.is_at(host, name, path));
        name.is_some_and(|name| whole.contains(name) && graph.drives(name).is_some())
    };
    devices.iter().filter(is_own).cloned().collect()
}
