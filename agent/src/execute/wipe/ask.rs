//! Asks devices whether they are LUKS volumes: all at once, and for so long only.
//!
//! Looking at a machine opens every block device that it has, and one of them may never answer: a path that queues
//! for ever, an enclosure that hangs, a network disk whose server is gone. That one must keep neither the agent from its
//! start nor a wipe from the other volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::luks;
use super::volume::{Access, Disk};
use crate::host::Host;

/// What devices said.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The UUIDs of those that are LUKS volumes.
    pub(super) luks: BTreeMap<PathBuf, String>,
    /// Those that said nothing in time.
    pub(super) silent: BTreeSet<PathBuf>,
}

/// Asks those. Each has a thread of its own, which ends when its device answers.
pub(super) fn luks_uuids(disk: &Arc<dyn Disk>, host: &Host, paths: &[PathBuf]) -> Answers {
    let (tell, told) = sync_channel(paths.len());
    let mut answers = Answers::default();
    for path in paths {
        let (disk, there, tell) = (disk.clone(), path.clone(), tell.clone());
        let asking = thread::Builder::new().name("device".to_owned()).spawn(move || {
            let uuid = luks_uuid(&*disk, &there);
            // Whoever asked may have given up.
            let _ = tell.send((there, uuid));
        });
        if let Err(error) = asking {
            tracing::warn!(path = %path.display(), %error, "device is not asked");
        }
        answers.silent.insert(path.clone());
    }
    drop(tell);
    let began = host.course.now();
    while !answers.silent.is_empty() {
        let waited = host.course.now().saturating_duration_since(began);
        let left = disk.patience(&answers.silent).saturating_sub(waited);
        let Ok((path, uuid)) = told.recv_timeout(left) else { break };
        answers.silent.remove(&path);
        answers.luks.extend(uuid.map(|uuid| (path, uuid)));
    }
    for path in &answers.silent {
        tracing::warn!(path = %path.display(), "device does not answer, and is taken for no LUKS volume");
    }
    answers
}

fn luks_uuid(disk: &dyn Disk, path: &Path) -> Option<String> {
    let volume = disk.open(path, Access::Read).ok()?;
    luks::layout(&*volume).ok().map(|layout| layout.uuid)
}
