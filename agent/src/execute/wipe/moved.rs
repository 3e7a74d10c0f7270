//! Volumes and drives of a wipe that have other names after a boot: drives are numbered as they answer.
//!
//! A record names what it destroys by path, and a wipe that was cut off goes on in the next boot. Whatever is there
//! is compared before it is touched; this looks elsewhere for what is not. A volume is known by its UUID or by the
//! mark that its destruction left, what has no keys by its place, a drive by model and serial number. What can be pulled out is
//! never taken for one: it may be a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drive::said::Said;

use super::bare::BareKind;
use super::drives::Drive;
use super::record::{Target, Wiping};
use super::volume::Disk;
use super::{ask, bare, destroy, graph};
use crate::host::Host;

/// Finds again what is not where the record says. A device that never answers is none of it, and is waited for once.
pub(super) fn find(disk: &Arc<dyn Disk>, host: &Host, wiping: &mut Wiping) {
    let mut search = Search { disk, host, silent: BTreeSet::new() };
    let mut moves = BTreeMap::new();
    for target in &mut wiping.targets {
        let of = target.clone();
        let is_at = move |disk: &dyn Disk, path: &Path| {
            let there = Target { path: path.to_owned(), ..of.clone() };
            destroy::is_same(disk, &there).unwrap_or(false)
        };
        moves.extend(search.follow(&mut target.path, graph::devices, is_at.clone()));
        search.follow_ways(target, is_at);
    }
    for bare in wiping.bare.iter_mut().filter(|bare| bare.kind != BareKind::RandomKey) {
        let (of, host) = (bare.clone(), host.clone());
        let is_at = move |disk: &dyn Disk, path: &Path| bare::is_at(disk, &host, &of, path);
        moves.extend(search.follow(&mut bare.path, graph::devices, is_at));
    }
    for drive in &mut wiping.drives {
        let of = drive.clone();
        // One that says nothing is known by its name alone.
        let is_at = move |disk: &dyn Disk, path: &Path| of.is_mute || is_drive(disk, &of, path);
        let moved = search.follow(&mut drive.path, graph::disks, is_at);
        for carried in &mut drive.carries {
            // Each name once: two drives may have changed theirs with each other.
            match (moves.get(carried), &moved) {
                (Some(path), _) => carried.clone_from(path),
                (None, Some((former, path))) => renumber(carried, former, path),
                (None, None) => {}
            }
        }
    }
}

/// A look around for several things.
#[derive(Debug)]
struct Search<'a> {
    disk: &'a Arc<dyn Disk>,
    host: &'a Host,
    /// Devices that have not answered.
    silent: BTreeSet<PathBuf>,
}

impl Search<'_> {
    /// Follows something to where it is now, if it is not at that path. Answers from where to where it went.
    fn follow(
        &mut self,
        path: &mut PathBuf,
        places: fn(&Host) -> Vec<PathBuf>,
        is_at: impl Fn(&dyn Disk, &Path) -> bool + Send + Sync + 'static,
    ) -> Option<(PathBuf, PathBuf)> {
        let is_at = Arc::new(is_at);
        let is_there = self.first(vec![path.clone()], is_at.clone()).is_some();
        // What is slow is not gone, and a copy of it answers faster.
        if is_there || self.silent.contains(path.as_path()) {
            return None;
        }
        let now = self.first(places(self.host), is_at)?;
        tracing::warn!(from = %path.display(), to = %now.display(), "part of a wipe has another name now");
        let former = std::mem::replace(path, now.clone());
        Some((former, now))
    }

    /// Follows the other ways to a volume, each to a place of its own. One that leads nowhere any more is none.
    fn follow_ways(
        &mut self,
        target: &mut Target,
        is_at: impl Fn(&dyn Disk, &Path) -> bool + Send + Sync + 'static,
    ) {
        let is_at = Arc::new(is_at);
        for way in std::mem::take(&mut target.ways) {
            let is_free = |path: &PathBuf| *path != target.path && !target.ways.contains(path);
            let own = Some(way.clone()).filter(is_free).into_iter().collect();
            let mut now = self.first(own, is_at.clone());
            if now.is_none() && self.silent.contains(&way) {
                now = Some(way);
            } else if now.is_none() {
                let others = graph::devices(self.host).into_iter().filter(is_free).collect();
                now = self.first(others, is_at.clone());
                tracing::warn!(from = %way.display(), to = ?now, "way to a volume has another name now");
            }
            target.ways.extend(now);
        }
    }

    /// The first place of those where it is.
    fn first(
        &mut self,
        mut places: Vec<PathBuf>,
        is_at: Arc<impl Fn(&dyn Disk, &Path) -> bool + Send + Sync + 'static>,
    ) -> Option<PathBuf> {
        places.retain(|path| !self.silent.contains(path));
        let is_at = move |disk: &dyn Disk, path: &Path| is_at(disk, path);
        let (answers, silent) = ask::each(self.disk, self.host, &places, is_at);
        self.silent.extend(silent);
        places.into_iter().find(|path| answers.get(path) == Some(&true))
    }
}

/// One without a serial number is like any other of its model, and is looked for nowhere else.
fn is_drive(disk: &dyn Disk, drive: &Drive, path: &Path) -> bool {
    !drive.serial.is_empty()
        && disk.drive(path).is_some_and(|line| {
            let said = Said::by(&*line);
            (said.model(), said.serial()) == (drive.model.as_str(), drive.serial.as_str())
        })
}

/// Names a part of a drive after the drive's present name.
fn renumber(part: &mut PathBuf, former: &Path, now: &Path) {
    let (Some(text), Some(former), Some(now)) = (part.to_str(), former.to_str(), now.to_str())
    else {
        return;
    };
    if let Some(rest) = text.strip_prefix(former) {
        *part = PathBuf::from(format!("{now}{rest}"));
    }
}
