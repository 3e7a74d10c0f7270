//! Asks devices what they are, LUKS volumes or file systems that nothing encrypts: all at once, and for so long only.
//!
//! Looking at a machine opens every block device that it has, and one of them may never answer: a path that queues
//! for ever, an enclosure that hangs, a network disk whose server is gone. That one must keep neither the agent from its
//! start nor a wipe from the other volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use super::volume::{Access, Disk};
use super::{file_system, luks};
use crate::host::Host;

/// What devices said.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The UUIDs of those that are LUKS volumes.
    pub(super) luks: BTreeMap<PathBuf, String>,
    /// Of the others those with a file system that says who it is, by its word.
    pub(super) plain: BTreeMap<PathBuf, String>,
    /// Those that said nothing in time.
    pub(super) silent: BTreeSet<PathBuf>,
}

/// What a device is.
#[derive(Debug)]
enum Kind {
    /// The LUKS volume of that UUID.
    Luks(String),
    /// That file system, which nothing encrypts.
    Plain(String),
}

/// What those are.
pub(super) fn kinds(disk: &Arc<dyn Disk>, host: &Host, paths: &[PathBuf]) -> Answers {
    let (answers, silent) = each(disk, host, paths, kind);
    let mut kinds = Answers { silent, ..Answers::default() };
    for (path, kind) in answers {
        match kind {
            Some(Kind::Luks(uuid)) => drop(kinds.luks.insert(path, uuid)),
            Some(Kind::Plain(uuid)) => drop(kinds.plain.insert(path, uuid)),
            None => {}
        }
    }
    for path in &kinds.silent {
        tracing::warn!(path = %path.display(), "device does not answer, and is taken for no LUKS volume");
    }
    kinds
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

fn kind(disk: &dyn Disk, path: &Path) -> Option<Kind> {
    let volume = disk.open(path, Access::Read).ok()?;
    if let Ok(layout) = luks::layout(&*volume) {
        return Some(Kind::Luks(layout.uuid));
    }
    file_system::uuid(&*volume).ok().flatten().map(Kind::Plain)
}
