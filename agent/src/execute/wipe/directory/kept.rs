//! One stored key of a directory: overwritten where it is, looked at on the drive, removed.
//!
//! fscrypt(1) keeps it wrapped in a file of the file system's root, systemd-homed in extended attributes of the
//! directory.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use drive::file::{self, Policy};
use nix::fcntl::OFlag;
use runtime::Entropy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::medium::{self, Run};
use super::{DirectoryError, as_named};
use crate::execute::sha256_hex;
use crate::execute::wipe::volume;
use crate::host::Host;

/// Where fscrypt(1) keeps keys, below the root of a file system.
const POLICIES: &str = ".fscrypt/policies";
/// How systemd-homed calls the attributes that it keeps one in, up to a number.
const SLOTS: [&str; 2] = ["trusted.fscrypt_slot", "user.fscrypt_slot"];
/// Bytes of the longest stored key: theirs have some hundred.
const MAX_BYTES: u64 = 64 * 1024;

/// Where a key is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::execute::wipe) enum Place {
    /// In that file, as the endpoint names it.
    File(PathBuf),
    /// In that extended attribute of the directory.
    Attribute(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Attribute(name) => f.write_str(name),
        }
    }
}

/// How far its destruction came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Progress {
    /// Nothing is known to be destroyed.
    Pending,
    /// It is overwritten.
    Overwritten,
    /// It is removed too.
    Gone,
}

/// What was seen of its old bytes on the drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OldBytes {
    /// They were seen in their place before, and then in the same place what was written over them.
    OverwrittenInPlace,
    /// Their place is not known, or something else is there: copies may be left.
    MayBeLeft,
}

/// One stored key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    place: Place,
    bytes: u64,
    before_sha256: String,
    /// Where its bytes were seen on the drive.
    runs: Vec<Run>,
    /// What was written over it, where that is known.
    after_sha256: Option<String>,
    old_bytes: Option<OldBytes>,
    progress: Progress,
}

/// The stored keys of a directory, as they are now.
pub(super) fn find(host: &Host, place: &Path, policy: Policy) -> Result<Vec<Kept>, DirectoryError> {
    let mut found = Vec::new();
    for path in files(host, place, policy) {
        let (mut file, _) = open(&path, OpenOptions::new().read(true))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let runs = medium::runs(host, &file, &content);
        found.push(Kept::new(Place::File(as_named(host, &path)), &content, runs));
    }
    let directory = File::open(place)?;
    let slots = file::attributes(&directory)?;
    let is_slot = |name: &&String| {
        let number = SLOTS.iter().find_map(|prefix| name.strip_prefix(prefix));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    for name in slots.iter().filter(is_slot) {
        if let Some(content) = file::attribute(&directory, name)? {
            // No file system says where it lies: ext4 names the inode, not the block beside it.
            let place = Place::Attribute(name.clone());
            found.push(Kept::new(place, &content, Vec::new()));
        }
    }
    Ok(found)
}

/// The files in which fscrypt(1) may keep the key: at each place at which the file system may be mounted.
fn files(host: &Host, place: &Path, policy: Policy) -> Vec<PathBuf> {
    let Ok(root) = host.root.canonicalize() else { return Vec::new() };
    let Ok(on) = fs::metadata(place).map(|found| found.dev()) else { return Vec::new() };
    let is_same = |path: &Path| fs::metadata(path).is_ok_and(|found| found.dev() == on);
    let above = place.ancestors().take_while(|path| path.starts_with(&root)).map(Path::to_owned);
    let mounted = medium::mounts(host, on).into_iter().map(|path| host.path(path));
    let mut found = Vec::new();
    for top in above.chain(mounted).filter(|path| is_same(path)) {
        let Ok(folder) = top.join(POLICIES).canonicalize() else { continue };
        let file = folder.join(policy.key_name());
        let is_there = fs::symlink_metadata(&file).is_ok();
        if is_there && file.starts_with(&root) && !found.contains(&file) {
            found.push(file);
        }
    }
    found
}

/// Opens a file that has no other name and is no link: anybody may write where fscrypt(1) keeps keys.
fn open(path: &Path, options: &mut OpenOptions) -> Result<(File, Metadata), DirectoryError> {
    let file = options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    let found = file.metadata()?;
    if found.is_file() && found.nlink() == 1 && found.len() <= MAX_BYTES {
        return Ok((file, found));
    }
    Err(DirectoryError::NoFile(path.to_owned()))
}

impl Kept {
    fn new(place: Place, content: &[u8], runs: Vec<Run>) -> Self {
        Self {
            place,
            bytes: content.len() as u64,
            before_sha256: sha256_hex(content),
            runs,
            after_sha256: None,
            old_bytes: None,
            progress: Progress::Pending,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn is_destroyed(&self) -> bool {
        self.progress >= Progress::Overwritten
    }

    /// Whether this is that one, overwritten and not yet removed.
    pub(super) fn is_what_is_left_of(&self, former: &Self) -> bool {
        let is_overwritten = former.progress == Progress::Overwritten;
        is_overwritten && former.after_sha256.as_ref() == Some(&self.before_sha256)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.progress == Progress::Gone
    }

    /// The folder that lies on the same file system.
    pub(super) fn folder(&self, host: &Host, directory: &Path) -> PathBuf {
        match &self.place {
            Place::File(path) => {
                let file = host.path(path);
                file.parent().map_or_else(|| file.clone(), Path::to_owned)
            }
            Place::Attribute(_) => directory.to_owned(),
        }
    }

    /// Why it cannot be destroyed, where that is known before.
    pub(super) fn hindrance(&self, host: &Host, directory: &Path) -> Option<String> {
        volume::hindrance(&self.folder(host, &host.path(directory)))
    }

    /// Writes random bytes over it. From here on it opens nothing.
    pub(super) fn overwrite(
        &mut self,
        host: &Host,
        directory: &Path,
    ) -> Result<(), DirectoryError> {
        if self.is_gone() {
            return Ok(());
        }
        let random = match &self.place {
            Place::File(path) => {
                let opened = open(&host.path(path), OpenOptions::new().write(true));
                let (mut file, found) = match opened {
                    Err(DirectoryError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                        return self.went();
                    }
                    opened => opened?,
                };
                let random = random(found.len());
                file.write_all(&random)?;
                file.sync_all()?;
                random
            }
            Place::Attribute(name) => {
                let directory = File::open(directory)?;
                let Some(now) = file::attribute(&directory, name)? else { return self.went() };
                let random = random(now.len() as u64);
                file::overwrite_attribute(&directory, name, &random)?;
                directory.sync_all()?;
                random
            }
        };
        self.after_sha256 = Some(sha256_hex(&random));
        self.runs.iter_mut().for_each(|run| run.expect(&random));
        self.progress = Progress::Overwritten;
        Ok(())
    }

    /// It is not there: was that us?
    fn went(&mut self) -> Result<(), DirectoryError> {
        if !self.is_destroyed() {
            return Err(DirectoryError::Gone(self.place.clone()));
        }
        Ok(())
    }

    /// Looks at the drive where its bytes were, past the cache.
    pub(super) fn look(&mut self, host: &Host) {
        if !self.is_destroyed() {
            return;
        }
        let is_new = |run: &Run| run.look(host).is_some_and(|digest| run.is_after(&digest));
        let in_place = !self.runs.is_empty() && self.runs.iter().all(is_new);
        let seen = if in_place { OldBytes::OverwrittenInPlace } else { OldBytes::MayBeLeft };
        self.old_bytes.get_or_insert(seen);
    }

    /// Removes what is left of it.
    pub(super) fn remove(&mut self, host: &Host, directory: &Path) -> Result<(), DirectoryError> {
        match &self.place {
            Place::File(path) => {
                match fs::remove_file(host.path(path)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error.into());
                    }
                    Ok(()) | Err(_) => {}
                }
                File::open(self.folder(host, directory))?.sync_all()?;
            }
            Place::Attribute(name) => {
                let directory = File::open(directory)?;
                file::remove_attribute(&directory, name)?;
                directory.sync_all()?;
            }
        }
        self.progress = Progress::Gone;
        Ok(())
    }

    /// Looks whether it is gone.
    pub(super) fn verify(&self, host: &Host, directory: &Path) -> Result<(), DirectoryError> {
        let is_there = match &self.place {
            Place::File(path) => fs::symlink_metadata(host.path(path)).is_ok(),
            Place::Attribute(name) => file::attribute(&File::open(directory)?, name)?.is_some(),
        };
        if is_there || !self.is_gone() {
            return Err(DirectoryError::Left(self.place.clone()));
        }
        let is_old = |run: &Run| run.look(host).is_some_and(|digest| run.is_before(&digest));
        if self.runs.iter().any(is_old) {
            return Err(DirectoryError::OldBytes(self.place.clone()));
        }
        Ok(())
    }

    /// What a receipt says of it.
    pub(super) fn observed(&self) -> Value {
        json!({
            "place": self.place.to_string(),
            "bytes": self.bytes,
            "before_sha256": self.before_sha256,
            "after_sha256": self.after_sha256,
            "old_bytes": self.old_bytes,
            "progress": self.progress,
        })
    }

    /// What identifies it.
    pub(super) fn facts(&self) -> Value {
        json!({ "place": self.place.to_string(), "sha256": self.before_sha256 })
    }
}

fn random(bytes: u64) -> Vec<u8> {
    let mut random = vec![0; usize::try_from(bytes).unwrap_or_default()];
    Entropy::system().fill(&mut random);
    random
}
