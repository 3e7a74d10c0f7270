//! The folder of one script: what its supervisor is told, holds and leaves behind.
//!
//! It lies where a boot forgets it, for no script outlives one. The supervisor alone holds the lock
//! exclusively, as long as it lives; whoever looks or waits shares it. What stands beside a lock that can be
//! shared is final, but for `abandoned`, after which nothing is begun.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use protocol::advance::Output;
use protocol::id::CommandId;
use runtime::files::{PRIVATE, write_atomic};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::order::Order;
use super::report::Ended;
use crate::host::Host;

/// Where scripts lie, as the endpoint names it.
const PLACE: &str = "/run/tocsin-scripts";
/// Bytes of the largest document in a folder.
const MAX_BYTES: usize = 256 * 1024;
/// Bytes of what a script has said last, as it lies here.
const SAID_BYTES: usize = 16 * 1024;
/// Bytes of a complaint that are read.
const COMPLAINT_BYTES: u64 = 400;
/// Whoever runs the script must get through to it, and see nothing else.
const PASSAGE: u32 = 0o711;

/// The folder of one command's script.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// As this process reaches it.
    here: PathBuf,
    /// As the endpoint names it.
    inside: PathBuf,
}

/// How it stands with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is nothing: it was never laid ready, or another boot has swept it away.
    Absent,
    /// Laid ready, and not begun.
    Unbegun,
    /// Somebody watches over it.
    Running,
    /// It ended, and how is written down.
    Ended,
    /// It was begun, and nobody watches over it any more.
    Lost,
}

impl Folder {
    pub(super) fn of(host: &Host, command: CommandId) -> Self {
        let inside = Path::new(PLACE).join(command.to_string());
        Self { here: host.path(&inside), inside }
    }

    /// The folder that a supervisor was told, in the root that it has by now.
    pub(super) fn at(inside: &Path) -> Self {
        Self { here: inside.to_owned(), inside: inside.to_owned() }
    }

    pub(super) fn inside(&self) -> &Path {
        &self.inside
    }

    pub(super) fn script(&self) -> PathBuf {
        self.here.join("script")
    }

    /// Where the script begins: empty, and its own.
    pub(super) fn work(&self) -> PathBuf {
        self.here.join("work")
    }

    /// Lays everything ready. Answers the file for complaints of whoever is started. What former
    /// commands left goes: they have ended.
    pub(super) fn prepare(&self, order: &Order, script: &str) -> io::Result<File> {
        let place = self.here.parent().unwrap_or(&self.here);
        DirBuilder::new().recursive(true).mode(PASSAGE).create(place)?;
        for entry in fs::read_dir(place)? {
            let former = entry?.path();
            if !matches!(Self::at(&former).standing(), Ok(Standing::Running)) {
                // What cannot be removed is in nobody's way: names are never used again.
                if let Err(error) = fs::remove_dir_all(&former) {
                    tracing::warn!(path = %former.display(), %error, "former script was not cleared");
                }
            }
        }
        DirBuilder::new().mode(PASSAGE).create(&self.here)?;
        DirBuilder::new().mode(0o700).create(self.work())?;
        // Readable by its account and nobody's to change: other scripts of that account run beside it.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o440).open(self.script())?;
        file.write_all(script.as_bytes())?;
        if let Some(account) = &order.account {
            chown(self.script(), Some(0), Some(account.gid))?;
            chown(self.work(), Some(account.uid), Some(account.gid))?;
        }
        fs::set_permissions(self.script(), Permissions::from_mode(0o440))?;
        // The umask of the agent may be narrower than a passage is.
        for path in [place, &self.here] {
            fs::set_permissions(path, Permissions::from_mode(PASSAGE))?;
        }
        self.write("order", order)?;
        let complaint = self.create("complaint")?;
        self.create("lock")?;
        Ok(complaint)
    }

    pub(super) fn order(&self) -> io::Result<Order> {
        self.read("order", MAX_BYTES)
    }

    pub(super) fn ended(&self) -> io::Result<Ended> {
        self.read("ended", MAX_BYTES)
    }

    /// The lock that a supervisor holds exclusively. Others share it: one that waits must not be taken for a
    /// supervisor by another that looks.
    pub(super) fn lock(&self) -> io::Result<File> {
        plain(OpenOptions::new().write(true)).open(self.here.join("lock"))
    }

    /// Marks the script as begun, once and for all. Whether it may begin.
    pub(super) fn begin(&self) -> io::Result<bool> {
        if self.here.join("abandoned").exists() {
            return Ok(false);
        }
        match self.create("begun") {
            Ok(file) => file.sync_all().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes down what it has said last.
    pub(super) fn tell(&self, said: &Output) -> io::Result<()> {
        self.write("said", said)
    }

    /// What it has said last, if somebody wrote that down. A script that runs as root may have: what is beyond
    /// its bounds is not told on.
    pub(super) fn said(&self) -> Option<Output> {
        let said: Output = self.read("said", SAID_BYTES).ok()?;
        Some(said).filter(Output::is_sound)
    }

    /// Writes down how it ended.
    pub(super) fn end(&self, ended: &Ended) -> io::Result<()> {
        self.write("ended", ended)
    }

    /// From now on nobody begins it, unless somebody has: says how it stands.
    pub(super) fn abandon(&self) -> io::Result<Standing> {
        self.look(|| match self.create("abandoned") {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(_) | Err(_) => Ok(()),
        })
    }

    pub(super) fn standing(&self) -> io::Result<Standing> {
        self.look(|| Ok(()))
    }

    /// How it stands; what nobody has begun is dealt with while nobody can begin it.
    fn look(&self, unbegun: impl FnOnce() -> io::Result<()>) -> io::Result<Standing> {
        let lock = match self.lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Standing::Absent),
            Err(error) => return Err(error),
        };
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Standing::Running),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let has = |name| self.here.join(name).exists();
        Ok(match (has("ended"), has("begun")) {
            (true, _) => Standing::Ended,
            (false, true) => Standing::Lost,
            (false, false) => {
                unbegun()?;
                Standing::Unbegun
            }
        })
    }

    /// What whoever was started complained about, on one line.
    pub(super) fn complaint(&self) -> String {
        let mut bytes = Vec::new();
        let file = plain(OpenOptions::new().read(true)).open(self.here.join("complaint"));
        let _ = file.and_then(|file| file.take(COMPLAINT_BYTES).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().filter(|c| !c.is_control()).collect()
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(self.here.join(name))
    }

    fn write<T: Serialize>(&self, name: &str, document: &T) -> io::Result<()> {
        let bytes = serde_json::to_vec(document)?;
        write_atomic(&self.here.join(name), &bytes, PRIVATE).map_err(io::Error::other)
    }

    fn read<T: DeserializeOwned>(&self, name: &str, most: usize) -> io::Result<T> {
        let file = plain(OpenOptions::new().read(true)).open(self.here.join(name))?;
        let mut bytes = Vec::new();
        file.take(u64::try_from(most).unwrap_or(u64::MAX) + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// Opens what this agent or a supervisor wrote. A script that runs as root may have put something else in its place:
/// nobody waits at a pipe or follows a link.
fn plain(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
}
