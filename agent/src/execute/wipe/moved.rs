//! Volumes and drives of a wipe that have other names after a boot: drives are numbered as they answer.
//!
//! A record names what it destroys by path, and a wipe that was cut off goes on in the next boot. Whatever is there
//! is compared before it is touched; this looks elsewhere for what is not. A volume is known by its UUID or by the
//! mark that its destruction left, swap by its place, a drive by model and serial number. What can be pulled out is
//! never taken for one: it may be a copy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use drive::said::Said;

use super::drives::Drive;
use super::graph::SwapKind;
use super::record::{Target, Wiping};
use super::volume::Disk;
use super::{destroy, graph, swap};
use crate::host::Host;

/// Finds again what is not where the record says.
pub(super) fn find(disk: &dyn Disk, host: &Host, wiping: &mut Wiping) {
    let mut moves = BTreeMap::new();
    for target in &mut wiping.targets {
        let of = target.clone();
        let is_at = |path: &Path| {
            let there = Target { path: path.to_owned(), ..of.clone() };
            destroy::is_same(disk, &there).unwrap_or(false)
        };
        moves.extend(follow(&mut target.path, graph::devices, host, is_at));
    }
    for swap in wiping.swaps.iter_mut().filter(|swap| swap.kind == SwapKind::Plain) {
        let of = swap.clone();
        let is_at = |path: &Path| swap::is_at(disk, host, &of, path);
        moves.extend(follow(&mut swap.path, graph::devices, host, is_at));
    }
    for drive in &mut wiping.drives {
        let of = drive.clone();
        // One that says nothing is known by its name alone.
        let is_at = |path: &Path| of.is_mute || is_drive(disk, &of, path);
        let moved = follow(&mut drive.path, graph::disks, host, is_at);
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

/// Follows something to where it is now, if it is not at that path. Answers from where to where it went.
fn follow(
    path: &mut PathBuf,
    places: fn(&Host) -> Vec<PathBuf>,
    host: &Host,
    is_at: impl Fn(&Path) -> bool,
) -> Option<(PathBuf, PathBuf)> {
    if is_at(path) {
        return None;
    }
    let now = places(host).into_iter().find(|path| is_at(path))?;
    tracing::warn!(from = %path.display(), to = %now.display(), "part of a wipe has another name now");
    let former = std::mem::replace(path, now.clone());
    Some((former, now))
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
