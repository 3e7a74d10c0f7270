//! The calls of [`mod@crate::file`], each wrapped in one function that owns what its pointers lead to.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;

use crate::file::{Extent, Policy, Presence, Removal};

#[cfg(test)]
mod tests;

/// `struct fscrypt_get_policy_ex_arg` of `linux/fscrypt.h`: the size of what follows, and a policy of either version.
#[repr(C)]
#[derive(Debug, Default)]
struct PolicyArgument {
    size: u64,
    policy: [u8; 24],
}

/// `struct fscrypt_key_specifier` of the same.
#[repr(C)]
#[derive(Debug)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    name: [u8; 32],
}

/// `struct fscrypt_remove_key_arg` of the same.
#[repr(C)]
#[derive(Debug)]
struct RemoveKey {
    key: KeySpecifier,
    flags: u32,
    reserved: [u32; 5],
}

/// `struct fscrypt_get_key_status_arg` of the same.
#[repr(C)]
#[derive(Debug)]
struct KeyStatus {
    key: KeySpecifier,
    reserved: [u32; 6],
    status: u32,
    flags: u32,
    user_count: u32,
    out_reserved: [u32; 13],
}

/// Extents that one call asks for: what is small has no more.
const EXTENTS: usize = 32;

/// `struct fiemap_extent` of `linux/fiemap.h`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// `struct fiemap` of the same, with room behind it.
#[repr(C)]
#[derive(Debug)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [FiemapExtent; EXTENTS],
}

const _: () = assert!(size_of::<PolicyArgument>() == 32 && size_of::<KeySpecifier>() == 40);
const _: () = assert!(size_of::<RemoveKey>() == 64 && size_of::<KeyStatus>() == 128);
const _: () = assert!(size_of::<FiemapExtent>() == 56 && size_of::<Fiemap>() == 32 + EXTENTS * 56);

/// `FIEMAP_FLAG_SYNC`.
const SYNC: u32 = 1;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;
/// `FIEMAP_EXTENT_UNKNOWN`, `_DELALLOC`, `_ENCODED`, `_DATA_ENCRYPTED`, `_DATA_TAIL` and `_SHARED`: what lies there is
/// not these bytes, or not theirs alone.
const ELSEWHERE: u32 = 0x2 | 0x4 | 0x8 | 0x80 | 0x400 | 0x2000;
/// `EXT4_IOC_CHECKPOINT_FLAG_ZEROOUT`.
const ZEROOUT: u32 = 2;
/// Bytes of the longest value of an extended attribute, and of all names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const ATTRIBUTE_BYTES: usize = 65_536;

mod ioctl {
    //! The calls as nix makes them.

    use nix::{ioctl_readwrite, ioctl_readwrite_bad, ioctl_write_ptr, request_code_readwrite};

    use super::{Fiemap, KeyStatus, PolicyArgument, RemoveKey};

    // The kernel counts the size and the version alone.
    ioctl_readwrite_bad!(get_policy, request_code_readwrite!(b'f', 22, 9), PolicyArgument);
    ioctl_readwrite!(remove_key_all_users, b'f', 25, RemoveKey);
    ioctl_readwrite!(key_status, b'f', 26, KeyStatus);
    ioctl_readwrite_bad!(fiemap, request_code_readwrite!(b'f', 11, 32), Fiemap);
    ioctl_write_ptr!(checkpoint, b'f', 43, u32);
}

/// The policy of a directory or a file (`FS_IOC_GET_ENCRYPTION_POLICY_EX`); `None`: it is not encrypted.
///
/// # Errors
/// What the kernel says; `Unsupported` where its file system encrypts nothing.
pub fn policy(of: &File) -> io::Result<Option<Policy>> {
    let mut said = PolicyArgument { size: 24, policy: [0; 24] };
    // SAFETY: `said` has the kernel's layout and is this function's own; the size in it is that of what follows.
    match unsafe { ioctl::get_policy(of.as_raw_fd(), &raw mut said) } {
        Ok(_) => {}
        Err(Errno::ENODATA) => return Ok(None),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => return Err(io::ErrorKind::Unsupported.into()),
        Err(errno) => return Err(errno.into()),
    }
    let name = |from: usize| said.policy.get(from..).unwrap_or_default();
    let short = || io::Error::from(io::ErrorKind::InvalidData);
    match said.policy[0] {
        0 => Ok(Some(Policy::V1(*name(4).first_chunk().ok_or_else(short)?))),
        2 => Ok(Some(Policy::V2(*name(8).first_chunk().ok_or_else(short)?))),
        version => Err(io::Error::other(format!("has an encryption policy of kind {version}"))),
    }
}

fn specifier(policy: Policy) -> KeySpecifier {
    let mut name = [0; 32];
    let kind = match policy {
        Policy::V1(descriptor) => {
            name[..8].copy_from_slice(&descriptor);
            1
        }
        Policy::V2(identifier) => {
            name[..16].copy_from_slice(&identifier);
            2
        }
    };
    KeySpecifier { kind, reserved: 0, name }
}

/// Whether the file system that this lies on has the key of that policy (`FS_IOC_GET_ENCRYPTION_KEY_STATUS`).
///
/// # Errors
/// What the kernel says.
pub fn key_presence(on: &File, policy: Policy) -> io::Result<Presence> {
    let mut said = KeyStatus {
        key: specifier(policy),
        reserved: [0; 6],
        status: 0,
        flags: 0,
        user_count: 0,
        out_reserved: [0; 13],
    };
    // SAFETY: `said` has the kernel's layout and is this function's own.
    unsafe { ioctl::key_status(on.as_raw_fd(), &raw mut said) }?;
    match said.status {
        1 => Ok(Presence::Absent),
        2 => Ok(Presence::Present),
        3 => Ok(Presence::FilesOpen),
        status => Err(io::Error::other(format!("the kernel says {status} of the key"))),
    }
}

/// Has the kernel forget the key of that policy, whoever brought it (`FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS`).
///
/// # Errors
/// What the kernel says.
pub fn remove_key(on: &File, policy: Policy) -> io::Result<Removal> {
    /// `FSCRYPT_KEY_REMOVAL_STATUS_FLAG_FILES_BUSY`.
    const FILES_BUSY: u32 = 1;
    let mut said = RemoveKey { key: specifier(policy), flags: 0, reserved: [0; 5] };
    // SAFETY: `said` has the kernel's layout and is this function's own.
    match unsafe { ioctl::remove_key_all_users(on.as_raw_fd(), &raw mut said) } {
        Ok(_) if said.flags & FILES_BUSY != 0 => Ok(Removal::FilesOpen),
        Ok(_) => Ok(Removal::Gone),
        Err(Errno::ENOKEY) => Ok(Removal::Absent),
        Err(errno) => Err(errno.into()),
    }
}

/// Where the bytes of a file lie on the device of its file system (`FS_IOC_FIEMAP`); `None` where that is nowhere that
/// is theirs alone, or not said.
///
/// # Errors
/// What the kernel says.
pub fn extents(of: &File) -> io::Result<Option<Vec<Extent>>> {
    let mut map = Fiemap {
        start: 0,
        length: u64::MAX,
        flags: SYNC,
        mapped: 0,
        count: EXTENTS as u32,
        reserved: 0,
        extents: [FiemapExtent::default(); EXTENTS],
    };
    // SAFETY: `map` has the kernel's layout and is this function's own; `count` extents have room behind it.
    match unsafe { ioctl::fiemap(of.as_raw_fd(), &raw mut map) } {
        Ok(_) => {}
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EBADR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    let found = map.extents.get(..map.mapped as usize).unwrap_or_default();
    let is_whole = found.last().is_some_and(|extent| extent.flags & LAST != 0);
    if !is_whole || found.iter().any(|extent| extent.flags & ELSEWHERE != 0) {
        return Ok(None);
    }
    let extent = |of: &FiemapExtent| {
        let end = of.physical.checked_add(of.length)?;
        Some(Extent { logical: of.logical, physical: of.physical..end })
    };
    Ok(found.iter().map(extent).collect())
}

/// Has an ext4 write what its journal holds to its place, and zeros over the journal (`EXT4_IOC_CHECKPOINT`).
///
/// # Errors
/// What the kernel says; `Unsupported` for other file systems, and where there is no journal.
pub fn empty_journal(of: &File) -> io::Result<()> {
    let flags = ZEROOUT;
    // SAFETY: the argument is a number of 32 bits, which the kernel only reads.
    match unsafe { ioctl::checkpoint(of.as_raw_fd(), &raw const flags) } {
        Ok(_) => Ok(()),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENODEV) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// The names of the extended attributes.
///
/// # Errors
/// What the kernel says.
pub fn attributes(of: &File) -> io::Result<Vec<String>> {
    let mut names = vec![0_u8; ATTRIBUTE_BYTES];
    // SAFETY: the kernel writes at most as many bytes as `names` has.
    let length =
        unsafe { libc::flistxattr(of.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(counted(length)?);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The value of an extended attribute; `None`: there is none.
///
/// # Errors
/// What the kernel says.
pub fn attribute(of: &File, name: &str) -> io::Result<Option<Vec<u8>>> {
    let name = CString::new(name)?;
    let mut value = vec![0_u8; ATTRIBUTE_BYTES];
    let (at, length) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: `name` ends with a zero, and the kernel writes at most as many bytes as `value` has.
    let length = unsafe { libc::fgetxattr(of.as_raw_fd(), name.as_ptr(), at, length) };
    match counted(length) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes over the value of an extended attribute that is there.
///
/// # Errors
/// What the kernel says.
pub fn overwrite_attribute(of: &File, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    let (at, flags) = (value.as_ptr().cast(), libc::XATTR_REPLACE);
    // SAFETY: `name` ends with a zero, and the kernel reads as many bytes as `value` has.
    let done = unsafe { libc::fsetxattr(of.as_raw_fd(), name.as_ptr(), at, value.len(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes an extended attribute, also where it is not there.
///
/// # Errors
/// What the kernel says.
pub fn remove_attribute(of: &File, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: `name` ends with a zero.
    let done = unsafe { libc::fremovexattr(of.as_raw_fd(), name.as_ptr()) };
    let error = io::Error::last_os_error();
    if done == 0 || error.raw_os_error() == Some(libc::ENODATA) { Ok(()) } else { Err(error) }
}

fn counted(length: isize) -> io::Result<usize> {
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}
