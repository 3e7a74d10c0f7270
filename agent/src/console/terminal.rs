//! Terminals: which ones are consoles, and one of them in raw mode.
//!
//! Without a controlling terminal and with keys that raise no signal there is nothing on a line that
//! ends this program. A virtual console is kept in front by asking the login manager again; on other
//! consoles the usual login program has to go first, and comes back afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    ControlFlags, FlushArg, InputFlags, LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw,
    tcflush, tcgetattr, tcsetattr,
};

use crate::execute::lock;
use crate::execute::tool::Tool;
use crate::host::Host;

/// The virtual console of this page: beyond those on which a login program comes up by itself.
const OWN_CONSOLE: u32 = 12;
/// One round of looking.
const ROUND_MILLIS: u16 = 1000;
/// Bytes that are taken in one round.
const BYTES: usize = 64;
/// How long the service manager may take.
const BUDGET: Duration = Duration::from_secs(10);

/// A terminal on which the lock is shown.
#[derive(Debug)]
pub(super) struct Terminal {
    path: PathBuf,
    kind: Kind,
}

/// What is to be done about a terminal besides opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Nothing: it was named.
    Named,
    /// A virtual console, brought to the front.
    Virtual,
    /// A line whose login program is this unit.
    Line(String),
}

/// The consoles of a host: a virtual one where there are any, and every line that the kernel calls its
/// console.
pub(super) fn consoles(host: &Host) -> Vec<Terminal> {
    let read = |path: &str| fs::read_to_string(host.path(path)).unwrap_or_default();
    let device = |name: &str| host.path(format!("/dev/{name}"));
    let mut found = Vec::new();
    let own = device(&format!("tty{OWN_CONSOLE}"));
    if own.exists() && !read("/sys/class/tty/tty0/active").is_empty() {
        found.push(Terminal { path: own, kind: Kind::Virtual });
    }
    for name in read("/sys/class/tty/console/active").split_whitespace() {
        let is_virtual = name.strip_prefix("tty").is_some_and(|rest| rest.parse::<u32>().is_ok());
        if !is_virtual && device(name).exists() {
            let unit = format!("serial-getty@{name}.service");
            found.push(Terminal { path: device(name), kind: Kind::Line(unit) });
        }
    }
    if found.is_empty() && device("console").exists() {
        let unit = "console-getty.service".to_owned();
        found.push(Terminal { path: device("console"), kind: Kind::Line(unit) });
    }
    found
}

/// Lets login programs come back to where they usually are. The target is there already; asking for it
/// once more starts what of it is missing.
pub(super) fn let_log_in_again(host: &Host) {
    if host.dbus_address.is_some() {
        systemctl(&["start", "getty.target"]);
    }
}

/// Waits for a round.
pub(super) fn pause() {
    let _ = poll(&mut [], PollTimeout::from(ROUND_MILLIS));
}

impl Terminal {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, kind: Kind::Named }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it from whoever has it.
    pub(super) fn claim(&self, host: &Host) {
        match &self.kind {
            Kind::Line(unit) if host.dbus_address.is_some() => systemctl(&["stop", unit]),
            Kind::Named | Kind::Virtual | Kind::Line(_) => {}
        }
    }

    /// Brings it back to the front where somebody has switched to another one.
    pub(super) fn stay_in_front(&self, host: &Host) {
        let active = || fs::read_to_string(host.path("/sys/class/tty/tty0/active"));
        let is_in_front = || active().is_ok_and(|name| name.trim() == format!("tty{OWN_CONSOLE}"));
        if self.kind == Kind::Virtual
            && !is_in_front()
            && let Err(failure) = lock::switch_to_console(host, OWN_CONSOLE)
        {
            tracing::warn!(detail = failure.detail, "console is not in front");
        }
    }

    /// Opens it, with keys that are bytes and nothing else.
    pub(super) fn open(&self) -> io::Result<Line> {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits())
            .open(&self.path)?;
        let mut former = tcgetattr(&file)?;
        let mut raw = former.clone();
        // One of these that was killed leaves it raw; whoever has it next must not find it so.
        former.local_flags |= LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::ECHO;
        former.input_flags |= InputFlags::ICRNL;
        former.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
        cfmakeraw(&mut raw);
        // A line whose carrier is not told must not look hung up.
        raw.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        tcsetattr(&file, SetArg::TCSANOW, &raw)?;
        tcflush(&file, FlushArg::TCIFLUSH)?;
        Ok(Line { file, former, path: self.path.clone() })
    }
}

/// A terminal that is open.
pub(super) struct Line {
    file: File,
    former: Termios,
    path: PathBuf,
}

/// What came within a round.
pub(super) enum Seen {
    Nothing,
    Bytes(Vec<u8>),
}

impl Line {
    /// Writes a text. What a terminal does not take within a round it does not get.
    pub(super) fn put(&mut self, text: &str) -> io::Result<()> {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            match self.file.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.is_ready(PollFlags::POLLOUT)? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is typed within a round.
    pub(super) fn wait(&mut self) -> io::Result<Seen> {
        if !self.is_ready(PollFlags::POLLIN)? {
            return Ok(Seen::Nothing);
        }
        let mut bytes = [0; BYTES];
        match self.file.read(&mut bytes) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => Ok(Seen::Bytes(bytes.get(..length).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Seen::Nothing),
            Err(error) => Err(error),
        }
    }

    fn is_ready(&self, what: PollFlags) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.file.as_fd(), what)];
        match poll(&mut fds, PollTimeout::from(ROUND_MILLIS)) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the terminal back as it was, with that text on it.
    pub(super) fn leave(&mut self, text: &str) -> io::Result<()> {
        self.put(text)?;
        Ok(tcsetattr(&self.file, SetArg::TCSANOW, &self.former)?)
    }

    /// Runs the usual login on it, to its end: the gate of the lock judges there. The line is hung up
    /// by then.
    pub(super) fn log_in(self) -> io::Result<()> {
        let open = || OpenOptions::new().read(true).write(true).open(&self.path);
        let (input, output, errors) = (open()?, open()?, open()?);
        // A session of its own, whose controlling terminal this becomes.
        let status = Command::new("setsid")
            .args(["--ctty", "--wait", "login"])
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors))
            .status()?;
        tracing::info!(%status, "login on a console ended");
        Ok(())
    }
}

fn systemctl(words: &[&str]) {
    let asked = Tool::find("systemctl", "console")
        .and_then(|tool| tool.args(words).budget(BUDGET).run_ok("console"));
    if let Err(failure) = asked {
        tracing::warn!(detail = failure.detail, "service manager declined");
    }
}
