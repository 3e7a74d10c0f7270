//! Who goes first when memory runs short: the script, and not its supervisor, nor what people work with.
//!
//! A script that comes from the agent must not be as hard to kill as that is, and a supervisor that goes before its
//! script takes the outcome along. Help, and no condition: a script runs where this cannot be had. Source:
//! proc_pid_oom_score_adj(5).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

/// What is added to a script's score.
pub(super) const SCRIPT: &str = "500";

/// This process's own score, and what was added to it before.
#[derive(Debug)]
pub(super) struct Score {
    file: File,
    former: String,
}

impl Score {
    /// Where there is one.
    pub(super) fn open() -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/proc/self/oom_score_adj");
        let (mut file, mut former) = (file.ok()?, String::new());
        file.read_to_string(&mut former).ok()?;
        Some(Self { file, former })
    }

    /// Starts what inherits the score of a script, and takes this process's own again. Between the two it is no
    /// harder to kill than what it starts.
    pub(super) fn as_of_a_script<T>(
        &mut self,
        start: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let _ = self.file.write_all(SCRIPT.as_bytes());
        let started = start();
        let _ = self.file.write_all(self.former.trim().as_bytes());
        started
    }
}
