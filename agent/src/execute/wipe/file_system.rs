//! Which file system a device holds, by its own word.
//!
//! Owns where the kinds that Linux keeps people's data in write down who they are. Sources: the kernel's documentation of
//! ext4 (super.rst) and XFS, btrfs' on-disk format, `f2fs_fs.h`; of FAT, exFAT and NTFS the boot sector.

use super::destroy::DestroyError;
use super::volume::Volume;
use crate::execute::hex;

#[cfg(test)]
mod tests;

/// A kind: what marks it, and where it says which one it is.
struct Kind {
    name: &'static str,
    mark: (u64, &'static [u8]),
    uuid: (u64, usize),
}

/// The kinds, of which a device shows at most one: who makes another over it takes the mark of the first away.
const KINDS: [Kind; 8] = [
    Kind { name: "ext", mark: (1024 + 0x38, &[0x53, 0xef]), uuid: (1024 + 0x68, 16) },
    Kind { name: "xfs", mark: (0, b"XFSB"), uuid: (32, 16) },
    Kind { name: "btrfs", mark: (0x1_0040, b"_BHRfS_M"), uuid: (0x1_0020, 16) },
    Kind { name: "f2fs", mark: (1024, &[0x10, 0x20, 0xf5, 0xf2]), uuid: (1024 + 0x6c, 16) },
    Kind { name: "ntfs", mark: (3, b"NTFS    "), uuid: (0x48, 8) },
    Kind { name: "exfat", mark: (3, b"EXFAT   "), uuid: (0x64, 4) },
    Kind { name: "vfat", mark: (0x52, b"FAT32   "), uuid: (0x43, 4) },
    Kind { name: "vfat", mark: (0x36, b"FAT16   "), uuid: (0x27, 4) },
];

/// Where Btrfs says on how many devices it is. Of one on several, one alone must not be taken for it.
const BTRFS_DEVICES: u64 = 0x1_0088;

/// The kind and, in hexadecimal, the number that tells it from others of its kind; `None` where there is none that is
/// known.
pub(super) fn uuid(volume: &dyn Volume) -> Result<Option<String>, DestroyError> {
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        let is_there = volume.size() >= offset.saturating_add(length as u64);
        if is_there {
            volume.read_at(&mut bytes, offset)?;
        }
        Ok::<_, DestroyError>(Some(bytes).filter(|_| is_there))
    };
    for Kind { name, mark: (at, mark), uuid: (of, length) } in &KINDS {
        if read(*at, mark.len())?.as_deref() == Some(mark) {
            if *name == "btrfs" && read(BTRFS_DEVICES, 8)? != Some(1_u64.to_le_bytes().to_vec()) {
                return Ok(None);
            }
            let number = read(*of, *length)?.filter(|bytes| bytes.iter().any(|byte| *byte != 0));
            return Ok(number.map(|bytes| format!("{name} {}", hex(&bytes))));
        }
    }
    Ok(None)
}
