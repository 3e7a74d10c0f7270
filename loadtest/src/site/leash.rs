//! A leash: a server that the harness starts ends with it, even when the harness is killed.
//!
//! Between the harness and the server's program stands this program for a moment: it asks the kernel
//! for a signal at its parent's end (`PR_SET_PDEATHSIG` of `prctl(2)`), which a process keeps when it
//! becomes another program. Owns nothing that goes on afterwards.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

/// The word on the command line by which this program knows that it is one.
pub(crate) const LEASH: &str = "leash";
/// This program. Test programs have another name, and lie one folder below.
const PROGRAM: &str = "tocsin-loadtest";

/// Why a server does not start on a leash.
#[derive(Debug, thiserror::Error)]
pub enum LeashError {
    /// The kernel does not promise the signal.
    #[error("no signal is promised for the end of the harness")]
    Promise(#[from] Errno),
    /// Whoever started it is gone already: nobody would end the server.
    #[error("the harness is gone")]
    Gone,
    /// The program cannot be run.
    #[error("{0} cannot be run")]
    Program(PathBuf, #[source] io::Error),
}

/// Arguments of `leash`.
#[derive(Debug, Args)]
pub struct LeashArgs {
    /// The process that the server must not outlive
    #[arg(long)]
    parent: i32,
    /// What the server is told then: to be dead, or to end
    #[arg(long, value_enum)]
    end: End,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// How a server ends when the harness is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum End {
    /// At once.
    Kill,
    /// As it does when it is asked to: for servers that have processes of their own to end.
    Ask,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Ask => "ask",
        }
    }

    const fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Ask => Signal::SIGTERM,
        }
    }
}

impl LeashArgs {
    /// Becomes the server. Comes back only with what went wrong.
    pub fn become_it(&self) -> LeashError {
        if let Err(error) = prctl::set_pdeathsig(self.end.signal()) {
            return error.into();
        }
        // It may have ended before the kernel knew.
        if getppid() != Pid::from_raw(self.parent) {
            return LeashError::Gone;
        }
        let (program, args) = self.command.split_first().expect("clap wants one at least");
        let error = Command::new(program).args(args).exec();
        LeashError::Program(program.into(), error)
    }
}

/// That program with those arguments, on a leash. Without this program there is none: in a test that
/// uses the harness as a library and was built alone.
pub(crate) fn command(program: &OsString, args: &[OsString], end: End) -> tokio::process::Command {
    let Some(own) = find() else {
        let mut command = tokio::process::Command::new(program);
        command.args(args);
        return command;
    };
    let mut command = tokio::process::Command::new(own);
    let parent = std::process::id().to_string();
    command.args([LEASH, "--parent", &parent, "--end", end.as_str(), "--"]);
    command.arg(program).args(args);
    command
}

fn find() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    if own.file_name()? == PROGRAM {
        return Some(own);
    }
    let mut beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(PROGRAM));
    beside.find(|program| program.is_file())
}
