//! The supervisor: runs one script to its end, and writes down what it says and what came of it.
//!
//! A process of its own, so that neither a restart nor a crash of the agent ends the script or loses
//! its outcome. It inherits whatever the script leaves behind (prctl(2), `PR_SET_CHILD_SUBREAPER`), and
//! kills it. It must not outlive the script, and knows nothing of commands, keys or the network.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::{set_child_subreaper, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, chdir, chroot, close, setsid};
use protocol::advance;
use runtime::Clock;

use super::cage::{Cage, own_group};
use super::folder::Folder;
use super::order::{Confinement, Order};
use super::report::{End, Ended, Heard, Output};
use super::score::Score;
use super::sweep::{can_look, sweep};

/// What a script finds in its environment, and nothing else.
const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8"), ("HOME", "/")];
/// What one process of a script may take. A service bounds all of them together besides.
const LIMITS: [(Resource, u64); 5] = [
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_NOFILE, 1024),
    (Resource::RLIMIT_NPROC, 256),
    (Resource::RLIMIT_DATA, 1 << 30),
    (Resource::RLIMIT_FSIZE, 1 << 30),
];
/// How often is written down what it has said last.
const TOLD_EVERY: Duration = Duration::from_millis(500);
/// How long outputs may lag behind the end of all who wrote them.
const OUTPUT_LAG: Duration = Duration::from_secs(2);

/// Runs the script in that folder below that root. Does nothing when it was begun before, or given up.
///
/// # Errors
/// When the outcome could not be written down.
pub fn run(folder: &Path, root: &Path) -> io::Result<()> {
    // A signal to whoever started this is not one to the script.
    let _ = setsid();
    close_inherited();
    // As the system shows it: the script's own root may have no `/proc`.
    let (score, group) = (Score::open(), own_group());
    if root != Path::new("/") {
        chroot(root)?;
        chdir("/")?;
    }
    let folder = Folder::at(folder);
    let lock = folder.lock()?;
    lock.lock()?;
    if !folder.begin()? {
        return Ok(());
    }
    let order = folder.order()?;
    let clock = Clock::system();
    let began = clock.now();
    let cage = match order.confinement {
        Confinement::Session => group.and_then(Cage::below),
        // The service manager has made one.
        Confinement::Service => None,
    };
    let (started, cage) = match cage {
        Some(cage) => {
            let (started, is_outside) = cage.around(|| start(&folder, &order, score));
            (started, Some(cage).filter(|_| is_outside))
        }
        None => (start(&folder, &order, score), None),
    };
    let budget = Duration::from_secs(order.budget_secs.into());
    let mut ended = match started {
        Ok(child) => attend(child, &folder, budget, cage.as_ref()),
        Err(error) => Ended {
            end: End::NotStarted { why: format!("{:?}: {error}", order.interpreter) },
            took_ms: 0,
            killed_processes: Some(0),
            stdout: None,
            stderr: None,
        },
    };
    let took = clock.now().saturating_duration_since(began);
    ended.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    folder.end(&ended)
}

/// Closes what whoever started the agent left open. What this program opens itself is closed by every
/// exec anyway (`O_CLOEXEC`, proc_pid_fdinfo(5)).
fn close_inherited() {
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        let is_own = |flags: i32| OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC);
        if number > 2 && flags.is_some_and(|flags| !is_own(flags)) {
            let _ = close(number);
        }
    }
}

fn start(folder: &Folder, order: &Order, score: Option<Score>) -> io::Result<Child> {
    set_child_subreaper(true)?;
    for (resource, most) in LIMITS {
        // Whoever has less already keeps it.
        let _ = setrlimit(resource, most, most);
    }
    set_no_new_privs()?;
    let (program, rest) = order.interpreter.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(rest)
        .arg(folder.script())
        .args(&order.args)
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir(folder.work())
        .process_group(0)
        // Nothing: whoever starts a supervisor gives it nothing to read.
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(account) = &order.account {
        // Groups beside this one are dropped along (std::os::unix::process::CommandExt::uid).
        command.gid(account.gid).uid(account.uid);
    }
    match score {
        Some(mut score) => score.as_of_a_script(|| command.spawn()),
        None => command.spawn(),
    }
}

/// Waits for its end, or ends it; and then for whoever is left.
fn attend(mut child: Child, folder: &Folder, budget: Duration, cage: Option<&Cage>) -> Ended {
    let (stdout, stderr) = (Heard::default(), Heard::default());
    let outputs = (
        child.stdout.take().map(|pipe| collect(pipe, &stdout)),
        child.stderr.take().map(|pipe| collect(pipe, &stderr)),
    );
    let mut told = advance::Output::default();
    let is_in_time = ends_within(&child, budget, || {
        let said = advance::Output { stdout: stdout.tail(), stderr: stderr.tail() };
        if said != told {
            // For whoever watches only: the script goes on, whatever becomes of that.
            let _ = folder.tell(&said);
            told = said;
        }
    });
    if !is_in_time || !can_look() {
        // Not reaped yet, so that its group cannot have become somebody else's.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    }
    let end = match child.wait() {
        Ok(_) | Err(_) if !is_in_time => End::TimedOut,
        Ok(status) => end_of(status),
        Err(error) => End::NotStarted { why: error.to_string() },
    };
    let caged = cage.map_or(Some(0), Cage::empty);
    // Also where the group is empty: what was root may have left it.
    let killed_processes = sweep().zip(caged).map(|(swept, caged)| swept.saturating_add(caged));
    Ended {
        end,
        took_ms: 0,
        killed_processes,
        stdout: collected(outputs.0.as_ref()),
        stderr: collected(outputs.1.as_ref()),
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(status), _) => End::Exited { status },
        (None, signal) => End::Killed { signal: signal.unwrap_or_default() },
    }
}

/// Waits for the end without reaping, and does something else now and then. Answers whether it came in time.
fn ends_within(child: &Child, budget: Duration, mut meanwhile: impl FnMut()) -> bool {
    let (done, ended) = sync_channel(1);
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
        let _ = done.send(());
    });
    let clock = Clock::system();
    let began = clock.now();
    loop {
        let left = budget.saturating_sub(clock.now().saturating_duration_since(began));
        match ended.recv_timeout(left.min(TOLD_EVERY)) {
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return false,
            Err(RecvTimeoutError::Timeout) => meanwhile(),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

fn collect(pipe: impl io::Read + Send + 'static, heard: &Heard) -> Receiver<Output> {
    let (done, collected) = sync_channel(1);
    let heard = heard.clone();
    thread::spawn(move || {
        let _ = done.send(heard.read(pipe));
    });
    collected
}

fn collected(from: Option<&Receiver<Output>>) -> Option<Output> {
    from?.recv_timeout(OUTPUT_LAG).ok()
}
