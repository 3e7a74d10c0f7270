//! Memory of processes: what their maps name, read while they run.
//!
//! The process goes on meanwhile, so regions are of slightly different moments. Regions that only the
//! process holds come before those that lie in files as well. The agent's own memory, with its keys,
//! is never read; nor is what devices put there, since reading that may do something.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use protocol::collection::{CONTENT_BYTES, Item, ItemEnd, Kind, Source, spelled};

use super::packer::{Open, Packer};
use super::spool::SpoolError;
use crate::host::Host;

/// Bytes of a process's maps that are read.
const MAPS_BYTES: usize = 8 * 1024 * 1024;
/// Regions that are not memory of their own: reading them fails, or may do something.
const NEVER: [&str; 3] = ["[vvar]", "[vvar_vclock]", "[vsyscall]"];

/// A line of the maps (proc_pid_maps(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    rights: String,
    is_in_file: bool,
    name: String,
}

/// Reads the memory of a process, or of all of that name.
pub(super) fn read(packer: &mut Packer<'_>, host: &Host, process: &str) -> Result<(), SpoolError> {
    let pids = match process.parse::<u32>() {
        Ok(pid) => vec![pid],
        Err(_) => of_name(host, process),
    };
    if pids.is_empty() {
        let trouble = Some("no process has that name".to_owned());
        return packer.empty(item(Kind::Absent, process.as_bytes()), trouble);
    }
    for pid in pids {
        if !packer.has_room() {
            return Ok(());
        }
        one(packer, host, pid)?;
    }
    Ok(())
}

/// Whether that is the agent, by the id of any of its threads: each has a folder that no listing
/// shows, with the memory of the whole process. What cannot be told apart is left alone.
fn is_own(host: &Host, id: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(host.path(format!("/proc/{id}/status"))) else {
        return id == std::process::id();
    };
    let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    leader
        .and_then(|leader| leader.trim().parse().ok())
        .is_none_or(|leader: u32| leader == std::process::id())
}

fn one(packer: &mut Packer<'_>, host: &Host, pid: u32) -> Result<(), SpoolError> {
    let name = name_of(host, pid);
    let told = |what: &str| [format!("{pid} ").as_bytes(), &name, b" ", what.as_bytes()].concat();
    if is_own(host, pid) {
        let trouble = Some("the agent's own memory is not read".to_owned());
        return packer.empty(item(Kind::Absent, &told("maps")), trouble);
    }
    let opened = maps(host, pid)
        .and_then(|maps| Ok((maps, File::open(host.path(format!("/proc/{pid}/mem")))?)));
    let (maps, memory) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return packer.empty(item(Kind::Absent, &told("maps")), Some(error.to_string()));
        }
    };
    let mut open = packer.begin(item(Kind::File, &told("maps")))?;
    let room = usize::try_from(open.room()).unwrap_or(usize::MAX).min(maps.len());
    packer.add(&mut open, maps.get(..room).unwrap_or_default())?;
    packer.end(ItemEnd { is_cut: room < maps.len(), ..open.end() })?;
    let text = String::from_utf8_lossy(&maps);
    let mut regions: Vec<_> = text.lines().filter_map(region).collect();
    regions.sort_by_key(|region| (region.is_in_file, region.start));
    for region in regions {
        if !packer.has_room() {
            return Ok(());
        }
        let Region { start, end, rights, name, .. } = &region;
        let what = told(&format!("{start:x}-{end:x} {rights} {name}"));
        let mut open = packer.begin(item(Kind::Region, &what))?;
        let (is_cut, trouble) = contents(packer, &mut open, &memory, &region)?;
        packer.end(ItemEnd { is_cut, trouble, ..open.end() })?;
    }
    Ok(())
}

fn contents(
    packer: &mut Packer<'_>,
    open: &mut Open,
    memory: &File,
    region: &Region,
) -> Result<(bool, Option<String>), SpoolError> {
    let mut piece = vec![0; CONTENT_BYTES];
    let mut at = region.start;
    while at < region.end {
        if packer.is_late() {
            return Ok((true, Some("the time for reading was up".to_owned())));
        }
        let most = (region.end - at).min(open.room());
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(piece.len());
        if most == 0 {
            return Ok((true, None));
        }
        let into = piece.get_mut(..most).unwrap_or_default();
        match memory.read_at(into, at) {
            Ok(length @ 1..) => {
                packer.add(open, into.get(..length).unwrap_or_default())?;
                at += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Ok((true, Some(format!("it ended at {at:x}")))),
            Err(error) => return Ok((true, Some(format!("at {at:x}: {error}")))),
        }
    }
    Ok((false, None))
}

fn maps(host: &Host, pid: u32) -> io::Result<Vec<u8>> {
    let mut maps = Vec::new();
    let file = File::open(host.path(format!("/proc/{pid}/maps")))?;
    file.take(MAPS_BYTES as u64).read_to_end(&mut maps)?;
    Ok(maps)
}

/// A region that can be read.
fn region(line: &str) -> Option<Region> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let mut fields = rest.splitn(4, ' ');
    let rights = fields.next().filter(|rights| rights.starts_with('r'))?.to_owned();
    let last = fields.nth(2)?;
    let (inode, name) = last.split_once(' ').unwrap_or((last, ""));
    let name = name.trim_start().to_owned();
    let is_device = name.starts_with("/dev/")
        && !["/dev/shm/", "/dev/zero"].iter().any(|fine| name.starts_with(fine));
    if is_device || NEVER.contains(&name.as_str()) {
        return None;
    }
    let (start, end) = (number(start)?, number(end)?);
    Some(Region { start, end, rights, is_in_file: inode != "0", name }).filter(|_| start < end)
}

/// Processes that the kernel knows by that name, in the order of their ids.
fn of_name(host: &Host, name: &str) -> Vec<u32> {
    let entries = fs::read_dir(host.path("/proc")).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = pids.filter(|pid| name_of(host, *pid) == name.as_bytes()).collect();
    pids.sort_unstable();
    pids
}

/// What the kernel knows a process by (proc_pid_comm(5)).
fn name_of(host: &Host, pid: u32) -> Vec<u8> {
    let name = fs::read(host.path(format!("/proc/{pid}/comm"))).unwrap_or_default();
    name.trim_ascii_end().to_vec()
}

fn item(kind: Kind, name: &[u8]) -> Item {
    Item { source: Source::Memory, name: spelled(name), kind, target: None, stat: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_told_from_lines_and_devices_are_left_alone() {
        let heap = region("55d0-55f0 rw-p 00000000 00:00 0                          [heap]");
        let heap = heap.expect("a region");
        assert_eq!((heap.start, heap.end, heap.is_in_file), (0x55d0, 0x55f0, false));
        assert_eq!(heap.name, "[heap]");
        let file = region("7f00-7f10 r-xp 00002000 fe:00 1234   /usr/lib/a b (deleted)");
        let file = file.expect("a region");
        assert_eq!((file.name.as_str(), file.is_in_file), ("/usr/lib/a b (deleted)", true));
        for line in [
            "7f00-7f10 ---p 00000000 00:00 0",
            "7f00-7f10 rw-s 00000000 00:05 7   /dev/mem",
            "7f00-7f10 r--p 00000000 00:00 0   [vvar]",
            "7f10-7f00 r--p 00000000 00:00 0",
            "nonsense",
        ] {
            assert_eq!(region(line), None, "{line}");
        }
        assert!(region("7f00-7f10 rw-p 00000000 00:00 0 ").is_some());
    }
}
