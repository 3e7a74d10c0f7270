//! Volumes and drives of a wipe that have other names after a boot: drives are numbered as they answer.
//!
//! A record names what it destroys by path, and a wipe that was cut off goes on in the next boot. Whatever is there
//! is compared before it is touched; this looks elsewhere for what is not. A volume is known by its UUID or by the
//! mark that its destruction left, a drive by model and serial number. What can be pulled out is never taken for one:
//! it may be a copy.

use std::path::{Path, PathBuf};

use drive::said::Said;

use super::drives::Drive;
use super::record::{Target, Wiping};
use super::volume::Disk;
use super::{destroy, graph};
use crate::host::Host;

/// Finds again what is not where the record says.
pub(super) fn find(disk: &dyn Disk, host: &Host, wiping: &mut Wiping) {
    let mut moves = Vec::new();
    for target in &mut wiping.targets {
        let is_at = |path: &Path| {
            let there = Target { path: path.to_owned(), ..target.clone() };
            destroy::is_same(disk, &there).unwrap_or(false)
        };
        if is_at(&target.path) {
            continue;
        }
        let Some(path) = graph::devices(host).into_iter().find(|path| is_at(path)) else {
            continue;
        };
        let (from, to) = (target.path.display(), path.display());
        tracing::warn!(%from, %to, "volume of a wipe has another name now");
        moves.push((std::mem::replace(&mut target.path, path.clone()), path));
    }
    for drive in wiping.drives.iter_mut().filter(|drive| !drive.is_mute) {
        let is_at = |path: &Path| is_drive(disk, drive, path);
        if is_at(&drive.path) {
            continue;
        }
        if let Some(path) = graph::disks(host).into_iter().find(|path| is_at(path)) {
            drive.carries.iter_mut().for_each(|carried| renumber(carried, &drive.path, &path));
            drive.path = path;
        }
    }
    for carried in wiping.drives.iter_mut().flat_map(|drive| &mut drive.carries) {
        if let Some((_, path)) = moves.iter().find(|(former, _)| former == carried) {
            carried.clone_from(path);
        }
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
