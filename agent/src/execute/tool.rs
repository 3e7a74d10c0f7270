//! Runs one external program of the endpoint: absolute path, cleared environment, bounded output,
//! bounded time.
//!
//! The only place where executors start programs. It must not go through a shell, and must not
//! interpret what a program prints: that is the executor's part.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use protocol::receipt::{Failure, FailureKind};

use super::course::{Course, patience};
use super::failure;

#[cfg(test)]
mod tests;

/// Where programs of the system live. Never `PATH`: the agent runs as root.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// What a program finds in its environment, and nothing else.
const ENVIRONMENT: [(&str, &str); 2] =
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8")];
/// Bytes kept of each output unless the caller says otherwise.
const OUTPUT_BYTES: usize = 1024 * 1024;
/// Characters of a program's complaint that go into a failure.
const COMPLAINT_CHARS: usize = 300;
/// How long outputs may lag behind the end of the program that wrote them.
const OUTPUT_LAG: Duration = Duration::from_secs(2);

/// One program with its arguments, ready to run.
#[derive(Debug, Clone)]
pub struct Tool {
    path: PathBuf,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    budget: Duration,
    output_bytes: usize,
}

/// What a program that ended left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, up to the cap.
    pub stdout: Vec<u8>,
    /// What it complained about, up to the cap.
    pub stderr: Vec<u8>,
    /// Whether either output went beyond the cap and was cut.
    pub truncated: bool,
}

impl Output {
    /// What it printed as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Tool {
    /// The program of that name in the system's own folders.
    ///
    /// # Errors
    /// `Precondition` when it is not installed.
    pub fn find(name: &str, stage: &str) -> Result<Self, Failure> {
        FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.is_file())
            .map(Self::at)
            .ok_or_else(|| {
                let detail = format!("`{name}` is not installed in {}", FOLDERS.join(", "));
                failure(FailureKind::Precondition, stage, detail)
            })
    }

    /// The program at an absolute path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            budget: patience::TOOL,
            output_bytes: OUTPUT_BYTES,
        }
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds one variable to the otherwise fixed environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What the program reads on its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long the program may take before it is killed.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// No longer than what is left of the step on that course.
    #[must_use]
    pub fn during(mut self, course: &Course) -> Self {
        self.budget = course.within(self.budget);
        self
    }

    /// Bytes kept of each output; the rest is read and dropped.
    #[must_use]
    pub fn output_bytes(mut self, bytes: usize) -> Self {
        self.output_bytes = bytes;
        self
    }

    /// Runs the program to its end, whatever its exit status.
    ///
    /// The program gets a process group of its own; whatever is left of that group when it ends,
    /// or when its time is up, is killed. It runs in the namespaces of the calling thread.
    ///
    /// # Errors
    /// `Precondition` when it cannot be started, `Timeout` when its time is up.
    pub fn run(&self, stage: &str) -> Result<Output, Failure> {
        let mut child = self.command().spawn().map_err(|error| {
            let detail = format!("cannot start {}: {error}", self.path.display());
            failure(FailureKind::Precondition, stage, detail)
        })?;
        let stdout = child.stdout.take().map(|pipe| collect(pipe, self.output_bytes));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, self.output_bytes));
        self.feed(&mut child);
        let ended = self.wait(&child);
        // The child is not reaped yet, so its group cannot have become somebody else's.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        let status = child.wait().map_err(|error| failure(FailureKind::Io, stage, error))?;
        if !ended {
            let detail = format!("{} took longer than {:?}", self.path.display(), self.budget);
            return Err(failure(FailureKind::Timeout, stage, detail));
        }
        let (stdout, more_out) = collected(stdout.as_ref());
        let (stderr, more_err) = collected(stderr.as_ref());
        Ok(Output { status, stdout, stderr, truncated: more_out || more_err })
    }

    /// Runs the program and requires that it reports success and that its output is whole.
    ///
    /// # Errors
    /// As [`Tool::run`]; `Tool` with the program's own words when it reports an error.
    pub fn run_ok(&self, stage: &str) -> Result<Output, Failure> {
        let output = self.run(stage)?;
        if output.status.success() && !output.truncated {
            return Ok(output);
        }
        let how = match (output.status.code(), output.status.signal()) {
            (Some(0), _) => "printed more than can be kept".to_owned(),
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "ended abnormally".to_owned(),
        };
        let complaint = complaint(&output.stderr);
        let detail = format!("{}: {how}: {complaint}", self.path.display());
        Err(failure(FailureKind::Tool, stage, detail))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Writes standard input from a thread of its own, so that a program that does not read it
    /// cannot hold its caller.
    fn feed(&self, child: &mut Child) {
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // A program may end without reading everything; its exit status tells.
            thread::spawn(move || pipe.write_all(&bytes));
        }
    }

    /// Waits for the end without reaping. Answers whether it came in time.
    fn wait(&self, child: &Child) -> bool {
        let (done, ended) = sync_channel(1);
        let pid = Pid::from_raw(child.id().cast_signed());
        thread::spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
            let _ = done.send(());
        });
        ended.recv_timeout(self.budget) != Err(RecvTimeoutError::Timeout)
    }
}

/// Reads a pipe to its end in a thread of its own, keeping the first `keep` bytes.
fn collect(mut pipe: impl Read + Send + 'static, keep: usize) -> Receiver<(Vec<u8>, bool)> {
    let (done, collected) = sync_channel(1);
    thread::spawn(move || {
        let mut kept = Vec::new();
        let limit = u64::try_from(keep).unwrap_or(u64::MAX);
        let first = pipe.by_ref().take(limit).read_to_end(&mut kept);
        let beyond = first.and_then(|_| std::io::copy(&mut pipe, &mut std::io::sink()));
        let _ = done.send((kept, beyond.is_ok_and(|bytes| bytes > 0)));
    });
    collected
}

/// What was collected. A program that handed its outputs to a daemon counts as cut.
fn collected(from: Option<&Receiver<(Vec<u8>, bool)>>) -> (Vec<u8>, bool) {
    from.and_then(|receiver| receiver.recv_timeout(OUTPUT_LAG).ok())
        .unwrap_or_else(|| (Vec::new(), true))
}

/// A program's complaint on one line, bounded and printable.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARS).collect()
}
