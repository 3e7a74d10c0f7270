//! Network file systems are let go before anything is destroyed, and nothing on them is deleted.
//!
//! A wipe never deletes by path; letting go keeps a dead server from holding it up, and keeps
//! whatever else runs on a dying machine away from other people's files. Source: umount(2),
//! proc_pid_mountinfo(5).

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::execute::course::{Course, patience};
use crate::execute::tool::Tool;
use crate::host::{Arming, Host};

#[cfg(test)]
mod tests;

const STAGE: &str = "apply";
/// Mounts that one call detaches; most machines have no more.
const AT_ONCE: usize = 256;

/// File systems whose files are somewhere else.
const KINDS: [&str; 24] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse.davfs2",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "glusterfs",
    "gfs2",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// Where network file systems are mounted, the innermost first; never the root itself.
pub(super) fn mounted(host: &Host) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string(host.path("/proc/self/mountinfo")).unwrap_or_default();
    let places = mounts.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        let place = unescaped(mount.split(' ').nth(4)?);
        (KINDS.contains(&kind) && place != "/").then(|| PathBuf::from(place))
    });
    let mut places: Vec<_> = places.collect();
    places.reverse();
    places
}

/// Detaches them lazily: at once, whatever still uses them.
pub(super) fn detach(host: &Host) {
    let_go(host, &mounted(host));
}

/// Detaches what is mounted there, for everybody. However many places there are, keys wait for all of them together
/// no longer than [`patience::DETACH`].
///
/// The unit of an armed agent has mounts of its own, in which detaching is nobody else's business,
/// and may enter no others: the service manager does it where everybody sees it.
pub(super) fn let_go(host: &Host, places: &[PathBuf]) {
    let_go_within(host, places, patience::DETACH);
}

fn let_go_within(host: &Host, places: &[PathBuf], at_most: Duration) {
    match host.arming {
        Arming::Armed => detach_for_all(host, places, at_most),
        Arming::Sandboxed | Arming::Simulated => {}
    }
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    for place in places {
        match umount2(&host.path(place), flags) {
            // The service manager may have been there before.
            Ok(()) | Err(Errno::EINVAL) => tracing::info!(path = %place.display(), "detached"),
            Err(error) => tracing::warn!(path = %place.display(), %error, "mount stays"),
        }
    }
}

fn detach_for_all(host: &Host, places: &[PathBuf], at_most: Duration) {
    let course = Course::default();
    course.allow(Some(host.course.within(at_most)));
    let arguments = ["--quiet", "--collect", "--wait", "--", "umount", "--lazy", "--"];
    for some in places.chunks(AT_ONCE) {
        let detached = course
            .check(STAGE)
            .and_then(|()| Tool::find("systemd-run", STAGE))
            .and_then(|tool| tool.args(arguments).args(some).during(&course).run_ok(STAGE));
        if let Err(error) = detached {
            tracing::warn!(error = error.detail, "mounts stay");
        }
    }
}

/// A path as mountinfo writes it: space, tab, newline and backslash as three octal digits.
pub(super) fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escape, meant)| path.replace(escape, meant))
}
