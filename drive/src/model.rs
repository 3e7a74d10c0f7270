//! Drives that are files and a description: what a test has in place of hardware that cannot be there.
//!
//! A model answers with the pages that it was given, and does to its files what a drive does to its medium. It is
//! made from the specifications, not from a drive: what it proves is our side of the conversation.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ata::{self, Data};
use crate::line::{Line, LineError};
use crate::nvme;

/// What an NVMe drive says when it does not know a command (Invalid Command Opcode).
const INVALID_OPCODE: u32 = 1;
/// What an ATA drive says when it does not take a command: aborted command, ABRT.
const ABORTED: u32 = 0xb << 8 | 4;

/// A drive that is files.
#[derive(Debug)]
pub struct Model {
    /// What its medium holds: files that change together, as a drive and its parts do.
    pub contents: Vec<PathBuf>,
    /// In which words it speaks.
    pub tongue: Speaks,
    /// Commands that it declines, by opcode.
    pub declines: BTreeSet<u8>,
    /// Commands that it never answers.
    pub hangs: BTreeSet<u8>,
    /// It says that it is done and does nothing.
    pub lies: bool,
    /// A sanitize fails in the end.
    pub fails: bool,
    /// How often it says that a sanitize goes on.
    pub takes_looks: u32,
    /// The code on its label, if it has Opal.
    pub psid: Option<String>,
    state: Mutex<State>,
}

/// In which words a model speaks.
#[derive(Debug)]
pub enum Speaks {
    /// NVMe: the pages of controller and namespace, and the namespaces there.
    Nvme(Box<[u8; nvme::PAGE]>, Box<[u8; nvme::PAGE]>, Vec<u32>),
    /// ATA: the page of the drive.
    Ata(Box<[u8; ata::PAGE]>),
    /// None.
    Nothing,
}

#[derive(Debug, Default)]
struct State {
    /// Opcodes of what was said, questions aside.
    said: Vec<u8>,
    /// Dword 10 of the last sanitize, and looks until it is done.
    sanitize: Option<(u32, u32)>,
    is_sanitized: bool,
    /// The password, and whether an erase was prepared.
    password: Option<Vec<u8>>,
    is_prepared: bool,
}

impl Model {
    /// One that speaks so, and whose medium is those files.
    pub fn new(tongue: Speaks, contents: Vec<PathBuf>) -> Self {
        Self {
            contents,
            tongue,
            declines: BTreeSet::new(),
            hangs: BTreeSet::new(),
            lies: false,
            fails: false,
            takes_looks: 2,
            psid: None,
            state: Mutex::default(),
        }
    }

    /// What it was told to do, in order, by opcode.
    pub fn was_told(&self) -> Vec<u8> {
        self.state().said.clone()
    }

    /// Whether a sanitize of that kind was begun before, and what became of it is not known.
    pub fn begin(&self, dword_10: u32) {
        self.state().sanitize = Some((dword_10, self.takes_looks));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, opcode: u8, declined: u32) -> Result<(), LineError> {
        self.state().said.push(opcode);
        while self.hangs.contains(&opcode) {
            std::thread::park();
        }
        if self.declines.contains(&opcode) { Err(LineError::Declined(declined)) } else { Ok(()) }
    }

    /// Changes every byte of the medium.
    fn change(&self, change: impl Fn(u8) -> u8) -> io::Result<()> {
        for path in self.contents.iter().filter(|_| !self.lies) {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            bytes.iter_mut().for_each(|byte| *byte = change(*byte));
            file.rewind()?;
            file.write_all(&bytes)?;
        }
        Ok(())
    }

    fn erase(&self) -> Result<(), LineError> {
        Ok(self.change(|_| 0)?)
    }

    /// What is read with another key.
    fn change_key(&self) -> Result<(), LineError> {
        Ok(self.change(|byte| byte.wrapping_mul(5) ^ 0xa7)?)
    }

    /// The status log, which is asked for again and again until the sanitize is done.
    fn look(&self, log: &mut [u8]) -> Result<(), LineError> {
        log.fill(0);
        let mut state = self.state();
        let Some((dword_10, left)) = state.sanitize else { return Ok(()) };
        log[4..8].copy_from_slice(&dword_10.to_le_bytes());
        // It takes two seconds, whatever is erased.
        (log[12], log[16]) = (2, 2);
        if let Some(less) = left.checked_sub(1) {
            state.sanitize = Some((dword_10, less));
            (log[1], log[2]) = (0x80, 2);
            return Ok(());
        }
        if self.fails {
            log[2] = 3;
            return Ok(());
        }
        if !std::mem::replace(&mut state.is_sanitized, true) {
            let is_crypto = dword_10 & 7 == nvme::Sanitize::Crypto as u32;
            if is_crypto { self.change_key()? } else { self.erase()? }
        }
        // Done, and nobody wrote since.
        (log[2], log[3]) = (1, 1);
        Ok(())
    }

    fn sanitize(&self, dword_10: u32) {
        let mut state = self.state();
        if dword_10 & 7 == nvme::Sanitize::ExitFailure as u32 {
            state.sanitize = None;
        } else {
            (state.sanitize, state.is_sanitized) = (Some((dword_10, self.takes_looks)), false);
        }
    }
}

impl Line for Model {
    fn namespace(&self) -> Result<u32, LineError> {
        match &self.tongue {
            Speaks::Nvme(..) => Ok(1),
            Speaks::Ata(_) | Speaks::Nothing => {
                Err(io::Error::from(io::ErrorKind::Unsupported).into())
            }
        }
    }

    fn nvme(&self, command: &nvme::Command, data: &mut [u8]) -> Result<(), LineError> {
        let Speaks::Nvme(controller, namespace, active) = &self.tongue else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        match (command.opcode, command.dword_10) {
            (nvme::IDENTIFY, 0) => data.copy_from_slice(&**namespace),
            (nvme::IDENTIFY, 1) => data.copy_from_slice(&**controller),
            (nvme::IDENTIFY, _) => {
                data.fill(0);
                for (place, id) in data.chunks_exact_mut(4).zip(active) {
                    place.copy_from_slice(&id.to_le_bytes());
                }
            }
            (nvme::GET_LOG_PAGE, _) => self.look(data)?,
            (nvme::SANITIZE, dword_10) => {
                self.hear(nvme::SANITIZE, INVALID_OPCODE)?;
                self.sanitize(dword_10);
            }
            (nvme::FORMAT, dword_10) => {
                self.hear(nvme::FORMAT, INVALID_OPCODE)?;
                let is_crypto = dword_10 >> 9 & 7 == nvme::Erasing::Crypto as u32;
                if is_crypto { self.change_key()? } else { self.erase()? }
            }
            (_, _) => return Err(LineError::Declined(INVALID_OPCODE)),
        }
        Ok(())
    }

    fn ata(&self, command: &ata::Command, data: Data<'_>) -> Result<(), LineError> {
        let Speaks::Ata(page) = &self.tongue else {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        };
        let aborted = || Err(LineError::Declined(ABORTED));
        let password = |page: &[u8; ata::PAGE]| page[2..2 + ata::PASSWORD].to_vec();
        if command.command != ata::IDENTIFY {
            self.hear(command.command, ABORTED)?;
        }
        match (command.command, data) {
            (ata::IDENTIFY, Data::In(into)) => {
                into.copy_from_slice(&**page);
                into[256] |= u8::from(self.state().password.is_some()) << 1;
            }
            (ata::SET_PASSWORD, Data::Out(page)) => {
                self.state().password = Some(password(page));
            }
            (ata::ERASE_PREPARE, Data::None) => self.state().is_prepared = true,
            (ata::ERASE_UNIT, Data::Out(page)) => {
                let mut state = self.state();
                if !std::mem::take(&mut state.is_prepared)
                    || state.password.as_ref() != Some(&password(page))
                {
                    return aborted();
                }
                state.password = None;
                self.erase()?;
            }
            (ata::DISABLE_PASSWORD, Data::Out(page)) => {
                let mut state = self.state();
                if state.password.as_ref() != Some(&password(page)) {
                    return aborted();
                }
                state.password = None;
            }
            (_, _) => return aborted(),
        }
        Ok(())
    }

    fn opal_flags(&self) -> Result<u32, LineError> {
        let supported = self.psid.as_ref().map(|_| 1);
        supported.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn opal_revert(&self, psid: &str) -> Result<(), LineError> {
        /// Not authorized, as an Opal method answers.
        const NOT_AUTHORIZED: u32 = 1;
        if self.psid.as_deref() == Some(psid) {
            self.change_key()
        } else {
            Err(LineError::Declined(NOT_AUTHORIZED))
        }
    }
}

/// The page of a controller that sanitizes (SANICAP) and formats (OACS, FNA) so.
pub fn controller(sanicap: u8, oacs: u8, fna: u8) -> Box<[u8; nvme::PAGE]> {
    let mut page = Box::new([0; nvme::PAGE]);
    page[4..24].copy_from_slice(b"S1234567            ");
    page[24..64].copy_from_slice(b"Model of an NVMe drive                  ");
    (page[256], page[328], page[524]) = (oacs, sanicap, fna);
    page
}

/// The page of a namespace of blocks of 4 KiB, which is its second format.
pub fn namespace() -> Box<[u8; nvme::PAGE]> {
    let mut page = Box::new([0; nvme::PAGE]);
    page[26] = 1;
    page
}

/// The page of an ATA drive whose word 128 is that.
pub fn ata_page(security: u16) -> Box<[u8; ata::PAGE]> {
    let mut page = Box::new([0; ata::PAGE]);
    let mut words = |at: usize, text: &[u8]| {
        for (place, pair) in page[2 * at..].chunks_exact_mut(2).zip(text.chunks_exact(2)) {
            (place[0], place[1]) = (pair[1], pair[0]);
        }
    };
    words(10, b"A7654321            ");
    words(27, b"Model of an ATA drive                   ");
    // Security is there; both ways of erasing take two minutes at most.
    (page[164], page[178], page[180]) = (2, 1, 1);
    page[256..258].copy_from_slice(&security.to_le_bytes());
    page
}
