//! NVMe: the commands that are said, and the pages that are read.
//!
//! Pages are what a stranger's firmware wrote: every field is read from a page of full length, and none is
//! believed beyond the bits that it has.

use std::time::Duration;

/// Bytes of an identify page.
pub const PAGE: usize = 4096;
/// Bytes of the sanitize status log.
pub const SANITIZE_LOG: usize = 512;
/// The namespace that stands for all.
pub const ALL: u32 = 0xffff_ffff;

/// An admin command, as far as one is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Which one.
    pub opcode: u8,
    /// About which namespace.
    pub namespace: u32,
    /// Command dword 10.
    pub dword_10: u32,
    /// How long the kernel waits for it.
    pub timeout: Duration,
}

/// How long the drive may take to answer a question.
const QUESTION: Duration = Duration::from_secs(10);

/// Get Log Page, Identify, Format NVM and Sanitize.
pub const GET_LOG_PAGE: u8 = 0x02;
/// Identify.
pub const IDENTIFY: u8 = 0x06;
/// Format NVM.
pub const FORMAT: u8 = 0x80;
/// Sanitize.
pub const SANITIZE: u8 = 0x84;

/// What identify is asked for (CNS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The namespace.
    Namespace,
    /// The controller.
    Controller,
    /// The namespaces that there are.
    Active,
}

/// What a sanitize does (SANACT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sanitize {
    /// Leaves the state after one that failed.
    ExitFailure = 1,
    /// Erases every block.
    Block = 2,
    /// Changes the key under everything.
    Crypto = 4,
}

/// What a format does to the data (SES).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasing {
    /// Erases all user data.
    User = 1,
    /// Changes the key under it.
    Crypto = 2,
}

impl Command {
    /// Asks for a page.
    pub const fn identify(page: Page, namespace: u32) -> Self {
        let dword_10 = match page {
            Page::Namespace => 0,
            Page::Controller => 1,
            Page::Active => 2,
        };
        Self { opcode: IDENTIFY, namespace, dword_10, timeout: QUESTION }
    }

    /// Asks how far a sanitize is: log 81h, whose length is told in dwords less one.
    pub const fn sanitize_log() -> Self {
        let dwords = (SANITIZE_LOG / 4 - 1) as u32;
        Self {
            opcode: GET_LOG_PAGE,
            namespace: ALL,
            dword_10: dwords << 16 | 0x81,
            timeout: QUESTION,
        }
    }

    /// Begins a sanitize. It goes on by itself, also after the power was cut. One that fails may be left
    /// without succeeding first (AUSE): what other method there is comes next.
    pub const fn sanitize(what: Sanitize) -> Self {
        const UNRESTRICTED_EXIT: u32 = 1 << 3;
        let dword_10 = match what {
            Sanitize::ExitFailure => what as u32,
            Sanitize::Block | Sanitize::Crypto => what as u32 | UNRESTRICTED_EXIT,
        };
        Self { opcode: SANITIZE, namespace: 0, dword_10, timeout: QUESTION }
    }

    /// Formats a namespace in the form that it has. It ends when the data is gone.
    pub const fn format(namespace: u32, form: Form, erasing: Erasing, timeout: Duration) -> Self {
        let dword_10 = form.0 | (erasing as u32) << 9;
        Self { opcode: FORMAT, namespace, dword_10, timeout }
    }
}

/// How a namespace is formatted, as dword 10 of a format says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form(u32);

/// What a controller says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// It is reached over a network.
    pub is_remote: bool,
    /// It is one of several of the same subsystem.
    pub has_siblings: bool,
    /// It formats.
    pub formats: bool,
    /// A format is one of all namespaces.
    pub formats_all: bool,
    /// An erasing format is one of all namespaces.
    pub erases_all: bool,
    /// A format can change the key.
    pub formats_crypto: bool,
    /// It sanitizes by changing the key.
    pub sanitizes_crypto: bool,
    /// It sanitizes by erasing blocks.
    pub sanitizes_blocks: bool,
}

impl Controller {
    /// Reads the page.
    pub fn read(page: &[u8; PAGE]) -> Self {
        let bit = |at: usize, bit: u8| page[at] >> bit & 1 == 1;
        let text = |range| crate::said::text(&page[range]);
        Self {
            serial: text(4..24),
            model: text(24..64),
            // IOCCSZ is what only fabrics have.
            is_remote: page[1792..1796].iter().any(|byte| *byte != 0),
            has_siblings: bit(76, 1),
            formats: bit(256, 1),
            formats_all: bit(524, 0),
            erases_all: bit(524, 1),
            formats_crypto: bit(524, 2),
            sanitizes_crypto: bit(328, 0),
            sanitizes_blocks: bit(328, 1),
        }
    }
}

/// What a namespace says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// Its number.
    pub id: u32,
    /// How it is formatted.
    pub form: Form,
    /// Other controllers may have it as well.
    pub is_shared: bool,
    /// Nobody may write to it.
    pub is_protected: bool,
}

impl Namespace {
    /// Reads the page.
    pub fn read(id: u32, page: &[u8; PAGE]) -> Self {
        let (flbas, dps) = (u32::from(page[26]), u32::from(page[29]));
        // Format, metadata at the end, kind and place of protection, upper bits of the format.
        let form = flbas & 0xf | (flbas & 0x10) | (dps & 7) << 5 | (dps & 8) << 5;
        let form = Form(form | (flbas >> 5 & 3) << 12);
        Self { id, form, is_shared: page[30] & 1 == 1, is_protected: page[99] & 1 == 1 }
    }
}

/// The numbers of a list of namespaces.
pub fn active(page: &[u8; PAGE]) -> Vec<u32> {
    let numbers = page.chunks_exact(4).map(|bytes| {
        let bytes = <[u8; 4]>::try_from(bytes).unwrap_or_default();
        u32::from_le_bytes(bytes)
    });
    numbers.take_while(|number| *number != 0).collect()
}

/// What became of the last sanitize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There was none.
    Never,
    /// It succeeded.
    Done,
    /// It goes on.
    Running,
    /// It failed.
    Failed,
}

/// The sanitize status log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SanitizeLog {
    /// What became of the last one.
    pub stage: Stage,
    /// How far it is, in 65,536ths.
    pub progress: u16,
    /// Nobody has written anything since.
    pub is_blank: bool,
    /// What was asked for.
    pub dword_10: u32,
    /// How long the drive thinks that erasing its blocks takes.
    pub block_takes: Option<Duration>,
    /// The same for a change of the key.
    pub crypto_takes: Option<Duration>,
}

impl SanitizeLog {
    /// Reads the log.
    pub fn read(log: &[u8; SANITIZE_LOG]) -> Self {
        let double =
            |at: usize| u32::from_le_bytes([log[at], log[at + 1], log[at + 2], log[at + 3]]);
        // All ones: the drive does not say.
        let takes = |at| {
            Some(double(at))
                .filter(|secs| *secs != ALL)
                .map(|secs| Duration::from_secs(secs.into()))
        };
        let status = u16::from_le_bytes([log[2], log[3]]);
        let stage = match status & 7 {
            1 | 4 => Stage::Done,
            2 => Stage::Running,
            3 => Stage::Failed,
            _ => Stage::Never,
        };
        Self {
            stage,
            progress: u16::from_le_bytes([log[0], log[1]]),
            is_blank: status >> 8 & 1 == 1,
            dword_10: double(4),
            block_takes: takes(12),
            crypto_takes: takes(16),
        }
    }
}
