//! Volumes that are open while their data is erased, or their keys are to be gone for good.
//!
//! A file system that is mounted from one goes on writing: its journal within seconds, the rest when the machine goes
//! down. That would stand on the drive after the receipt said that nothing does, encrypted with the key that a backup
//! of the headers brings back. So the mapping loses its way to the volume, and the kernel its key, before the
//! data goes. Only what the running system lies on keeps it: without a disk there would be no receipt. Source:
//! dmsetup(8).

use std::path::Path;

use super::graph;
use crate::execute::tool::Tool;
use crate::host::{Arming, Host};

const STAGE: &str = "finish";

/// Has whatever reads or writes through open mappings of the volume find errors there.
pub(super) fn cut(host: &Host, volume: &Path) {
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return,
    }
    // Nothing is waited for that somebody else holds: neither writes on their way, nor file systems, nor udev.
    let wipe = ["wipe_table", "--force", "--noflush", "--nolockfs", "--noudevsync"];
    for name in graph::spare_mappings(host, volume) {
        let cut = Tool::find("dmsetup", STAGE)
            .and_then(|tool| tool.args(wipe).args([&name]).during(&host.course).run_ok(STAGE));
        match cut {
            Ok(_) => tracing::info!(%name, "mapping cut off"),
            Err(error) => tracing::warn!(%name, error = error.detail, "mapping stays open"),
        }
    }
}
