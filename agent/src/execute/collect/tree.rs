//! The endpoint's files, found and opened without ever following a link.
//!
//! Each part of a path is opened below the one before, and only where it is a folder itself; a file is
//! looked at before it is opened, and opened by what was looked at. So nobody on the endpoint can put
//! something else into its place, and devices, pipes and sockets are never opened. A walk stays on the
//! file system that it began on. The agent's own state, with its keys, is never entered.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use protocol::limits;

use crate::host::Host;

/// The tree below the root of a host.
#[derive(Debug)]
pub(super) struct Tree {
    root: File,
    /// Device and number of the agent's state directory.
    own: Option<(u64, u64)>,
}

/// Something that a path of the order stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its path, without the slash at the front.
    pub(super) path: PathBuf,
    /// When it was modified, in seconds since 1970.
    pub(super) modified_at: i64,
    /// Why nothing can be read there, if that is known already.
    pub(super) trouble: Option<String>,
}

/// Something that was looked at, and not opened.
#[derive(Debug)]
pub(super) struct Seen {
    handle: File,
    pub(super) about: Metadata,
}

impl Seen {
    /// Where a link leads.
    pub(super) fn target(&self) -> io::Result<OsString> {
        Ok(readlinkat(&self.handle, "")?)
    }

    /// Opens exactly this, if it is a file, for reading. Leaves the time of its last reading alone
    /// where the agent may.
    pub(super) fn open(&self) -> io::Result<File> {
        if !self.about.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let path = self.path();
        let open = |flags: OFlag| {
            OpenOptions::new()
                .read(true)
                .custom_flags((flags | OFlag::O_NONBLOCK).bits())
                .open(&path)
        };
        open(OFlag::O_NOATIME).or_else(|_| open(OFlag::empty()))
    }

    /// The names in it, if it is a folder, in their order.
    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path())? {
            names.push(entry?.file_name());
            if names.len() > limits::COLLECTION_ITEMS {
                break;
            }
        }
        names.sort();
        Ok(names)
    }

    /// The way back to what this is, whatever its name leads to by now (proc_pid_fd(5)).
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }
}

impl Tree {
    pub(super) fn open(host: &Host) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = host.everybodys_root();
        let root = OpenOptions::new().read(true).custom_flags(flags.bits()).open(root)?;
        let own = fs::metadata(&host.state_dir).ok().map(|own| (own.dev(), own.ino()));
        Ok(Self { root, own })
    }

    /// Looks at what is there, a link as a link.
    pub(super) fn look(&self, path: &Path) -> io::Result<Seen> {
        let mut handle = self.root.try_clone()?;
        let mut parts = path.iter().peekable();
        while let Some(part) = parts.next() {
            let kind = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
            handle = File::from(openat(&handle, part, flags, Mode::empty())?);
            let about = handle.metadata()?;
            if self.own == Some((about.dev(), about.ino())) {
                return Err(io::Error::other("the agent's own state is not collected"));
            }
        }
        let about = handle.metadata()?;
        Ok(Seen { handle, about })
    }

    /// All that a path of the order stands for, folders with what is in them. Never empty: what is
    /// not there is found to be so.
    pub(super) fn list(&self, pattern: &str) -> Vec<Found> {
        let mut found = Vec::new();
        let tops = self.expand(pattern);
        if tops.is_empty() {
            found.push(trouble(PathBuf::from(pattern.trim_start_matches('/')), "nothing is there"));
        }
        for top in tops {
            self.walk(top, &mut found);
        }
        found
    }

    /// The paths that a pattern stands for; those without a `*` whether or not they are there.
    fn expand(&self, pattern: &str) -> Vec<PathBuf> {
        let mut paths = vec![PathBuf::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            if !part.contains('*') {
                paths.iter_mut().for_each(|path| path.push(part));
                continue;
            }
            let below = |path: PathBuf| {
                let names = self.look(&path).and_then(|seen| seen.names()).unwrap_or_default();
                let fits = move |name: &OsString| matches(part.as_bytes(), name.as_bytes());
                names.into_iter().filter(fits).map(move |name| path.join(name))
            };
            paths = paths.into_iter().flat_map(below).take(limits::COLLECTION_ITEMS).collect();
        }
        // Beyond the first `*`, a name may lead nowhere.
        let has_choice = pattern.contains('*');
        paths.retain(|path| !has_choice || self.look(path).is_ok());
        paths
    }

    fn walk(&self, top: PathBuf, found: &mut Vec<Found>) {
        let device = self.look(&top).ok().map(|seen| seen.about.dev());
        let mut ahead = vec![top];
        while let Some(path) = ahead.pop() {
            if found.len() > limits::COLLECTION_ITEMS {
                found.push(trouble(path, "there is more than is collected"));
                return;
            }
            let seen = match self.look(&path) {
                Ok(seen) => seen,
                Err(error) => {
                    found.push(trouble(path, error));
                    continue;
                }
            };
            if !seen.about.is_dir() {
                let modified_at = seen.about.mtime();
                found.push(Found { path, modified_at, trouble: None });
                continue;
            }
            if device != Some(seen.about.dev()) {
                found.push(trouble(path, "another file system, not entered"));
                continue;
            }
            match seen.names() {
                Ok(names) => {
                    ahead.extend(names.into_iter().rev().map(|name| path.join(name)));
                }
                Err(error) => found.push(trouble(path, error)),
            }
        }
    }
}

fn trouble(path: PathBuf, trouble: impl ToString) -> Found {
    Found { path, modified_at: 0, trouble: Some(trouble.to_string()) }
}

/// The bytes of a path of the tree, as the endpoint names it.
pub(super) fn absolute(path: &Path) -> Vec<u8> {
    [b"/", path.as_os_str().as_bytes()].concat()
}

/// Whether a name is what the pattern stands for, each `*` being any bytes.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut pieces = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = name.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let at = (0..=rest.len()).find(|at| rest.get(*at..).is_some_and(|r| r.starts_with(piece)));
        let Some(at) = at else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

/// A name as it is shown.
pub(super) fn shown(name: &OsStr) -> String {
    protocol::collection::spelled(name.as_bytes())
}
