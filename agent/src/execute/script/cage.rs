//! A control group of the script's own: the kernel ends everything in it at once, also what forks faster than anybody
//! looks, and what nobody can see.
//!
//! Help, and no condition: without cgroup v2, or the right to make a group, whoever is left is looked for. A script
//! that runs as root may leave its group, and is looked for too. Source: cgroups(7), `cgroup.kill` since Linux 5.14.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use runtime::Entropy;

use crate::execute::hex;

/// Where cgroup v2 is mounted, where it is alone.
const MOUNTED: &str = "/sys/fs/cgroup";
/// How often is looked whether the group is empty.
const ROUND: Duration = Duration::from_millis(20);
/// For how many rounds: who is killed may be in the middle of a write to a disk.
const ROUNDS: u32 = 250;

/// The control group that this process is in, as the system shows it: the script's own root may have no `/proc`.
pub(super) fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(MOUNTED).join(own))
}

/// One group.
#[derive(Debug)]
pub(super) struct Cage {
    folder: PathBuf,
    former: PathBuf,
}

impl Cage {
    /// A new one in that group.
    pub(super) fn below(former: PathBuf) -> Option<Self> {
        let name = format!("tocsin-script-{}", hex(&Entropy::system().bytes::<8>()));
        let cage = Self { folder: former.join(name), former };
        fs::create_dir(&cage.folder).ok()?;
        // What is dropped goes.
        cage.folder.join("cgroup.kill").exists().then_some(cage)
    }

    /// Starts what is born in there; this process is back outside of it afterwards. Says as well whether it is.
    pub(super) fn around<T>(&self, start: impl FnOnce() -> io::Result<T>) -> (io::Result<T>, bool) {
        let is_inside = enter(&self.folder).is_ok();
        let started = start();
        (started, is_inside && enter(&self.former).is_ok())
    }

    /// Kills all in there. How many there were; `None` when some stay.
    pub(super) fn empty(&self) -> Option<u32> {
        let inside = fs::read_to_string(self.folder.join("cgroup.procs")).ok()?;
        fs::write(self.folder.join("cgroup.kill"), "1").ok()?;
        let is_empty = || {
            let events = fs::read_to_string(self.folder.join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == "populated 0")
        };
        let emptied = (0..ROUNDS).any(|round| {
            if round > 0 {
                thread::sleep(ROUND);
            }
            is_empty()
        });
        emptied.then(|| u32::try_from(inside.lines().count()).unwrap_or(u32::MAX))
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Moves this process.
fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}
