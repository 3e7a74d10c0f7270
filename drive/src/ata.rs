//! ATA: the commands that are said, and what a drive says of its security.
//!
//! Words are 16 bits, the low byte first; texts have their bytes swapped in each.

use std::time::Duration;

/// Bytes of a page.
pub const PAGE: usize = 512;
/// Bytes of a password.
pub const PASSWORD: usize = 32;

/// How long the drive may take to answer a question.
const QUESTION: Duration = Duration::from_secs(10);

/// IDENTIFY DEVICE.
pub const IDENTIFY: u8 = 0xec;
/// SECURITY SET PASSWORD.
pub const SET_PASSWORD: u8 = 0xf1;
/// SECURITY ERASE PREPARE.
pub const ERASE_PREPARE: u8 = 0xf3;
/// SECURITY ERASE UNIT.
pub const ERASE_UNIT: u8 = 0xf4;
/// SECURITY DISABLE PASSWORD.
pub const DISABLE_PASSWORD: u8 = 0xf6;
/// SECURITY UNLOCK: until it starts again.
pub const UNLOCK: u8 = 0xf2;

/// A command, as far as one is used here: none of them takes an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Which one.
    pub command: u8,
    /// How long the kernel waits for it.
    pub timeout: Duration,
}

impl Command {
    /// One that the drive answers at once.
    pub const fn short(command: u8) -> Self {
        Self { command, timeout: QUESTION }
    }

    /// One that takes its time.
    pub const fn long(command: u8, timeout: Duration) -> Self {
        Self { command, timeout }
    }

    /// The command as a SCSI one carries it: ATA PASS-THROUGH (16).
    pub fn packed(&self, data: &Data<'_>) -> [u8; 16] {
        // Protocol: 3 is without data, 4 reads, 5 writes. Then how much: one block, as the count says.
        let (protocol, flags, count) = match data {
            Data::None => (3, 0, 0),
            Data::In(_) => (4, 0b1110, 1),
            Data::Out(_) => (5, 0b0110, 1),
        };
        let mut packed = [0; 16];
        (packed[0], packed[1], packed[2]) = (0x85, protocol << 1, flags);
        (packed[6], packed[14]) = (count, self.command);
        packed
    }
}

/// What goes with a command.
#[derive(Debug)]
pub enum Data<'a> {
    /// Nothing.
    None,
    /// A page that the drive fills.
    In(&'a mut [u8; PAGE]),
    /// A page for the drive.
    Out(&'a [u8; PAGE]),
}

/// What a drive says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identify {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// It knows passwords.
    pub has_security: bool,
    /// It has one.
    pub has_password: bool,
    /// It is locked by it.
    pub is_locked: bool,
    /// It takes no password until the power was off.
    pub is_frozen: bool,
    /// Too many passwords were wrong.
    pub is_exhausted: bool,
    /// It erases in the enhanced way as well.
    pub erases_enhanced: bool,
    /// How long it thinks that erasing takes.
    pub erase_takes: Option<Duration>,
    /// The same in the enhanced way.
    pub enhanced_takes: Option<Duration>,
}

impl Identify {
    /// Reads the page; `None` for one that no ATA drive gives.
    pub fn read(page: &[u8; PAGE]) -> Option<Self> {
        let word = |at: usize| u16::from_le_bytes([page[2 * at], page[2 * at + 1]]);
        let bit = |at: usize, bit: u32| word(at) >> bit & 1 == 1;
        // The last word may carry a checksum, which the sum of all bytes brings to zero.
        let is_summed = page[510] == 0xa5;
        let sum = page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        if page.iter().all(|byte| *byte == 0) || bit(0, 15) || is_summed && sum != 0 {
            return None;
        }
        let text = |words: std::ops::Range<usize>| {
            let bytes: Vec<u8> = words.flat_map(|at| [page[2 * at + 1], page[2 * at]]).collect();
            crate::said::text(&bytes)
        };
        Some(Self {
            serial: text(10..20),
            model: text(27..47),
            has_security: bit(82, 1) && bit(128, 0),
            has_password: bit(128, 1),
            is_locked: bit(128, 2),
            is_frozen: bit(128, 3),
            is_exhausted: bit(128, 4),
            erases_enhanced: bit(128, 5),
            erase_takes: takes(word(89)),
            enhanced_takes: takes(word(90)),
        })
    }
}

/// A time as words 89 and 90 tell it: in units of two minutes, of 8 bits or of 15.
fn takes(word: u16) -> Option<Duration> {
    let units = if word & 0x8000 != 0 { word & 0x7fff } else { word & 0xff };
    Some(u64::from(units)).filter(|units| *units > 0).map(|units| Duration::from_secs(units * 120))
}

/// The page that goes with a password of the user. The drive is to be erased and never to be unlocked: with the
/// level `maximum` even the maker's password only erases.
pub fn password_page(password: &[u8; PASSWORD], is_enhanced: bool) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[0] = u8::from(is_enhanced) << 1;
    page[2..2 + PASSWORD].copy_from_slice(password);
    page
}

/// The page that sets it.
pub fn new_password_page(password: &[u8; PASSWORD]) -> [u8; PAGE] {
    let mut page = password_page(password, false);
    page[1] = 1;
    page
}
