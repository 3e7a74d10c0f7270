//! The command line of `tocsin-agent`.
//!
//! Read by hand: a few verbs do not justify a parser's dependencies in a program that runs as
//! root on every endpoint. Performs nothing.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::execute::rotate::Manage;
use crate::offline::Effect;

#[cfg(test)]
mod tests;

/// What `--help` prints.
pub const HELP: &str = "\
Tocsin's agent: carries out signed commands on this machine, and proves it.

usage: tocsin-agent run    [--config FILE] [--state DIR]
       tocsin-agent reassert [--config FILE] [--state DIR]
       tocsin-agent enroll TOKEN [--config FILE] [--state DIR] [--name NAME] [--force]
       tocsin-agent status [--config FILE] [--state DIR] [--json]
       tocsin-agent unlock --code CODE [--config FILE] [--state DIR]
       tocsin-agent release --code CODE [--config FILE] [--state DIR]
       tocsin-agent console [TERMINAL…] [--config FILE] [--state DIR]
       tocsin-agent manage PATH… [--config FILE] [--state DIR]
       tocsin-agent manage-volume VOLUME [--recovery-slot N] [--in-the-clear] [--config FILE]
               [--state DIR]

reassert puts up a lock and a quarantine that stand, destroys what keys are left of a wipe that was
cut off, and ends: the boot's first step, before the network and before anybody can log in.
unlock and release end a lock or a quarantine with the code that whoever ordered it reads out,
whether the agent runs or not. `-` reads the code from standard input.
console shows on every console, or on these terminals, that the device is locked, and takes the code
there; it ends with the lock.
PATH is a file that belongs to the company: a selective wipe removes it. Files are
listed before they are written.
VOLUME is a LUKS volume whose recovery key `tocsin rotate-credentials` replaces from then on. A
passphrase that opens it is read from standard input, and not kept. The agent gets a keyslot of its
own, whose key lies in the state directory: without --in-the-clear that must be encrypted itself.
N is the keyslot of a recovery key that is there already: the first rotation replaces it.
TOKEN is what `tocsin enroll-token` printed; `-` reads it from standard input,
so that it shows in no process list.
FILE is /etc/tocsin/agent.toml when that exists. Variables TOCSIN_AGENT_* override it.
";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The verb.
    pub verb: Verb,
    /// The configuration file, if named.
    pub config: Option<PathBuf>,
    /// The state directory in place of the configured one.
    pub state: Option<PathBuf>,
}

/// The verbs of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Runs the agent until it is told to stop.
    Run,
    /// Puts up again the lock and the quarantine that stand, and ends.
    Reassert,
    /// Makes a device of this machine.
    Enroll {
        /// The enrollment token, or `-`.
        token: String,
        /// What people call the machine; its host name when left out.
        name: Option<String>,
        /// Replaces an enrollment that is there.
        force: bool,
    },
    /// Prints what the agent last told about itself.
    Status {
        /// As JSON.
        json: bool,
    },
    /// Ends a lock or a quarantine with its offline code.
    EndOffline {
        /// Which.
        effect: Effect,
        /// The code, or `-`.
        code: String,
    },
    /// Shows a lock on the consoles until it is gone.
    Console {
        /// The terminals; the consoles of the machine when none is named.
        terminals: Vec<PathBuf>,
    },
    /// Puts files on the list of those that a selective wipe removes.
    Manage {
        /// Absolute paths, as the endpoint names them.
        paths: Vec<PathBuf>,
    },
    /// Begins to manage the keys of a volume.
    ManageVolume(Manage),
    /// Watches over one script. For the agent itself.
    Supervise {
        /// Where the script lies, below the root.
        folder: PathBuf,
        /// Root of the endpoint's file system.
        root: PathBuf,
    },
    /// Prints how to call.
    Help,
    /// Prints the version.
    Version,
}

impl Verb {
    /// Whether its process reads a key, or a code that opens something. The console does not count:
    /// people log in below it, and nothing may be taken away from them.
    #[must_use]
    pub const fn holds_keys(&self) -> bool {
        match self {
            Self::Run
            | Self::Reassert
            | Self::Enroll { .. }
            | Self::EndOffline { .. }
            | Self::ManageVolume(_) => true,
            Self::Status { .. }
            | Self::Console { .. }
            | Self::Manage { .. }
            | Self::Supervise { .. }
            | Self::Help
            | Self::Version => false,
        }
    }
}

/// A command line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such verb, option or argument here.
    #[error("{0:?} is not understood here; see tocsin-agent --help")]
    Unknown(String),
    /// An option lacks its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// Files to be listed, without any, or not by absolute paths.
    #[error("manage needs absolute paths")]
    NoPath,
    /// Unlocking or releasing without a code.
    #[error("unlock and release need --code")]
    NoCode,
    /// A volume to be managed, without one.
    #[error("manage-volume needs the absolute path of a volume")]
    NoVolume,
    /// Not the number of a keyslot.
    #[error("--recovery-slot needs a number")]
    NoSlot,
    /// Enrollment without a token.
    #[error("enroll needs a token")]
    NoToken,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// [`UsageError`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut arguments = arguments.into_iter();
    let verb = arguments.next().map(|verb| verb.to_string_lossy().into_owned());
    let verb = verb.unwrap_or_else(|| "--help".to_owned());
    let mut invocation = Invocation { verb: named(&verb)?, config: None, state: None };
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let mut value = |option| arguments.next().ok_or(UsageError::NoValue(option));
        match (&*text, &mut invocation.verb) {
            ("--config", _) => invocation.config = Some(value("--config")?.into()),
            ("--state", _) => invocation.state = Some(value("--state")?.into()),
            ("--name", Verb::Enroll { name, .. }) => {
                *name = Some(value("--name")?.to_string_lossy().into_owned());
            }
            ("--code", Verb::EndOffline { code, .. }) => {
                *code = value("--code")?.to_string_lossy().into_owned();
            }
            ("--force", Verb::Enroll { force, .. }) => *force = true,
            ("--root", Verb::Supervise { root, .. }) => *root = value("--root")?.into(),
            (path, Verb::Supervise { folder, .. }) if path.starts_with('/') => {
                *folder = argument.clone().into();
            }
            ("--json", Verb::Status { json }) => *json = true,
            ("--help" | "-h", verb) => *verb = Verb::Help,
            (token_text, Verb::Enroll { token, .. })
                if token.is_empty() && (token_text == "-" || !token_text.starts_with('-')) =>
            {
                token_text.clone_into(token);
            }
            (path, Verb::Console { terminals }) if path.starts_with('/') => {
                terminals.push(argument.clone().into());
            }
            (path, Verb::Manage { paths }) if path.starts_with('/') => {
                paths.push(argument.clone().into());
            }
            (_, Verb::Manage { .. }) => return Err(UsageError::NoPath),
            ("--in-the-clear", Verb::ManageVolume(manage)) => manage.in_the_clear = true,
            ("--recovery-slot", Verb::ManageVolume(manage)) => {
                let slot = value("--recovery-slot")?;
                let slot = slot.to_str().and_then(|slot| slot.parse().ok());
                manage.recovery_slot = Some(slot.ok_or(UsageError::NoSlot)?);
            }
            (path, Verb::ManageVolume(manage)) if path.starts_with('/') => {
                manage.path = argument.clone().into();
            }
            (other, _) => return Err(UsageError::Unknown(other.to_owned())),
        }
    }
    match &invocation.verb {
        Verb::Enroll { token, .. } if token.is_empty() => Err(UsageError::NoToken),
        Verb::Manage { paths } if paths.is_empty() => Err(UsageError::NoPath),
        Verb::EndOffline { code, .. } if code.is_empty() => Err(UsageError::NoCode),
        Verb::ManageVolume(manage) if manage.path.as_os_str().is_empty() => {
            Err(UsageError::NoVolume)
        }
        Verb::Enroll { .. }
        | Verb::EndOffline { .. }
        | Verb::Console { .. }
        | Verb::ManageVolume(_)
        | Verb::Manage { .. }
        | Verb::Supervise { .. }
        | Verb::Run
        | Verb::Reassert
        | Verb::Status { .. }
        | Verb::Help
        | Verb::Version => Ok(invocation),
    }
}

fn named(verb: &str) -> Result<Verb, UsageError> {
    match verb {
        "run" => Ok(Verb::Run),
        "reassert" => Ok(Verb::Reassert),
        "enroll" => Ok(Verb::Enroll { token: String::new(), name: None, force: false }),
        "unlock" => Ok(Verb::EndOffline { effect: Effect::Lock, code: String::new() }),
        "release" => Ok(Verb::EndOffline { effect: Effect::Quarantine, code: String::new() }),
        "console" => Ok(Verb::Console { terminals: Vec::new() }),
        "manage" => Ok(Verb::Manage { paths: Vec::new() }),
        "manage-volume" => Ok(Verb::ManageVolume(Manage::default())),
        "status" => Ok(Verb::Status { json: false }),
        "supervise" => Ok(Verb::Supervise { folder: PathBuf::new(), root: "/".into() }),
        "help" | "--help" | "-h" => Ok(Verb::Help),
        "--version" | "-V" => Ok(Verb::Version),
        other => Err(UsageError::Unknown(other.to_owned())),
    }
}
