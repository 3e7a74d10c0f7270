//! What a wipe keeps on disk: which volumes, which extents of them, and how far it came.
//!
//! Written before the first byte is destroyed: once a header is gone, nothing else could tell
//! where the keys were, or that this volume is the one that was meant.

use std::ops::Range;
use std::path::PathBuf;

use protocol::action::WipeLevel;
use protocol::id::CommandId;
use serde::{Deserialize, Serialize};

use super::super::state_file::StateFile;
use super::bare::Bare;
use super::directory::Directory;
use super::drives::Drive;
use super::graph::Left;
use super::home::Home;
use super::luks::Format;
use super::volume::Erasure;

#[cfg(test)]
mod tests;

/// One wipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wiping {
    /// The command that ordered it.
    pub(super) command_id: CommandId,
    /// Its envelope: the justification for going on after a power cut.
    pub(super) envelope: String,
    /// How far it goes.
    pub(super) level: WipeLevel,
    /// Whether every target came as far as the level says.
    pub(super) finished: bool,
    /// The volumes, in the order of their destruction.
    pub(super) targets: Vec<Target>,
    /// What has no keys and is erased as a whole.
    #[serde(default, rename = "swaps")]
    pub(super) bare: Vec<Bare>,
    /// What lies on none of them either and stays readable.
    #[serde(default)]
    pub(super) unencrypted: Vec<PathBuf>,
    /// Other LUKS volumes, which are left alone.
    #[serde(default)]
    pub(super) left: Vec<Left>,
    /// Files that go with them, as the endpoint names them.
    #[serde(default)]
    pub(super) files: Vec<PathBuf>,
    /// Directories with keys of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) directories: Vec<Directory>,
    /// Homes whose keys are among those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) homes: Vec<Home>,
    /// The drives that all of these lie on, as far as they are to be erased whole.
    #[serde(default)]
    pub(super) drives: Vec<Drive>,
    /// What becomes of the TPM, where there is one.
    #[serde(default)]
    pub(super) tpm: Option<TpmFate>,
}

/// What becomes of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TpmFate {
    /// It is to be cleared.
    Pending,
    /// It is cleared: what it made before is nobody's.
    Cleared,
    /// It takes a password for that, or forbids it.
    NotAuthorized,
    /// It does not answer as it should.
    Failed,
    /// The device's key is in it, which signs the receipt: it is cleared when the power goes.
    WithPower,
    /// The device's key is in it, and the power stays on.
    KeptForKey,
}

impl StateFile for Wiping {
    const NAME: &'static str = "wipe.json";
}

/// One volume of a wipe. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Which part of that it is, where it is not the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<Range<u64>>,
    /// Other ways to the same bytes, which were named or found beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ways: Vec<PathBuf>,
    /// Which LUKS it is.
    #[serde(default)]
    pub(super) format: Format,
    /// Which volume it is.
    pub(super) uuid: String,
    /// Random bytes in hexadecimal, with which the destroyed volume begins: after a power cut
    /// they tell this volume from any other that might have taken its path.
    pub(super) marker: String,
    /// Size of one of its headers.
    pub(super) header_bytes: u64,
    /// Keyslots that held keys.
    pub(super) keyslots: usize,
    /// SHA-256 of its headers before.
    pub(super) headers_before_sha256: String,
    /// SHA-256 of what was written over them.
    pub(super) headers_after_sha256: Option<String>,
    /// Where the keys were.
    pub(super) key_area: Range<u64>,
    /// SHA-256 of what was written over them.
    pub(super) key_area_sha256: Option<String>,
    /// Where the data is, unless on another device.
    pub(super) data: Option<Range<u64>>,
    /// Up to where the data is destroyed.
    pub(super) data_done: u64,
    /// In which way, the weakest of several.
    #[serde(default)]
    pub(super) erasure: Option<Erasure>,
    /// How far the destruction came.
    pub(super) progress: Progress,
}

impl Target {
    /// Where its headers are.
    pub(super) fn headers(&self) -> Range<u64> {
        self.format.headers(self.header_bytes)
    }
}

impl Wiping {
    /// What is erased as a whole: volumes, what has no keys, and drives that erase themselves.
    pub(super) fn going(&self) -> Vec<PathBuf> {
        let asked = |drive: &&Drive| drive.begun.is_some() || !drive.methods.is_empty();
        let drives = self.drives.iter().filter(asked).map(|drive| drive.path.clone());
        let targets = self.targets.iter().map(|target| target.path.clone());
        targets.chain(self.bare.iter().map(|bare| bare.path.clone())).chain(drives).collect()
    }

    /// Whether everything came as far as the level says.
    pub(super) fn is_complete(&self) -> bool {
        self.has_reached(Progress::goal(self.level))
            && self.bare.iter().all(Bare::is_done)
            && self.directories.iter().all(Directory::is_done)
            && self.tpm != Some(TpmFate::Pending)
    }

    /// Whether every volume came at least that far.
    pub(super) fn has_reached(&self, progress: Progress) -> bool {
        self.targets.iter().all(|target| target.progress >= progress)
    }
}

/// How far the destruction of one volume came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Progress {
    /// Nothing is known to be destroyed.
    Pending,
    /// The keyslots area is overwritten.
    Keys,
    /// The headers are overwritten too.
    Headers,
    /// The data area is erased too.
    Data,
}

impl Progress {
    /// What the level asks for.
    pub(super) fn goal(level: WipeLevel) -> Self {
        match level {
            WipeLevel::Keys => Self::Headers,
            WipeLevel::Data => Self::Data,
        }
    }

    /// The step that may be taken from here.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Pending => Some(Self::Keys),
            Self::Keys => Some(Self::Headers),
            Self::Headers => Some(Self::Data),
            Self::Data => None,
        }
    }
}
