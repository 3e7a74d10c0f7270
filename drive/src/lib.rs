//! Drives, and how they erase themselves: NVMe sanitize and format, ATA secure erase, the revert of Opal. And what
//! file systems say of a file's key and its place on the drive ([`mod@file`]).
//!
//! Owns what Linux lets a program say to a drive ([`mod@line`]), what drives say about themselves ([`said`],
//! [`nvme`], [`ata`]), which method that leads to ([`choice`]), and the way to a method's end ([`erase`]).
//! Reads and writes no data of a drive, keeps no record, and knows nothing of volumes, wipes or receipts: whoever
//! calls looks afterwards whether the data is gone.
//!
//! Sources: NVM Express Base Specification 2.0 and NVM Command Set 1.0, ATA Command Set (ACS-4), SCSI/ATA
//! Translation (SAT-4), and the kernel's `linux/nvme_ioctl.h`, `scsi/sg.h`, `linux/sed-opal.h`, `linux/fs.h`.

pub mod ata;
pub mod choice;
pub mod erase;
pub mod file;
mod kernel;
pub mod line;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod nvme;
pub mod said;

pub use self::kernel::{Kernel, discard_securely};
