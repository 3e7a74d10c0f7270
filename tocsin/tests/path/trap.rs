//! A trap for a running process: it dies at the n-th system call that changes anything, or what it
//! asks of its journal's disk fails.
//!
//! The calls of all its threads are counted together, which strace's injection does not do: with
//! several threads only a common count visits every step.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Everything by which a process changes the world outside its memory.
const CALLS: [i64; 17] = [
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_ftruncate,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
];

/// Calls that write a file.
pub(crate) const WRITES: &[i64] =
    &[libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64, libc::SYS_pwritev];
/// Calls that bring a file to the disk.
pub(crate) const SYNCS: &[i64] = &[libc::SYS_fsync, libc::SYS_fdatasync];
/// What the names of the journal and of its successors contain.
const JOURNAL: &str = "/journal-";

/// What the trap does.
#[derive(Clone, Copy)]
enum Deed {
    /// Kills at the n-th call of [`CALLS`].
    Kill(u32),
    /// Lets calls for the journal fail with an I/O error, after so many that work.
    Fail { calls: &'static [i64], after: u32 },
}

/// What becomes of the process when the trap is taken away.
#[derive(Clone, Copy)]
enum Ending {
    LetGo,
    Kill,
}

/// Whether a trap can be set: a process that keeps its memory private is traced by root alone.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is told what was not tried")]
pub(crate) fn is_possible() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: root alone traces a process that keeps its memory private");
    }
    is_root
}

/// A set trap. Dropping it lets a process that is still alive go.
pub(crate) struct Trap {
    pid: Pid,
    tracer: Option<JoinHandle<bool>>,
    stop: SyncSender<Ending>,
}

impl Trap {
    /// Sets the trap that kills, and returns when it is set.
    pub(crate) fn set(pid: u32, when: u32) -> Self {
        Self::lay(pid, Deed::Kill(when))
    }

    /// Sets the trap that breaks the journal's disk, and returns when it is set: of those calls
    /// the first `after` work, and none after them until it is released.
    pub(crate) fn break_journal(pid: u32, calls: &'static [i64], after: u32) -> Self {
        Self::lay(pid, Deed::Fail { calls, after })
    }

    fn lay(pid: u32, deed: Deed) -> Self {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        let (stop, stopped) = sync_channel(1);
        let (set, is_set) = sync_channel(1);
        let tracer = std::thread::spawn(move || Tracer::attach(pid).run(deed, &set, &stopped));
        is_set.recv().expect("the tracer says that it has attached");
        Self { pid, tracer: Some(tracer), stop }
    }
}

impl Trap {
    /// Takes the trap away, and says whether it has killed: its process may only be about to die.
    pub(crate) fn release(mut self) -> bool {
        self.stop(Ending::LetGo)
    }

    /// kill -9, while the trap is set. The process is left to its parent to wait for.
    pub(crate) fn kill(mut self) {
        self.stop(Ending::Kill);
    }

    fn stop(&mut self, ending: Ending) -> bool {
        let _ = self.stop.try_send(ending);
        // Any thread that stops wakes the tracer, which then sees that it is to go.
        let _ = kill(self.pid, Signal::SIGWINCH);
        let tracer = self.tracer.take();
        tracer.is_some_and(|tracer| tracer.join().expect("the tracer ends well"))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.stop(Ending::LetGo);
    }
}

/// The one thread that may speak to the traced ones.
struct Tracer {
    pid: Pid,
}

impl Tracer {
    fn attach(pid: Pid) -> Self {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        let mut seized = BTreeSet::new();
        // A thread may be born while others are being seized.
        loop {
            let fresh: Vec<_> =
                threads(pid).into_iter().filter(|id| !seized.contains(id)).collect();
            if fresh.is_empty() {
                return Self { pid };
            }
            for id in fresh {
                seized.insert(id);
                match ptrace::seize(Pid::from_raw(id), options) {
                    Ok(()) => ptrace::interrupt(Pid::from_raw(id)).expect("a seized thread stops"),
                    // Born of a seized thread, and traced since its birth; or gone already.
                    Err(Errno::EPERM | Errno::ESRCH) => {}
                    Err(error) => panic!("cannot trace thread {id}: {error}"),
                }
            }
        }
    }

    /// Says whether it has killed.
    fn run(&self, mut deed: Deed, set: &SyncSender<()>, stop: &Receiver<Ending>) -> bool {
        let mut failing = BTreeSet::new();
        set.send(()).expect("the test waits for this");
        // Only what this thread traces: other tests wait for children of theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while let Ok(status) = waitpid(None, Some(flags)) {
            let ending = stop.try_recv();
            let Some(thread) = status.pid() else { continue };
            match ending {
                Ok(Ending::LetGo) => {
                    self.let_go(thread);
                    return false;
                }
                Ok(Ending::Kill) => {
                    let _ = kill(self.pid, Signal::SIGKILL);
                    return true;
                }
                Err(_) => {}
            }
            if matches!(status, WaitStatus::PtraceSyscall(_)) {
                match &mut deed {
                    Deed::Kill(left) if is_entering(thread, &CALLS) => {
                        *left -= 1;
                        if *left == 0 {
                            let _ = kill(self.pid, Signal::SIGKILL);
                            return true;
                        }
                    }
                    Deed::Fail { .. } if failing.remove(&thread) => fail(thread),
                    Deed::Fail { calls, after } if is_entering(thread, calls) => {
                        if is_for_journal(thread) && !count_down(after) {
                            fail(thread);
                            failing.insert(thread);
                        }
                    }
                    Deed::Kill(_) | Deed::Fail { .. } => {}
                }
            }
            proceed(status, thread);
        }
        false
    }

    /// Lets every thread go on untraced. A thread that runs is stopped first.
    fn let_go(&self, stopped: Pid) {
        let _ = ptrace::detach(stopped, None);
        for id in threads(self.pid) {
            let thread = Pid::from_raw(id);
            if ptrace::interrupt(thread).is_ok() {
                let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
                let _ = waitpid(thread, Some(flags));
                let _ = ptrace::detach(thread, None);
            }
        }
    }
}

fn threads(pid: Pid) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a thread that stopped at a system call is about to make one of those.
fn is_entering(thread: Pid, calls: &[i64]) -> bool {
    let Ok(registers) = ptrace::getregs(thread) else { return false };
    let is_entry = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
    is_entry && calls.contains(&registers.orig_rax.cast_signed())
}

/// Whether the first argument of a thread's call is a descriptor of the journal.
fn is_for_journal(thread: Pid) -> bool {
    let Ok(registers) = ptrace::getregs(thread) else { return false };
    let link = format!("/proc/{thread}/fd/{}", registers.rdi);
    fs::read_link(Path::new(&link)).is_ok_and(|path| path.to_string_lossy().contains(JOURNAL))
}

/// Whether there was one left.
fn count_down(left: &mut u32) -> bool {
    let had_one = *left > 0;
    *left = left.saturating_sub(1);
    had_one
}

/// Makes a call that begins one that the kernel does not know, and gives it an error as its
/// answer; done again where it ends, because the kernel has put its own answer there.
fn fail(thread: Pid) {
    if let Ok(mut registers) = ptrace::getregs(thread) {
        registers.orig_rax = u64::MAX;
        registers.rax = (-i64::from(libc::EIO)).cast_unsigned();
        let _ = ptrace::setregs(thread, registers);
    }
}

/// Lets a thread go on to its next system call, with the signal that stopped it.
fn proceed(status: WaitStatus, thread: Pid) {
    let signal = match status {
        WaitStatus::Stopped(_, signal) => Some(signal),
        WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Exited(..)
        | WaitStatus::Signaled(..)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => None,
    };
    let _ = ptrace::syscall(thread, signal);
}
