//! How a run of the command line ends.
//!
//! Owns the exit codes, which scripts rely on, and the form of an error: what happened, and what
//! to do next.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use protocol::state::CommandState;

use crate::client::ClientError;
use crate::codefile::CodeFileError;
use crate::keyfile::KeyFileError;
use crate::profile::ProfileError;

/// The exit codes. Their numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for happened.
    Success = 0,
    /// The request could not be made or was not accepted, as far as is known.
    Error = 1,
    /// The arguments are not understood, or a question could not be asked.
    Usage = 2,
    /// A device refused: nothing was done there.
    Refused = 3,
    /// A device failed, or it is in doubt whether it did.
    Failed = 4,
    /// Waiting ended first; the order goes on.
    Pending = 5,
    /// A command was cancelled, or expired before its device took it.
    Ended = 6,
    /// Other people have to approve first.
    AwaitingApproval = 7,
}

/// The exit codes as `--help` explains them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  all of it succeeded
  1  error of use or connection; the text says so if an order may have been given
  2  arguments not understood, or a confirmation was needed and nobody could be asked
  3  refused by a device: nothing was done there
  4  failed on a device, or in doubt
  5  still pending when the waiting ended; the order goes on
  6  cancelled, or expired before a device took it
  7  awaits the approval of other people
With several devices the gravest one counts: 4, 3, 6, 5, 7, 0.

Environment:
  TOCSIN_URL, TOCSIN_TOKEN, TOCSIN_CA, TOCSIN_CA_PIN, TOCSIN_PROFILE, TOCSIN_PASSPHRASE, NO_COLOR";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// What the state of one command means for the whole.
    pub const fn of_state(state: CommandState) -> Self {
        match state {
            CommandState::AwaitingApproval => Self::AwaitingApproval,
            CommandState::AwaitingWave
            | CommandState::Queued
            | CommandState::Sent
            | CommandState::Acked
            | CommandState::Running => Self::Pending,
            CommandState::Succeeded => Self::Success,
            CommandState::Failed | CommandState::InDoubt => Self::Failed,
            CommandState::Refused => Self::Refused,
            CommandState::Expired | CommandState::Cancelled => Self::Ended,
        }
    }

    /// What the states of many commands mean together: the gravest.
    pub fn of_states(states: impl IntoIterator<Item = CommandState>) -> Self {
        states
            .into_iter()
            .map(Self::of_state)
            .max_by_key(|exit| exit.gravity())
            .unwrap_or(Self::Success)
    }

    const fn gravity(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::AwaitingApproval => 1,
            Self::Pending => 2,
            Self::Ended => 3,
            Self::Refused => 4,
            Self::Failed => 5,
            Self::Error | Self::Usage => 6,
        }
    }
}

/// Why a command did not even begin to have an effect.
#[derive(Debug)]
pub struct Failure {
    message: String,
    next: Option<String>,
    exit: Exit,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl Failure {
    /// A failure with that text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), next: None, exit: Exit::Error, source: None }
    }

    /// A failure of use.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// A failure that another error explains.
    pub fn of(error: impl Error + Send + Sync + 'static) -> Self {
        let source = error.source().map(|source| chain(source).into());
        Self { message: error.to_string(), next: None, exit: Exit::Error, source }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    /// The exit code.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The whole text: what happened, why, and what to do next.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}", chain(self));
        if let Some(next) = &self.next {
            text.push_str("\n  → ");
            text.push_str(next);
        }
        text
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Foreign errors often repeat their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let next = error.next().map(str::to_owned);
        Self { next, ..Self::of(error) }
    }
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Self {
        let next = match &error {
            ProfileError::Missing(_) => Some(
                "run `tocsin login --url URL --ca FILE`, or set TOCSIN_URL, TOCSIN_TOKEN and \
                 TOCSIN_CA"
                    .to_owned(),
            ),
            ProfileError::Exposed { path, .. } => {
                Some(format!("run `chmod 600 {}`, and consider a new token", path.display()))
            }
            ProfileError::Malformed { .. } => {
                Some("correct it, or run `tocsin login` to write it anew".to_owned())
            }
            ProfileError::NoHome => Some("name the file with --profile FILE".to_owned()),
            ProfileError::Pin(_) => {
                Some("a pin is what `tocsin up` shows, 64 hex digits".to_owned())
            }
            ProfileError::File(_) | ProfileError::Folder { .. } | ProfileError::Url(_) => None,
        };
        Self { next, ..Self::of(error) }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let next = match &error {
            KeyFileError::Exists(_) => Some("a key is never overwritten: choose another --out"),
            KeyFileError::Malformed(_) => Some("make one with `tocsin key new --out FILE`"),
            KeyFileError::Passphrase(_) => {
                Some("try again; without its passphrase the key is lost, and a new one is needed")
            }
            KeyFileError::TooShort
            | KeyFileError::File(_)
            | KeyFileError::Sealing
            | KeyFileError::Key(_)
            | KeyFileError::Plain(_) => None,
        };
        Self { next: next.map(str::to_owned), ..Self::of(error) }
    }
}

impl From<CodeFileError> for Failure {
    fn from(error: CodeFileError) -> Self {
        let next = match &error {
            CodeFileError::Exists(_) => Some("the codes of an order are never overwritten"),
            CodeFileError::Device(_) => Some("look at the devices in the file, and give the id"),
            CodeFileError::File(_) | CodeFileError::Malformed(_) | CodeFileError::Sealing(_) => {
                None
            }
        };
        Self { next: next.map(str::to_owned), ..Self::of(error) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::of(error)
    }
}
