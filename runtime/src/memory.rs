//! What a process holds in its memory stays there.
//!
//! Owns two switches of Linux: no core file is written of it, neither to a folder nor to a program
//! that `core(5)` names, and nobody with the same account may trace it or read its memory, which
//! `ptrace(2)` then leaves to who has `CAP_SYS_PTRACE`. Must come before the first key is read.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps the memory of this process from core files and tracers, for as long as it runs. What it
/// starts may be traced again, but leaves no core file either.
///
/// # Errors
/// What the system says, where something between it and the process forbids the calls.
pub fn keep_private() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}
