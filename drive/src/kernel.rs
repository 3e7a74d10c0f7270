//! The drives of this machine, through the kernel's ioctls.
//!
//! The only place in the workspace with unsafe code, with `file` below it: these calls have no safe wrapper, since
//! the kernel reads and writes where the pointers in their arguments lead. Each of them is wrapped in one function
//! that owns what they lead to. Nothing here decides anything.
#![expect(unsafe_code, reason = "these calls carry pointers; there is no safe form of them")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::ata;
use crate::line::{Line, LineError};
use crate::nvme;

pub(crate) mod file;
#[cfg(test)]
mod tests;

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct NvmeCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    dword_2: u32,
    dword_3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    dword_10: u32,
    dword_11: u32,
    dword_12: u32,
    dword_13: u32,
    dword_14: u32,
    dword_15: u32,
    timeout_ms: u32,
    result: u32,
}

/// `struct sg_io_hdr` of `scsi/sg.h`.
#[repr(C)]
#[derive(Debug)]
struct ScsiCommand {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut u8,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut u8,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

/// `struct opal_status` of `linux/sed-opal.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct OpalStatus {
    flags: u32,
    reserved: u32,
}

/// Bytes of a key, or of the code on a label.
const OPAL_KEY: usize = 256;

/// `struct opal_key` of the same.
#[repr(C)]
#[derive(Debug)]
struct OpalKey {
    range: u8,
    key_len: u8,
    reserved: [u8; 6],
    key: [u8; OPAL_KEY],
}

const _: () = assert!(size_of::<NvmeCommand>() == 72);
const _: () = assert!(size_of::<OpalStatus>() == 8 && size_of::<OpalKey>() == 264);
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<ScsiCommand>() == 88);

/// `SG_IO`, which is older than the scheme of the others.
const SG_IO: libc::Ioctl = 0x2285;
/// `SG_DXFER_NONE`, `SG_DXFER_TO_DEV` and `SG_DXFER_FROM_DEV`.
const NO_DATA: i32 = -1;
const TO_DEVICE: i32 = -2;
const FROM_DEVICE: i32 = -3;

mod ioctl {
    //! The calls as nix makes them.

    use nix::{
        ioctl_none, ioctl_read, ioctl_readwrite, ioctl_readwrite_bad, ioctl_write_ptr,
        ioctl_write_ptr_bad, request_code_none,
    };

    use super::{NvmeCommand, OpalKey, OpalStatus, SG_IO, ScsiCommand};

    ioctl_none!(nvme_id, b'N', 0x40);
    ioctl_readwrite!(nvme_admin, b'N', 0x41, NvmeCommand);
    ioctl_readwrite_bad!(sg_io, SG_IO, ScsiCommand);
    ioctl_read!(opal_status, b'p', 236, OpalStatus);
    ioctl_write_ptr!(opal_psid_revert, b'p', 232, OpalKey);
    ioctl_write_ptr_bad!(discard_securely, request_code_none!(0x12, 125), [u64; 2]);
}

/// A drive of this machine.
#[derive(Debug)]
pub struct Kernel(File);

impl Kernel {
    /// The drive at that path, as a whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Neither waits for a medium nor becomes anybody's terminal. Reading is enough for asking, and the
        // kernel asks for privileges rather than for a writable file where a command destroys.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }
}

impl Line for Kernel {
    fn namespace(&self) -> Result<u32, LineError> {
        // SAFETY: the call takes no argument.
        let id = unsafe { ioctl::nvme_id(self.0.as_raw_fd()) }.map_err(io::Error::from)?;
        u32::try_from(id).map_err(|error| io::Error::other(error).into())
    }

    fn nvme(&self, command: &nvme::Command, data: &mut [u8]) -> Result<(), LineError> {
        let (addr, length) = (data.as_mut_ptr().expose_provenance(), data.len());
        let mut said = NvmeCommand {
            opcode: command.opcode,
            nsid: command.namespace,
            addr: if data.is_empty() { 0 } else { addr as u64 },
            data_len: u32::try_from(length).map_err(io::Error::other)?,
            dword_10: command.dword_10,
            timeout_ms: millis(command.timeout),
            ..NvmeCommand::default()
        };
        // SAFETY: `said` has the kernel's layout, and `addr` leads to `data_len` bytes of `data`, which is
        // borrowed mutably until the call has returned, and the kernel is done with it then.
        let status = unsafe { ioctl::nvme_admin(self.0.as_raw_fd(), &raw mut said) };
        match status.map_err(io::Error::from)? {
            0 => Ok(()),
            status => Err(LineError::Declined(status.cast_unsigned())),
        }
    }

    fn ata(&self, command: &ata::Command, data: ata::Data<'_>) -> Result<(), LineError> {
        let packed = command.packed(&data);
        let mut sense = [0; 32];
        let (direction, at, length) = match data {
            ata::Data::None => (NO_DATA, ptr::null_mut(), 0),
            ata::Data::In(page) => (FROM_DEVICE, page.as_mut_ptr(), ata::PAGE),
            ata::Data::Out(page) => (TO_DEVICE, page.as_ptr().cast_mut(), ata::PAGE),
        };
        let mut said = ScsiCommand {
            interface_id: i32::from(b'S'),
            dxfer_direction: direction,
            cmd_len: packed.len() as u8,
            mx_sb_len: sense.len() as u8,
            iovec_count: 0,
            dxfer_len: length as u32,
            dxferp: at,
            cmdp: packed.as_ptr(),
            sbp: sense.as_mut_ptr(),
            timeout_ms: millis(command.timeout),
            flags: 0,
            pack_id: 0,
            usr_ptr: ptr::null_mut(),
            status: 0,
            masked_status: 0,
            msg_status: 0,
            sb_len_wr: 0,
            host_status: 0,
            driver_status: 0,
            resid: 0,
            duration: 0,
            info: 0,
        };
        // SAFETY: `said` has the kernel's layout. `cmdp` and `sbp` lead to arrays of this function with the
        // lengths beside them, and `dxferp` to the page that `data` borrows until this function returns:
        // mutably where the kernel writes to it, and it only reads where the direction is to the device.
        unsafe { ioctl::sg_io(self.0.as_raw_fd(), &raw mut said) }.map_err(io::Error::from)?;
        judged(&said, &sense)
    }

    fn opal_flags(&self) -> Result<u32, LineError> {
        let mut status = OpalStatus::default();
        // SAFETY: `status` has the kernel's layout, and is this function's own.
        unsafe { ioctl::opal_status(self.0.as_raw_fd(), &raw mut status) }
            .map_err(io::Error::from)?;
        Ok(status.flags)
    }

    fn opal_revert(&self, psid: &str) -> Result<(), LineError> {
        let mut key = OpalKey { range: 0, key_len: 0, reserved: [0; 6], key: [0; OPAL_KEY] };
        let fits = key.key.get_mut(..psid.len()).zip(u8::try_from(psid.len()).ok());
        let Some((place, length)) = fits else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        };
        place.copy_from_slice(psid.as_bytes());
        key.key_len = length;
        // SAFETY: `key` has the kernel's layout, which only reads it.
        let status = unsafe { ioctl::opal_psid_revert(self.0.as_raw_fd(), &raw const key) };
        match status.map_err(io::Error::from)? {
            0 => Ok(()),
            status => Err(LineError::Declined(status.cast_unsigned())),
        }
    }
}

/// What became of a SCSI command.
fn judged(said: &ScsiCommand, sense: &[u8; 32]) -> Result<(), LineError> {
    /// The host adapter gave it up (`DID_TIME_OUT` of the kernel).
    const TIMED_OUT: u16 = 3;
    match (said.status, said.host_status, said.driver_status & 0xf) {
        (0, 0, 0) => Ok(()),
        (_, TIMED_OUT, _) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        (_, 1.., _) => Err(io::Error::other("the adapter does not reach the drive").into()),
        // Sense with descriptors: the key, and of the descriptor 9 the drive's own error.
        (_, _, _) => {
            let (key, error) = match sense[0] & 0x7f {
                0x72 | 0x73 if sense[8] == 9 => (sense[1] & 0xf, sense[11]),
                0x72 | 0x73 => (sense[1] & 0xf, 0),
                _ => (sense[2] & 0xf, 0),
            };
            Err(LineError::Declined(u32::from(key) << 8 | u32::from(error)))
        }
    }
}

/// Has a block device erase a range and every copy that it kept of it (`BLKSECDISCARD`). Blocks.
///
/// # Errors
/// What the kernel says; `Unsupported` where the device cannot.
pub fn discard_securely(device: &File, range: Range<u64>) -> io::Result<()> {
    let range = [range.start, range.end.saturating_sub(range.start)];
    // SAFETY: the argument is two numbers of 64 bits, which the kernel only reads.
    let done = unsafe { ioctl::discard_securely(device.as_raw_fd(), &raw const range) };
    match done {
        Ok(_) => Ok(()),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
