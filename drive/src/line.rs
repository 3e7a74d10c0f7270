//! The narrow way to a drive: a few kinds of commands, and nothing that the kernel might add.
//!
//! A trait, so that a test can have a drive that answers; [`crate::Kernel`] is the one for machines.

use std::fmt;
use std::io;

use crate::ata;
use crate::nvme;

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The kernel does not carry it to this device, or the device does not answer.
    #[error("the drive cannot be spoken to")]
    Io(#[from] io::Error),
    /// The drive declines. The number is what it said: an NVMe status, an ATA error beside a SCSI sense key, or
    /// the status of an Opal method.
    #[error("the drive declines (code {0:#x})")]
    Declined(u32),
}

/// Speaks with one drive. Every call blocks until the drive has answered.
pub trait Line: fmt::Debug + Send + Sync {
    /// The number of the NVMe namespace that this device is.
    ///
    /// # Errors
    /// [`LineError::Io`] where it is none.
    fn namespace(&self) -> Result<u32, LineError>;

    /// Says an NVMe admin command. Data goes the way that the command's opcode says.
    ///
    /// # Errors
    /// [`LineError`].
    fn nvme(&self, command: &nvme::Command, data: &mut [u8]) -> Result<(), LineError>;

    /// Says an ATA command.
    ///
    /// # Errors
    /// [`LineError`].
    fn ata(&self, command: &ata::Command, data: ata::Data<'_>) -> Result<(), LineError>;

    /// What the kernel found out about Opal (`OPAL_FL_*` of `linux/sed-opal.h`).
    ///
    /// # Errors
    /// [`LineError::Io`] where drive or kernel have no Opal.
    fn opal_flags(&self) -> Result<u32, LineError>;

    /// Has the drive go back to its state of manufacture, all data gone, by the code on its label.
    ///
    /// # Errors
    /// [`LineError`].
    fn opal_revert(&self, psid: &str) -> Result<(), LineError>;
}
