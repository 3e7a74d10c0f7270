//! Asks devices what they are, such as whether they are LUKS volumes: all at once, and for so long only.
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

/// Which of those are LUKS volumes.
pub(super) fn luks_uuids(disk: &Arc<dyn Disk>, host: &Host, paths: &[PathBuf]) -> Answers {
    let (answers, silent) = each(disk, host, paths, luks_uuid);
    let luks = answers.into_iter().filter_map(|(path, uuid)| Some((path, uuid?))).collect();
    for path in &silent {
        tracing::warn!(path = %path.display(), "device does not answer, and is taken for no LUKS volume");
    }
    Answers { luks, silent }
}

/// What each of those answers, and which said nothing in time. Each has a thread of its own, which ends when its
/// device answers.
pub(super) fn each<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    host: &Host,
    paths: &[PathBuf],
    question: impl Fn(&dyn Disk, &Path) -> T + Send + Sync + 'static,
) -> (BTreeMap<PathBuf, T>, BTreeSet<PathBuf>) {
    let (tell, told) = sync_channel(paths.len());
    let (mut answers, mut silent) = (BTreeMap::new(), BTreeSet::new());
    let question = Arc::new(question);
    for path in paths {
        let (disk, there, tell) = (disk.clone(), path.clone(), tell.clone());
        let question = question.clone();
        let asking = thread::Builder::new().name("device".to_owned()).spawn(move || {
            let answer = question(&*disk, &there);
            // Whoever asked may have given up.
            let _ = tell.send((there, answer));
        });
        if let Err(error) = asking {
            tracing::warn!(path = %path.display(), %error, "device is not asked");
        }
        silent.insert(path.clone());
    }
    drop(tell);
    let began = host.course.now();
    while !silent.is_empty() {
        let waited = host.course.now().saturating_duration_since(began);
        let left = disk.patience(&silent).saturating_sub(waited);
        let Ok((path, answer)) = told.recv_timeout(left) else { break };
        silent.remove(&path);
        answers.insert(path, answer);
    }
    (answers, silent)
}

fn luks_uuid(disk: &dyn Disk, path: &Path) -> Option<String> {
    let volume = disk.open(path, Access::Read).ok()?;
    luks::layout(&*volume).ok().map(|layout| layout.uuid)
}
