//! Which LUKS volumes go, which are left, and why: some are not the machine's own, because they can be pulled out or
//! because their files are somebody else's.
//!
//! A device stands on others, and a loop device on a file, which lies on a file system. Sources: sysfs(5), losetup(8),
//! proc_pid_mountinfo(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Crypt, Graph, line};
use crate::execute::wipe::network;
use crate::host::Host;

/// A LUKS volume that a wipe leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::execute::wipe) struct Left {
    /// Where it is.
    pub(in crate::execute::wipe) path: PathBuf,
    /// Which volume it is.
    pub(in crate::execute::wipe) uuid: String,
    /// Why.
    pub(in crate::execute::wipe) why: Why,
}

/// Why a LUKS volume is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::execute::wipe) enum Why {
    /// It can be pulled out, and crypttab does not name it.
    Removable,
    /// It is a file on a network file system: everybody's.
    Remote,
    /// It is not open, and crypttab does not name it.
    Locked,
    /// It does not answer, and is open or named by crypttab.
    Silent,
    /// Others were named.
    NotNamed,
}

/// Where a file system is.
#[derive(Debug)]
enum Around {
    Network,
    Device(String),
}

impl Why {
    /// For a person.
    pub(in crate::execute::wipe) const fn as_text(self) -> &'static str {
        match self {
            Self::Removable => "it can be pulled out",
            Self::Remote => "it lies on the network",
            Self::Locked => "it is locked, and crypttab does not name it",
            Self::Silent => "it does not answer",
            Self::NotNamed => "it is not among the targets that are named",
        }
    }

    /// Whether it is the machine's own, and stays because nobody said that it should go.
    pub(in crate::execute::wipe) const fn is_gap(self) -> bool {
        match self {
            Self::Locked | Self::Silent => true,
            Self::Removable | Self::Remote | Self::NotNamed => false,
        }
    }
}

/// Which of those volumes, each with its UUID, is another way to which: a device below it, or another path to the same
/// drive. What only looks the same, as a leg of a mirror or a copy, is a volume of its own.
pub(in crate::execute::wipe) fn ways(
    host: &Host,
    shown: &[(PathBuf, String)],
) -> BTreeMap<PathBuf, PathBuf> {
    let graph = Graph::read(host);
    let name = |path: &Path| graph.nodes.keys().find(|name| graph.is_at(host, name, path)).cloned();
    let names: Vec<_> = shown.iter().map(|(path, uuid)| (name(path), uuid, path)).collect();
    let mut ways = BTreeMap::new();
    for (at, (name, uuid, path)) in names.iter().enumerate() {
        let Some(name) = name else { continue };
        let same = names.iter().enumerate().filter(|(_, (_, other, _))| other == uuid);
        let of = same.filter_map(|(other, (of, _, path))| Some((other, of.as_ref()?, path)));
        let mut of = of.filter(|(other, of, path)| {
            let is_below = *of != name && graph.below(of).contains(name);
            let is_kept = !ways.contains_key(path.as_path());
            is_kept && (is_below || (*other < at && graph.is_other_path(host, of, name)))
        });
        if let Some((_, _, of)) = of.next() {
            ways.insert((*path).clone(), (*of).clone());
        }
    }
    // A path of what is itself another way is one to the same target.
    let target = |of: &PathBuf| {
        let mut of = of;
        while let Some(next) = ways.get(of) {
            of = next;
        }
        of.clone()
    };
    ways.iter().map(|(way, of)| (way.clone(), target(of))).collect()
}

impl Graph {
    /// Whether both are the same part of one drive, to which two paths lead.
    fn is_other_path(&self, host: &Host, one: &str, other: &str) -> bool {
        let place = |name: &str| {
            let node = self.nodes.get(name)?;
            let folder = host.path("/sys/block").join(node.part_of.as_deref().unwrap_or(name));
            let wwid =
                ["device/wwid", "wwid"].into_iter().find_map(|file| line(&folder.join(file)));
            Some((wwid.filter(|wwid| !wwid.is_empty())?, node.start))
        };
        // What can be pulled out may say anything of itself.
        let is_fixed = !self.is_on_removable(one) && !self.is_on_removable(other);
        is_fixed && place(one).is_some_and(|one| Some(one) == place(other))
    }

    /// Which LUKS volumes go and which are left: those go that are `chosen`; where none are, those that
    /// crypttab names, and the machine's own that are open.
    pub(super) fn sort(
        &self,
        host: &Host,
        crypts: &[Crypt],
        luks: &BTreeMap<String, String>,
        chosen: &[PathBuf],
    ) -> (BTreeSet<String>, BTreeMap<String, Why>) {
        let named = self.named(host, crypts, luks);
        let (mounted, swapped) = (self.mounted(host), self.swapped(host));
        let open = self.nodes.keys().filter(|name| self.is_crypt(name));
        let used = mounted.keys().chain(&swapped).chain(open).flat_map(|name| self.below(name));
        let used: BTreeSet<_> = used.collect();
        let is_chosen = |name: &&String| chosen.iter().any(|path| self.is_at(host, name, path));
        let chosen_ones: BTreeSet<_> = self.nodes.keys().filter(is_chosen).cloned().collect();
        let mut volumes = chosen_ones.clone();
        let mut left = BTreeMap::new();
        let others: Vec<_> = luks.keys().filter(|name| !volumes.contains(*name)).collect();
        for name in others {
            let is_named = named.contains(name);
            let apart = self.apart(host, name).filter(|_| !is_named);
            let is_locked = !is_named && !used.contains(name);
            // One in a file is as a file is that nobody attached: everybody at a desktop may attach one.
            if is_locked && apart.is_none() && !self.files(name).is_empty() {
                continue;
            }
            let locked = is_locked.then_some(Why::Locked);
            match apart.or(locked).or((!chosen.is_empty()).then_some(Why::NotNamed)) {
                Some(why) => {
                    left.insert(name.clone(), why);
                }
                None => {
                    volumes.insert(name.clone());
                }
            }
        }
        // A path of a disk, a leg of a mirror: what is written to the device on top arrives there too, and a second
        // wipe would find the first one's bytes.
        let is_below_itself =
            |name: &String| volumes.iter().any(|of| self.is_other_way(luks, of, name));
        let goes_with_top = |name: &&String| !chosen_ones.contains(*name) && is_below_itself(name);
        let doubles: BTreeSet<_> = volumes.iter().filter(goes_with_top).cloned().collect();
        let volumes = &volumes - &doubles;
        let is_inside = |name: &&String| {
            let is_wanted = chosen_ones.contains(*name) || named.contains(*name);
            !is_wanted && self.files_lie_on(host, name, &volumes)
        };
        let inside: BTreeSet<_> = volumes.iter().filter(is_inside).cloned().collect();
        (&volumes - &inside, left)
    }

    /// Whether that device stands on one of those volumes, or its file lies on a file system that does: it goes with it.
    pub(super) fn lies_on(&self, host: &Host, name: &str, volumes: &BTreeSet<String>) -> bool {
        self.below(name).iter().any(|name| volumes.contains(name))
            || self.files_lie_on(host, name, volumes)
    }

    /// Whether the files that it is made of lie on file systems on those volumes, directly or in files themselves.
    fn files_lie_on(&self, host: &Host, name: &str, volumes: &BTreeSet<String>) -> bool {
        let (mut seen, mut open) = (BTreeSet::new(), self.files(name));
        while let Some(file) = open.pop() {
            let Some(Around::Device(of)) = self.around(host, Path::new(&file)) else { continue };
            if self.below(&of).iter().any(|name| volumes.contains(name)) {
                return true;
            }
            if seen.insert(of.clone()) {
                open.extend(self.files(&of));
            }
        }
        false
    }

    /// The files behind loop devices, or parts of such, that it is or stands on.
    fn files(&self, name: &str) -> Vec<String> {
        let below = self.below(name);
        let file = |name: &String| {
            let node = self.nodes.get(name)?;
            let whole = node.part_of.as_ref().and_then(|whole| self.nodes.get(whole));
            node.backing.clone().or_else(|| whole?.backing.clone())
        };
        below.iter().filter_map(file).collect()
    }

    /// Whether one shows the LUKS volume `of`, and stands below it.
    pub(super) fn is_other_way(
        &self,
        luks: &BTreeMap<String, String>,
        of: &str,
        name: &str,
    ) -> bool {
        let is_same = luks.get(of).is_some() && luks.get(of) == luks.get(name);
        is_same && of != name && self.below(of).contains(name)
    }

    /// Whether a device is the machine's own LUKS volume by what stands on it or by crypttab, whatever it says.
    pub(super) fn is_own_volume(&self, host: &Host, path: &Path, crypts: &[Crypt]) -> bool {
        let is_it = |name: &&String| super::device(host, name) == path;
        let Some((name, node)) = self.nodes.iter().find(|(name, _)| is_it(name)) else {
            return false;
        };
        let is_luks = |holder: &String| {
            let mapping = self.nodes.get(holder).and_then(|node| node.mapping.as_deref());
            mapping.is_some_and(|mapping| mapping.starts_with("CRYPT-LUKS"))
        };
        let is_named = |crypt: &Crypt| {
            !crypt.has_random_key && self.at(host, &crypt.source).as_ref() == Some(name)
        };
        let is_open = node.holders.iter().any(is_luks) && self.apart(host, name).is_none();
        is_open || crypts.iter().any(is_named)
    }

    /// Why a volume there is not the machine's own, if it is not.
    fn apart(&self, host: &Host, name: &str) -> Option<Why> {
        if self.is_on_removable(name) {
            return Some(Why::Removable);
        }
        let why = |file: &String| match self.around(host, Path::new(file))? {
            Around::Network => Some(Why::Remote),
            Around::Device(name) => self.is_on_removable(&name).then_some(Why::Removable),
        };
        self.files(name).iter().find_map(why)
    }

    fn is_on_removable(&self, name: &str) -> bool {
        let is_removable = |name: &String| self.nodes.get(name).is_some_and(|n| n.is_removable);
        self.below(name).iter().any(is_removable)
    }

    /// Where the file system is that a file lies on.
    fn around(&self, host: &Host, file: &Path) -> Option<Around> {
        let innermost = |places: Vec<PathBuf>| {
            let around = places.into_iter().filter(|place| file.starts_with(place));
            around.max_by_key(|place| place.components().count())
        };
        let mounts = self.mounts(host);
        let local = innermost(mounts.iter().map(|(_, place)| place.into()).collect());
        let depth =
            |place: &Option<PathBuf>| place.as_ref().map(|place| place.components().count());
        let remote = innermost(network::mounted(host));
        if remote.is_some() && depth(&remote) >= depth(&local) {
            return Some(Around::Network);
        }
        let of = mounts.iter().rev().find(|(_, place)| local.as_deref() == Some(Path::new(place)));
        of.map(|(name, _)| Around::Device(name.clone()))
    }
}
