//! Finds what a wipe of this machine has to destroy: the LUKS volumes that are open, or named in
//! crypttab, and the swap that lies on none of them; and what is left.
//!
//! Reads sysfs, procfs and crypttab below the host's root, and opens nothing by itself: which
//! devices are LUKS volumes is answered by the caller. Sources: sysfs(5), proc_pid_mountinfo(5),
//! swapon(8), crypttab(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::ask::Answers;
use super::bare::BareKind;
use crate::host::Host;

use self::crypttab::{Crypt, crypttab};
pub(super) use self::left::{Left, Why, ways};
pub(super) use self::own::own;

mod crypttab;
mod idle;
mod left;
mod own;
mod removable;

/// File systems that are made of files which somebody else delivers: nothing of a person's.
const IMAGES: [&str; 3] = ["squashfs", "iso9660", "erofs"];
/// Where a machine keeps what it starts from, which cannot be encrypted.
const STARTED_FROM: [&str; 4] = ["/boot", "/boot/efi", "/efi", "/boot/firmware"];
/// What a system runs from.
const NEEDED: [&str; 5] = ["/", "/usr", "/etc", "/var", "/run"];
/// Bytes of what sysfs calls a sector, whatever the drive has.
const SECTOR: u64 = 512;
/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// LUKS volumes, by the names of their devices.
    pub(super) volumes: Vec<PathBuf>,
    /// Swap that lies on none of them.
    pub(super) swaps: Vec<(PathBuf, BareKind)>,
    /// LUKS volumes that are left alone.
    pub(super) left: Vec<Left>,
    /// Devices with file systems that lie on no volume, those that a machine starts from aside, whether they are
    /// mounted or not: what they hold stays readable.
    pub(super) unencrypted: Vec<PathBuf>,
}

/// One block device.
#[derive(Debug, Default)]
struct Node {
    /// Its number, `major:minor`.
    number: String,
    /// Devices that stand on it.
    holders: Vec<String>,
    /// What the device mapper calls it, if it is a mapping.
    mapping: Option<String>,
    /// The file behind it, if it is a loop device.
    backing: Option<String>,
    /// Whether the disk that it is, or is a part of, can be pulled out.
    is_removable: bool,
    /// The disk that it is a part of.
    part_of: Option<String>,
    /// Bytes of that disk before it.
    start: u64,
    /// Whether a piece of hardware stands behind it.
    is_hardware: bool,
}

/// Looks around on the host: for what is to go there, or, where targets are `chosen`, for what lies
/// beside them. `ask` asks devices what they are.
pub(super) fn discover(
    host: &Host,
    chosen: &[PathBuf],
    ask: &dyn Fn(&[PathBuf]) -> Answers,
) -> Found {
    let graph = Graph::read(host);
    let crypts = crypttab(host);
    let (mounted, swapped) = (graph.mounted(host), graph.swapped(host));
    let devices: Vec<_> = graph.nodes.keys().map(|name| device(host, name)).collect();
    let answers = ask(&devices);
    let uuid_of =
        |name: &String| Some((name.clone(), answers.luks.get(&device(host, name))?.clone()));
    let luks: BTreeMap<_, _> = graph.nodes.keys().filter_map(uuid_of).collect();
    let mut found = Found::default();

    let (volumes, left) = graph.sort(host, &crypts, &luks, chosen);
    let on_volume = |name: &str| graph.lies_on(host, name, &volumes);
    // What lies on a volume goes with it, and so does another way to the same one.
    let goes = |name: &String| {
        on_volume(name) || volumes.iter().any(|of| graph.is_other_way(&luks, of, name))
    };
    let is_kept = |name: &str| graph.below(name).iter().any(|name| left.contains_key(name));
    for name in swapped.iter().filter(|name| !on_volume(name) && !is_kept(name)) {
        let kind = if graph.has_random_key(host, name, &crypts) {
            BareKind::RandomKey
        } else {
            BareKind::Plain
        };
        found.swaps.push((device(host, name), kind));
    }
    let readable = mounted.iter().filter(|(name, place)| {
        !on_volume(name) && !is_kept(name) && !STARTED_FROM.contains(&place.as_str())
    });
    found.unencrypted = readable.map(|(name, _)| device(host, name)).collect();
    let idle = graph.idle(host, &answers.plain);
    let idle = idle.filter(|name| !goes(name) && !is_kept(name));
    found.unencrypted.extend(idle.map(|name| device(host, name)));
    let stays = left.iter().filter(|(name, _)| !goes(name));
    let stays = stays.filter_map(|(name, why)| {
        Some(Left { path: device(host, name), uuid: luks.get(name)?.clone(), why: *why })
    });
    found.left = stays.collect();
    // Where targets are named, nobody asked for those beside them.
    let silent = answers.silent.into_iter().filter(|_| chosen.is_empty());
    let own = silent.filter(|path| graph.is_own_volume(host, path, &crypts));
    found.left.extend(own.map(|path| Left { path, uuid: String::new(), why: Why::Silent }));
    found.volumes = volumes.iter().map(|name| device(host, name)).collect();
    found
}

/// What stands on a volume: mappings by the names of their devices, and where their file systems
/// are mounted, the innermost first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Open mappings, such as `dm-0`.
    pub(super) mappings: Vec<String>,
    /// Places of the endpoint.
    pub(super) places: Vec<PathBuf>,
}

/// Looks at what stands on that volume, be it a device or a file.
pub(super) fn standing_on(host: &Host, volume: &Path) -> Standing {
    let graph = Graph::read(host);
    let Some(name) = graph.nodes.keys().find(|name| graph.is_at(host, name, volume)) else {
        return Standing::default();
    };
    let above = |other: &&String| *other != name && graph.below(other).contains(name);
    let mappings: Vec<String> = graph.nodes.keys().filter(above).cloned().collect();
    let mut places: Vec<_> =
        graph.mounts(host).into_iter().filter(|(name, _)| mappings.contains(name)).collect();
    places.reverse();
    let places = places.into_iter().map(|(_, place)| place.into()).collect();
    Standing { mappings, places }
}

/// Mappings that have a LUKS volume open and on which the running system does not lie, by the names that the device
/// mapper knows.
pub(super) fn spare_mappings(host: &Host, volume: &Path) -> Vec<String> {
    let graph = Graph::read(host);
    let mounts = graph.mounts(host);
    let carries_system = |mapping: &String| {
        let is_above = |name: &String| graph.below(name).contains(mapping);
        mounts.iter().any(|(name, place)| is_needed(host, place) && is_above(name))
    };
    let open = standing_on(host, volume).mappings.into_iter().filter(|name| graph.is_crypt(name));
    let spare = open.filter(|name| !carries_system(name));
    spare.filter_map(|name| line(&host.path("/sys/block").join(name).join("dm/name"))).collect()
}

/// Whether a part of what the system runs from lies on one of those devices, be it a volume or a whole drive.
pub(super) fn carry_system(host: &Host, devices: &[PathBuf]) -> bool {
    let graph = Graph::read(host);
    let is_one = |name: &String| devices.iter().any(|path| graph.is_at(host, name, path));
    let mut needed = graph.mounts(host).into_iter().filter(|(_, place)| is_needed(host, place));
    needed.any(|(name, _)| {
        let drives = graph.drives(&name).unwrap_or_default();
        graph.below(&name).union(&drives).any(is_one)
    })
}

/// Where the file system of that device, or of what stands on it, is mounted, the innermost first.
pub(super) fn places(host: &Host, path: &Path) -> Vec<PathBuf> {
    let graph = Graph::read(host);
    let Some(device) = graph.nodes.keys().find(|name| graph.is_at(host, name, path)) else {
        return Vec::new();
    };
    let is_on = |name: &String| graph.below(name).contains(device);
    let mounts = graph.mounts(host).into_iter().rev();
    mounts.filter(|(name, _)| is_on(name)).map(|(_, place)| place.into()).collect()
}

fn is_needed(host: &Host, place: &str) -> bool {
    NEEDED.contains(&place) || host.state_dir.starts_with(place)
}

/// Whether a mapping has that LUKS volume open.
pub(super) fn is_open(host: &Host, volume: &Path) -> bool {
    let graph = Graph::read(host);
    standing_on(host, volume).mappings.iter().any(|name| graph.is_crypt(name))
}

/// Block devices that cannot be pulled out.
pub(super) fn devices(host: &Host) -> Vec<PathBuf> {
    let nodes = Graph::read(host).nodes.into_iter();
    nodes.filter(|(_, node)| !node.is_removable).map(|(name, _)| device(host, &name)).collect()
}

/// Those of them that are whole drives.
pub(super) fn disks(host: &Host) -> Vec<PathBuf> {
    let is_drive = |node: &Node| node.is_hardware && node.part_of.is_none() && !node.is_removable;
    let nodes = Graph::read(host).nodes.into_iter();
    nodes.filter(|(_, node)| is_drive(node)).map(|(name, _)| device(host, &name)).collect()
}

/// What tells a device from others that may have its name in another boot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It lies on that drive, behind so many bytes.
    Drive(PathBuf, u64),
    /// It is a mapping of that UUID.
    Mapping(String),
}

/// Where a device comes from; `None` where nothing is known of that.
pub(super) fn origin(host: &Host, path: &Path) -> Option<Origin> {
    let nodes = Graph::read(host).nodes;
    let (name, node) = nodes.iter().find(|(name, _)| device(host, name) == path)?;
    if let Some(uuid) = node.mapping.as_ref().filter(|uuid| !uuid.is_empty()) {
        return Some(Origin::Mapping(uuid.clone()));
    }
    let whole = node.part_of.as_ref().unwrap_or(name);
    let is_drive = nodes.get(whole).is_some_and(|drive| drive.is_hardware);
    is_drive.then(|| Origin::Drive(device(host, whole), node.start))
}

/// A whole drive, and what of a wipe lies on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carrier {
    /// The drive.
    pub(super) path: PathBuf,
    /// What lies on it.
    pub(super) carries: Vec<PathBuf>,
    /// The running system lies on it.
    is_systems: bool,
}

/// The drives that those volumes lie on, with whatever else lies there; the running system's last. None that can
/// be pulled out, and, where volumes are named, none but those that are volumes as a whole: whoever names a part
/// means no more than that.
pub(super) fn carriers(
    host: &Host,
    volumes: &[PathBuf],
    others: &[PathBuf],
    are_named: bool,
) -> Vec<Carrier> {
    let graph = Graph::read(host);
    let drives = |path: &PathBuf| {
        let is_it = |name: &&String| device(host, name).canonicalize().ok().as_ref() == Some(path);
        graph.nodes.keys().find(is_it).and_then(|name| graph.drives(name)).unwrap_or_default()
    };
    let is_whole = |drives: &BTreeSet<String>, path: &PathBuf| {
        drives.iter().all(|name| device(host, name).canonicalize().ok().as_ref() == Some(path))
    };
    let mut carried: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in volumes {
        let drives = drives(path);
        for name in drives.iter().filter(|_| !are_named || is_whole(&drives, path)) {
            carried.entry(name.clone()).or_default().push(path.clone());
        }
    }
    for path in others {
        // What lies on another drive as well does not go with those.
        let on = path.canonicalize().map(|real| drives(&real)).unwrap_or_default();
        let goes_with_them = on.iter().all(|name| carried.contains_key(name));
        for name in on.into_iter().filter(|_| goes_with_them) {
            carried.entry(name).and_modify(|carries| carries.push(path.clone()));
        }
    }
    let mounts = graph.mounts(host);
    let roots = mounts.iter().filter(|(_, place)| place == "/");
    let systems: BTreeSet<_> = roots.filter_map(|(name, _)| graph.drives(name)).flatten().collect();
    let mut carriers: Vec<_> = carried
        .into_iter()
        .map(|(name, carries)| Carrier {
            path: device(host, &name),
            carries,
            is_systems: systems.contains(&name),
        })
        .collect();
    carriers.sort_by_key(|carrier| carrier.is_systems);
    carriers
}

/// The block devices, and what stands on what.
#[derive(Debug, Default)]
struct Graph {
    nodes: BTreeMap<String, Node>,
}

impl Graph {
    fn read(host: &Host) -> Self {
        let (mut graph, mut cards) = (Self::default(), BTreeSet::new());
        for disk in entries(&host.path("/sys/block")) {
            let is_removable = removable::is_removable(host, &disk);
            cards.extend(name(&disk).filter(|_| removable::is_card(&disk)));
            graph.add(&disk, is_removable, None);
            for part in entries(&disk) {
                if part.join("partition").exists() {
                    graph.add(&part, is_removable, name(&disk));
                }
            }
        }
        graph.pull_out(host, &cards);
        graph
    }

    fn add(&mut self, path: &Path, is_removable: bool, part_of: Option<String>) {
        let Some(name) = name(path) else { return };
        let holders = entries(&path.join("holders"));
        let sectors = line(&path.join("start")).and_then(|start| start.parse::<u64>().ok());
        let node = Node {
            number: line(&path.join("dev")).unwrap_or_default(),
            holders: holders.iter().filter_map(|path| self::name(path)).collect(),
            mapping: line(&path.join("dm/uuid")),
            backing: line(&path.join("loop/backing_file")),
            is_removable,
            part_of,
            start: sectors.unwrap_or(0).saturating_mul(SECTOR),
            is_hardware: path.join("device").exists(),
        };
        self.nodes.insert(name, node);
    }

    /// That device and all on which it stands.
    fn below(&self, name: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![name.to_owned()];
        while let Some(name) = open.pop() {
            let stands_on = |node: &Node| node.holders.contains(&name);
            open.extend(
                self.nodes
                    .iter()
                    .filter(|(below, node)| stands_on(node) && !seen.contains(*below))
                    .map(|(below, _)| below.clone()),
            );
            seen.insert(name);
        }
        seen
    }

    /// The whole drives that it stands on; `None` where one of them is no hardware, or can be pulled out.
    fn drives(&self, name: &str) -> Option<BTreeSet<String>> {
        let below = self.below(name);
        let stands_on_others =
            |name: &String| self.nodes.values().any(|node| node.holders.contains(name));
        let drives = below.iter().filter(|name| !stands_on_others(name)).map(|name| {
            let node = self.nodes.get(name)?;
            let whole = node.part_of.as_ref().unwrap_or(name);
            let drive = self.nodes.get(whole)?;
            (drive.is_hardware && !drive.is_removable).then(|| whole.clone())
        });
        drives.collect()
    }

    /// Devices with a mounted file system, and one place of each.
    fn mounted(&self, host: &Host) -> BTreeMap<String, String> {
        self.mounts(host).into_iter().rev().collect()
    }

    /// Every mounted file system of a device, in the order of mounting. One without a number of
    /// its own names its source.
    fn mounts(&self, host: &Host) -> Vec<(String, String)> {
        self.mounted_as(host, &text(&host.path("/proc/self/mountinfo")), |_, _| true)
    }

    /// The same of those that are mounted so: which folder of it, and what kind it is.
    fn mounted_as(
        &self,
        host: &Host,
        mounts: &str,
        is_so: impl Fn(&str, &str) -> bool,
    ) -> Vec<(String, String)> {
        let mounted = mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut words = mount.split(' ').skip(2);
            let (number, root, place) = (words.next()?, words.next()?, words.next()?);
            let mut words = file_system.split(' ');
            let (kind, source) = (words.next()?, words.next()?);
            if IMAGES.contains(&kind) || !is_so(root, kind) {
                return None;
            }
            let by_number = self.nodes.iter().find(|(_, node)| node.number == number);
            let name = by_number.map(|(name, _)| name.clone()).or_else(|| self.at(host, source))?;
            Some((name, place.to_owned()))
        });
        mounted.collect()
    }

    /// Devices that are swapped to; what is compressed in memory is none.
    fn swapped(&self, host: &Host) -> BTreeSet<String> {
        let swaps = text(&host.path("/proc/swaps"));
        let parts = swaps.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            let (path, kind) = (words.next()?, words.next()?);
            if kind == "partition" { self.at(host, path) } else { None }
        });
        parts.filter(|name| !name.starts_with("zram")).collect()
    }

    /// Whether that device is at the path, or has the file there behind it.
    fn is_at(&self, host: &Host, name: &str, path: &Path) -> bool {
        let real = device(host, name).canonicalize().ok();
        let backing = self.nodes.get(name).and_then(|node| node.backing.as_deref());
        let backing = backing.map(|path| host.path(path));
        real.as_deref() == Some(path) || backing.as_deref() == Some(path)
    }

    /// Whether that device is an open mapping that decrypts.
    fn is_crypt(&self, name: &str) -> bool {
        let mapping = self.nodes.get(name).and_then(|node| node.mapping.as_deref());
        mapping.is_some_and(|mapping| mapping.starts_with("CRYPT-"))
    }

    /// The device at a path of the host, through whatever links lead there.
    fn at(&self, host: &Host, path: &str) -> Option<String> {
        if !path.starts_with("/dev/") {
            return None;
        }
        let real = host.path(path).canonicalize().ok()?;
        name(&real).filter(|name| self.nodes.contains_key(name))
    }
}

/// The node of a device, below the host's root.
fn device(host: &Host, name: &str) -> PathBuf {
    // sysfs writes `!` for the slash in names such as `cciss/c0d0`.
    host.path("/dev").join(name.replace('!', "/"))
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The entries of a folder in the order of their names; none of one that is not there.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut entries: Vec<_> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

fn line(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
