//! The undo journal of a lock: what each thing was before, written durably before it changes.
//!
//! The first entry about a thing wins: locking a locked device again must not take its locked
//! shape for the former one. Entries are removed only when everything is restored.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::receipt::Evidence;
use serde::{Deserialize, Serialize};

use super::accounts::FormerExpiry;
use super::file::{self, Attributes, FileError, Found};
use crate::execute::{Plan, sha256_hex};
use crate::host::Host;

/// The undo journal of one host.
#[derive(Debug)]
pub(super) struct UndoJournal {
    folder: PathBuf,
}

/// One file that a lock changed or made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Where it is, as the endpoint sees it, symbolic links followed.
    pub(super) path: PathBuf,
    /// What it was; `None` when the lock made it.
    pub(super) former: Option<FormerFile>,
    /// SHA-256 of what the lock wrote, in hexadecimal.
    pub(super) written_sha256: String,
}

/// A file as it was before the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FormerFile {
    /// SHA-256 of its bytes, in hexadecimal.
    pub(super) sha256: String,
    /// The permission bits.
    mode: u32,
    /// The owner.
    uid: u32,
    /// The group.
    gid: u32,
    /// Its bytes.
    base64: String,
}

impl FormerFile {
    /// The file as it was found.
    pub(super) fn new(found: &Found) -> Self {
        let Attributes { mode, uid, gid } = found.attributes;
        let base64 = BASE64.encode(&found.bytes);
        Self { sha256: sha256_hex(&found.bytes), mode, uid, gid, base64 }
    }

    /// Its bytes and attributes; `None` when the entry was damaged.
    pub(super) fn found(&self) -> Option<Found> {
        let bytes = BASE64.decode(&self.base64).ok()?;
        let attributes = Attributes { mode: self.mode, uid: self.uid, gid: self.gid };
        (sha256_hex(&bytes) == self.sha256).then_some(Found { bytes, attributes })
    }
}

/// A user whose processes outlived logging out, before the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lingerer {
    /// The login name.
    pub(super) name: String,
    /// The user id, where the local account database knew it.
    pub(super) uid: Option<u32>,
}

impl UndoJournal {
    /// The undo journal of a host; nothing is made yet.
    pub(super) fn new(host: &Host) -> Self {
        Self { folder: host.state_dir.join("lock-undo") }
    }

    /// Whether there is anything to undo.
    pub(super) fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    /// The entry about a file.
    pub(super) fn file(&self, path: &Path) -> Result<Option<FileEntry>, FileError> {
        file::load(&self.file_path(path))
    }

    /// Writes the entry about a file, durably.
    pub(super) fn save_file(&self, entry: &FileEntry) -> Result<(), FileError> {
        self.save(&self.file_path(&entry.path), entry)
    }

    /// The entries about files, in a stable order. One that cannot be read is no reason to leave the others.
    pub(super) fn files(&self) -> Vec<Result<FileEntry, FileError>> {
        let names = match file::names(&self.folder) {
            Ok(names) => names,
            Err(error) => return vec![Err(error)],
        };
        let entries = names.iter().filter(|name| name.starts_with("file-"));
        entries.filter_map(|name| file::load(&self.folder.join(name)).transpose()).collect()
    }

    fn file_path(&self, path: &Path) -> PathBuf {
        let digest = sha256_hex(path.as_os_str().as_encoded_bytes());
        self.folder.join(format!("file-{}.json", &digest[..32]))
    }

    /// What accounts expired before.
    pub(super) fn expiries(&self) -> Result<Vec<FormerExpiry>, FileError> {
        Ok(file::load(&self.folder.join("shadow.json"))?.unwrap_or_default())
    }

    /// Adds what accounts expired before; accounts that are known already keep their entry.
    pub(super) fn add_expiries(&self, new: Vec<FormerExpiry>) -> Result<(), FileError> {
        let mut known = self.expiries()?;
        let before = known.len();
        for entry in new {
            if known.iter().all(|other| other.name != entry.name) {
                known.push(entry);
            }
        }
        if known.len() == before {
            return Ok(());
        }
        self.save(&self.folder.join("shadow.json"), &known)
    }

    /// Who lingered before.
    pub(super) fn lingerers(&self) -> Result<Vec<Lingerer>, FileError> {
        Ok(file::load(&self.folder.join("linger.json"))?.unwrap_or_default())
    }

    /// Adds who lingered before.
    pub(super) fn add_lingerers(&self, new: Vec<Lingerer>) -> Result<(), FileError> {
        let mut known = self.lingerers()?;
        let before = known.len();
        for lingerer in new {
            if known.iter().all(|other| other.name != lingerer.name) {
                known.push(lingerer);
            }
        }
        if known.len() == before {
            return Ok(());
        }
        self.save(&self.folder.join("linger.json"), &known)
    }

    /// The folders that the lock made.
    pub(super) fn folders(&self) -> Result<Vec<String>, FileError> {
        Ok(file::load(&self.folder.join("folders.json"))?.unwrap_or_default())
    }

    /// Adds a folder that the lock is about to make.
    pub(super) fn add_folder(&self, path: &str) -> Result<(), FileError> {
        let mut known = self.folders()?;
        if known.iter().any(|other| other == path) {
            return Ok(());
        }
        known.push(path.to_owned());
        self.save(&self.folder.join("folders.json"), &known)
    }

    /// The digests of what a lock or a wipe wrote to `/run/nologin`: of somebody else's there is none.
    pub(super) fn nologins(&self) -> Result<Vec<String>, FileError> {
        Ok(file::load(&self.folder.join("nologin.json"))?.unwrap_or_default())
    }

    /// Adds the digest of what is about to be written there.
    pub(super) fn add_nologin(&self, sha256: String) -> Result<(), FileError> {
        let mut known = self.nologins()?;
        if known.contains(&sha256) {
            return Ok(());
        }
        known.push(sha256);
        self.save(&self.folder.join("nologin.json"), &known)
    }

    fn save<T: Serialize>(&self, path: &Path, document: &T) -> Result<(), FileError> {
        file::make_private_dir(&self.folder)?;
        file::save(path, document)
    }

    /// What is to be undone, as far as it can be read: what is damaged keeps nobody locked out for whom an unlock
    /// was signed.
    pub(super) fn plan(&self) -> Plan {
        let mut damaged = Vec::new();
        let mut told = |error: FileError| damaged.push(error.at("precheck").detail);
        let files = self.files().into_iter();
        let files: Vec<_> = files.filter_map(|entry| entry.map_err(&mut told).ok()).collect();
        let accounts = self.expiries().map_err(&mut told).unwrap_or_default().len();
        let lingerers = self.lingerers().map_err(&mut told).unwrap_or_default().len();
        let mut steps: Vec<String> =
            files.iter().map(|entry| format!("restore {}", entry.path.display())).collect();
        steps.push(format!("restore the expiry of {accounts} accounts"));
        steps.push(format!("restore lingering of {lingerers} users"));
        steps.extend(damaged.iter().map(|detail| format!("leave what nobody knows: {detail}")));
        let facts = Evidence::new()
            .with("files", files.len())
            .with("accounts", accounts)
            .with("lingerers", lingerers);
        Plan { steps, facts }
    }

    /// Removes the journal: everything is restored.
    pub(super) fn remove(&self) -> Result<(), FileError> {
        for name in file::names(&self.folder)? {
            file::remove(&self.folder.join(name))?;
        }
        file::remove_empty_dir(&self.folder)
    }
}
