//! Files and directories, as far as only ioctls say it: the policy by which fscrypt encrypts a directory, whether the
//! kernel has the key, where the bytes of a file lie on the device.
//!
//! Owns the words. The calls are in `kernel/file.rs`. Reads no data of anybody, and decides nothing.
//!
//! Sources: `linux/fscrypt.h` and the kernel's documentation of fscrypt, `linux/fiemap.h`, `EXT4_IOC_CHECKPOINT` in
//! the kernel's documentation of ext4.

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use crate::kernel::file::{
    attribute, attributes, empty_journal, extents, key_presence, overwrite_attribute, policy,
    remove_attribute, remove_key,
};

/// By which key fscrypt encrypts a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Version 1. Whoever sets one up chose the name of its key, which is in the keyrings of people or of the file system.
    V1([u8; 8]),
    /// Version 2. Its key has a name by its own digest, and is in the keyring of the file system.
    V2([u8; 16]),
}

impl Policy {
    /// 1 or 2.
    pub const fn version(self) -> u8 {
        match self {
            Self::V1(_) => 1,
            Self::V2(_) => 2,
        }
    }

    /// The name of its key in lowercase hexadecimal, as fscrypt(1) names the file with the wrapped key.
    pub fn key_name(self) -> String {
        let bytes = match &self {
            Self::V1(descriptor) => &descriptor[..],
            Self::V2(identifier) => &identifier[..],
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether the kernel has a key, by the keyring of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has none, and no file that it opened is left.
    Absent,
    /// It has it.
    Present,
    /// It has forgotten it, while files are open that it opened.
    FilesOpen,
}

/// What became of a key that the kernel was to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, with everything that it opened.
    Gone,
    /// It is gone, and somebody has files open which it opened.
    FilesOpen,
    /// It was not in the keyring of the file system.
    Absent,
}

/// A run of a file's bytes on the device that its file system is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// From where in the file.
    pub logical: u64,
    /// Bytes of the device.
    pub physical: Range<u64>,
}
