//! What processes hold in memory stays there: no core file, and no look of the same account.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::installation::{Installation, eventually};
use crate::operator::TOCSIN;

/// An ordinary account, where the test is root and can choose: `nobody` of Debian.
const NOBODY: u32 = 65_534;

/// A folder of an ordinary account, with a copy of the program.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(TOCSIN, folder.path().join("tocsin")).expect("a copy of the program");
        if geteuid().is_root() {
            chown(folder.path(), Some(NOBODY), None).expect("a folder of its own");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        Self { folder }
    }

    /// A program in that folder, as that account, which may leave core files as large as it likes.
    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$@\"", "sh"])
            .args(line)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Whether that account can look at a file of a process.
    fn reads(&self, pid: u32, name: &str) -> bool {
        let path = format!("/proc/{pid}/{name}");
        let mut look = self.command(&["head", "-c", "0", &path]);
        look.status().expect("coreutils are there").success()
    }

    fn cores(&self) -> usize {
        let files = fs::read_dir(self.folder.path()).expect("its folder").flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with("core")).count()
    }
}

/// A process that ends with the test, also with one that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn crash(Running(child): &mut Running, signal: Signal) -> ExitStatus {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // More than once: the handler of SIGSEGV that Rust installs lets the first one go by, and waits
    // for the faulty instruction to be done again.
    let status = eventually("it dies", || {
        kill(pid, signal).expect("it is ours, and nobody has waited for it");
        child.try_wait().expect("it can be waited for")
    });
    assert_eq!(status.signal(), Some(signal as i32), "{status}");
    status
}

fn is_private(pid: u32) -> bool {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = line.expect("a limit").split_whitespace().collect();
    words[4..6] == ["0", "0"] && is_of_root(Path::new(&format!("/proc/{pid}/environ")))
}

/// Files of a process that may not be dumped belong to root, whosever the process is (`proc(5)`).
fn is_of_root(path: &Path) -> bool {
    fs::metadata(path).expect("a process").uid() == 0
}

#[test]
fn hostile_crash_leaves_no_core_and_the_same_account_reads_no_memory() {
    let room = Room::new();
    // What an ordinary program leaves and shows here.
    let mut other = Running(room.command(&["sleep", "1000"]).spawn().expect("sleep starts"));
    eventually("it is another program by now", || {
        let line = fs::read(format!("/proc/{}/cmdline", other.0.id())).unwrap_or_default();
        line.starts_with(b"sleep").then_some(())
    });
    assert!(room.reads(other.0.id(), "environ"), "the look itself works");
    let dumps = crash(&mut other, Signal::SIGABRT).core_dumped();
    let left = room.cores();
    eprintln!("an ordinary program dumps here: {dumps}, with {left} files in its folder");

    for signal in [Signal::SIGABRT, Signal::SIGSEGV] {
        let line =
            ["./tocsin", "up", "--json", "--data", "data", "--operator-listen", "127.0.0.1:0"];
        let mut command = room.command(&line);
        command
            .env("TOCSIN_UP_ADMIN_LISTEN", "127.0.0.1:0")
            .env("TOCSIN_UP_API__AGENT_LISTEN", "127.0.0.1:0")
            .env("TOCSIN_UP_HUB__LISTEN", "127.0.0.1:0");
        let mut up = Running(command.spawn().expect("tocsin starts"));
        let mut said = String::new();
        let output = up.0.stdout.take().expect("its output is ours");
        BufReader::new(output).read_line(&mut said).expect("it says where it listens");
        assert!(said.starts_with('{'), "{said}");
        assert!(is_private(up.0.id()));
        for name in ["environ", "mem", "maps"] {
            assert!(!room.reads(up.0.id(), name), "{name} is read");
        }
        assert!(!crash(&mut up, signal).core_dumped(), "{signal}");
        assert_eq!(room.cores(), left, "{signal}");
    }

    // Whoever approves: it waits for a passphrase that nobody writes.
    let pipe = room.folder.path().join("passphrase");
    assert!(
        Command::new("mkfifo")
            .args(["-m", "666"])
            .arg(&pipe)
            .status()
            .expect("coreutils")
            .success()
    );
    let line = ["./tocsin", "key", "new", "--out", "alice.key", "--passphrase-file", "passphrase"];
    let mut key = Running(room.command(&line).spawn().expect("it starts"));
    eventually("it keeps its memory private", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", key.0.id())).expect("a name");
        (name.trim() == "tocsin" && is_private(key.0.id())).then_some(())
    });
    assert!(!crash(&mut key, Signal::SIGSEGV).core_dumped());
    assert_eq!(room.cores(), left);
}

#[test]
fn agent_and_platform_keep_their_memory_private() {
    let installation = Installation::new();
    let device = installation.device("web-1");
    for pid in [installation.pid(), device.pid()] {
        assert!(is_private(pid));
    }
}
