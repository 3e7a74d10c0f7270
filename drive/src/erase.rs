//! Erases a drive by one method, and waits for the end.
//!
//! What a drive says of its success is believed as far as a failure goes; that data is gone is for the caller to
//! see. Waiting is bounded by what the drive said that it takes, and by [`Pace`].

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::ata::{self, Data};
use crate::choice::{Method, Obstacle};
use crate::line::{Line, LineError};
use crate::nvme::{self, Command, Erasing, Sanitize, SanitizeLog, Stage};
use crate::said::{Said, Tongue, identify};

#[cfg(test)]
mod tests;

/// What a drive gets beyond twice the time that it said.
const GRACE: Duration = Duration::from_secs(10 * 60);

/// Why a drive was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A command came to nothing.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The drive says so.
    #[error("the drive says that it did not succeed")]
    Failed,
    /// The drive takes longer than it may.
    #[error("the drive takes too long")]
    TimedOut,
    /// Nobody waits any more. The drive may go on.
    #[error("nobody waits for the drive any more")]
    Left,
    /// The drive did not say that it has this method.
    #[error("the drive does not have this method")]
    Unsupported,
}

impl EraseError {
    /// What a receipt calls it.
    pub fn obstacle(&self) -> Obstacle {
        match self {
            Self::Line(LineError::Declined(_)) => Obstacle::Declined,
            Self::Line(LineError::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                Obstacle::TimedOut
            }
            Self::Line(LineError::Io(_)) => Obstacle::Unreachable,
            Self::Failed => Obstacle::Failed,
            Self::TimedOut | Self::Left => Obstacle::TimedOut,
            Self::Unsupported => Obstacle::Unsupported,
        }
    }
}

/// How patient whoever erases is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often is looked.
    pub look: Duration,
    /// The longest that a drive may take that does not say how long it does.
    pub at_most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { look: Duration::from_secs(1), at_most: Duration::from_secs(12 * 60 * 60) }
    }
}

/// One method for one drive.
#[derive(Debug)]
pub struct Erasure<'a> {
    /// The way to the drive.
    pub line: Arc<dyn Line>,
    /// What it said.
    pub said: &'a Said,
    /// By which method.
    pub method: Method,
    /// It was begun before, and nobody knows how it ended.
    pub is_begun: bool,
    /// A password for a drive that takes one to be erased; it does not outlast the erasure.
    pub password: [u8; ata::PASSWORD],
    /// The code on the drive's label.
    pub psid: Option<&'a str>,
    /// How patient we are.
    pub pace: Pace,
}

impl Erasure<'_> {
    /// Erases. `goes_on` is asked from time to time, with the drive's progress in thousandths where it says any,
    /// whether anybody still waits.
    ///
    /// # Errors
    /// [`EraseError`]. The drive may be erased in part, and takes other methods, or further attempts.
    pub fn run(&self, goes_on: &mut dyn FnMut(Option<u16>) -> bool) -> Result<(), EraseError> {
        match (self.method, &self.said.tongue) {
            (Method::NvmeSanitizeCrypto, _) => self.sanitize(Sanitize::Crypto, goes_on),
            (Method::NvmeSanitizeBlock, _) => self.sanitize(Sanitize::Block, goes_on),
            (Method::NvmeFormatCrypto, Tongue::Nvme { namespace, .. }) => {
                self.format(namespace, Erasing::Crypto, goes_on)
            }
            (Method::NvmeFormatErase, Tongue::Nvme { namespace, .. }) => {
                self.format(namespace, Erasing::User, goes_on)
            }
            (Method::AtaEnhancedErase, Tongue::Ata(identify)) => {
                self.secure_erase(true, identify, goes_on)
            }
            (Method::AtaErase, Tongue::Ata(identify)) => {
                self.secure_erase(false, identify, goes_on)
            }
            (Method::OpalRevert, _) => {
                let psid = self.psid.ok_or(EraseError::Unsupported)?.to_owned();
                self.wait(self.pace.at_most, goes_on, move |line| line.opal_revert(&psid))
            }
            (
                Method::NvmeFormatCrypto
                | Method::NvmeFormatErase
                | Method::AtaEnhancedErase
                | Method::AtaErase,
                Tongue::Nvme { .. } | Tongue::Ata(_) | Tongue::Unknown,
            ) => Err(EraseError::Unsupported),
        }
    }

    /// The drive sanitizes by itself, and says how far it is; it goes on after a power cut.
    fn sanitize(
        &self,
        what: Sanitize,
        goes_on: &mut dyn FnMut(Option<u16>) -> bool,
    ) -> Result<(), EraseError> {
        let line = &*self.line;
        let before = sanitize_log(line)?;
        let command = Command::sanitize(what);
        let is_ours = before.dword_10 & 7 == command.dword_10 & 7;
        match before.stage {
            // Somebody's, or ours from before a power cut.
            Stage::Running => {}
            Stage::Done if self.is_begun && is_ours && before.is_blank => return Ok(()),
            Stage::Done | Stage::Never | Stage::Failed => line.nvme(&command, &mut [])?,
        }
        let takes = match what {
            Sanitize::Crypto => before.crypto_takes,
            Sanitize::Block | Sanitize::ExitFailure => before.block_takes,
        };
        for _ in 0..self.looks(self.longest(takes)) {
            let log = sanitize_log(line)?;
            match log.stage {
                Stage::Done => return Ok(()),
                Stage::Running => {}
                Stage::Never => return Err(EraseError::Failed),
                Stage::Failed => {
                    // Until it is told to leave that state it takes nothing else.
                    let _ = line.nvme(&Command::sanitize(Sanitize::ExitFailure), &mut []);
                    return Err(EraseError::Failed);
                }
            }
            let thousandths = (u32::from(log.progress) * 1000) >> 16;
            if !goes_on(u16::try_from(thousandths).ok()) {
                return Err(EraseError::Left);
            }
            pause(self.pace.look);
        }
        Err(EraseError::TimedOut)
    }

    fn format(
        &self,
        namespace: &nvme::Namespace,
        erasing: Erasing,
        goes_on: &mut dyn FnMut(Option<u16>) -> bool,
    ) -> Result<(), EraseError> {
        let longest = self.pace.at_most;
        let command = Command::format(namespace.id, namespace.form, erasing, longest);
        self.wait(longest, goes_on, move |line| line.nvme(&command, &mut []))
    }

    /// A drive is erased by whoever has its password, so it gets one. Erasing takes it away again.
    fn secure_erase(
        &self,
        is_enhanced: bool,
        said: &ata::Identify,
        goes_on: &mut dyn FnMut(Option<u16>) -> bool,
    ) -> Result<(), EraseError> {
        let takes = if is_enhanced { said.enhanced_takes } else { said.erase_takes };
        let (line, longest) = (&*self.line, self.longest(takes));
        // After a power cut it is locked, by the password that it got then.
        if !(self.is_begun && said.is_locked) {
            let new_password = ata::new_password_page(&self.password);
            line.ata(&ata::Command::short(ata::SET_PASSWORD), Data::Out(&new_password))?;
        }
        let page = ata::password_page(&self.password, is_enhanced);
        let erased = self.wait(longest, goes_on, move |line| {
            line.ata(&ata::Command::short(ata::ERASE_PREPARE), Data::None)?;
            line.ata(&ata::Command::long(ata::ERASE_UNIT, longest), Data::Out(&page))
        });
        let outcome = match erased {
            Ok(()) => match identify(line) {
                Ok(Some(identify)) if !identify.has_password => return Ok(()),
                Ok(Some(_) | None) => Err(EraseError::Failed),
                Err(error) => Err(error.into()),
            },
            Err(EraseError::Left) => return erased,
            Err(_) => erased,
        };
        // It is to be overwritten then, and must neither be locked now nor when it starts again.
        let page = ata::password_page(&self.password, false);
        for command in [ata::UNLOCK, ata::DISABLE_PASSWORD] {
            let _ = line.ata(&ata::Command::short(command), Data::Out(&page));
        }
        outcome
    }

    /// Has a command that takes long run on a thread of its own, and asks meanwhile whether anybody still waits.
    fn wait(
        &self,
        longest: Duration,
        goes_on: &mut dyn FnMut(Option<u16>) -> bool,
        command: impl FnOnce(&dyn Line) -> Result<(), LineError> + Send + 'static,
    ) -> Result<(), EraseError> {
        let (done, ended) = sync_channel(1);
        let line = self.line.clone();
        let thread = thread::Builder::new().name("drive".to_owned()).spawn(move || {
            // Whoever waited may have gone.
            let _ = done.send(command(&*line));
        });
        thread.map_err(LineError::Io)?;
        for _ in 0..self.looks(longest) {
            match ended.recv_timeout(self.pace.look) {
                Ok(outcome) => return Ok(outcome?),
                Err(RecvTimeoutError::Disconnected) => return Err(EraseError::Failed),
                Err(RecvTimeoutError::Timeout) if !goes_on(None) => return Err(EraseError::Left),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Err(EraseError::TimedOut)
    }

    /// How long a drive may take that said so much.
    fn longest(&self, takes: Option<Duration>) -> Duration {
        takes.map_or(self.pace.at_most, |takes| takes * 2 + GRACE)
    }

    fn looks(&self, longest: Duration) -> u128 {
        longest.as_millis() / self.pace.look.as_millis().max(1) + 1
    }
}

fn sanitize_log(line: &dyn Line) -> Result<SanitizeLog, LineError> {
    let mut log = [0; nvme::SANITIZE_LOG];
    line.nvme(&Command::sanitize_log(), &mut log)?;
    Ok(SanitizeLog::read(&log))
}

/// Nobody sends, so this waits out the time.
fn pause(time: Duration) {
    let (_open, never) = sync_channel::<()>(0);
    let _ = never.recv_timeout(time);
}
