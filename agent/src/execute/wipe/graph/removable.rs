//! Which disks can be pulled out. Source: sysfs(5), and the kernel's documentation of `removable` of devices and of MMC.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Graph, line};
use crate::host::Host;

/// Whether that disk of sysfs can be pulled out: by what it says, or because it hangs on USB or behind a port of the
/// machine's outside, as Thunderbolt has them.
pub(super) fn is_removable(host: &Host, disk: &Path) -> bool {
    if line(&disk.join("removable")).as_deref() == Some("1") {
        return true;
    }
    let Ok(device) = disk.join("device").canonicalize() else { return false };
    // A disk in an enclosure does not call itself removable.
    let mut parts = device.components();
    let is_on_usb = parts.any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"usb"));
    let sysfs = host.path("/sys");
    let sysfs = sysfs.canonicalize().unwrap_or(sysfs);
    let mut ways = device.ancestors().take_while(|way| way.starts_with(&sysfs));
    is_on_usb || ways.any(|way| line(&way.join("removable")).as_deref() == Some("removable"))
}

/// Whether that disk is an SD card, which can be pulled out unless the system runs from it.
pub(super) fn is_card(disk: &Path) -> bool {
    line(&disk.join("device/type")).as_deref() == Some("SD")
}

impl Graph {
    /// Takes those cards for removable on which the running system does not lie.
    pub(super) fn pull_out(&mut self, host: &Host, cards: &BTreeSet<String>) {
        if cards.is_empty() {
            return;
        }
        let mounts = self.mounts(host);
        let roots = mounts.iter().filter(|(_, place)| place == "/");
        let below: BTreeSet<_> = roots.flat_map(|(name, _)| self.below(name)).collect();
        let whole = |name: &String| self.nodes.get(name)?.part_of.clone();
        let systems: BTreeSet<_> = below.iter().filter_map(whole).chain(below.clone()).collect();
        for (name, node) in &mut self.nodes {
            let disk = node.part_of.as_ref().unwrap_or(name);
            node.is_removable |= cards.contains(disk) && !systems.contains(disk);
        }
    }
}
