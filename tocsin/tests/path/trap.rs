//! A trap for a running process: it dies at the n-th system call that changes anything.
//!
//! The calls of all its threads are counted together, which strace's injection does not do: with
//! several threads only a common count visits every step.

use std::collections::BTreeSet;
use std::fs;
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

/// A set trap. Dropping it lets a process that is still alive go.
pub(crate) struct Trap {
    pid: Pid,
    tracer: Option<JoinHandle<bool>>,
    stop: SyncSender<()>,
}

impl Trap {
    /// Sets the trap, and returns when it is set.
    pub(crate) fn set(pid: u32, when: u32) -> Self {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
        let (stop, stopped) = sync_channel(1);
        let (set, is_set) = sync_channel(1);
        let tracer = std::thread::spawn(move || Tracer::attach(pid).run(when, &set, &stopped));
        is_set.recv().expect("the tracer says that it has attached");
        Self { pid, tracer: Some(tracer), stop }
    }
}

impl Trap {
    /// Takes the trap away, and says whether it has killed: its process may only be about to die.
    pub(crate) fn release(mut self) -> bool {
        self.stop()
    }

    fn stop(&mut self) -> bool {
        let _ = self.stop.try_send(());
        // Any thread that stops wakes the tracer, which then sees that it is to go.
        let _ = kill(self.pid, Signal::SIGWINCH);
        let tracer = self.tracer.take();
        tracer.is_some_and(|tracer| tracer.join().expect("the tracer ends well"))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.stop();
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
    fn run(&self, when: u32, set: &SyncSender<()>, stop: &Receiver<()>) -> bool {
        let mut left = when;
        set.send(()).expect("the test waits for this");
        // Only what this thread traces: other tests wait for children of theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while let Ok(status) = waitpid(None, Some(flags)) {
            let is_ending = stop.try_recv().is_ok();
            let Some(thread) = status.pid() else { continue };
            if is_ending {
                self.let_go(thread);
                return false;
            }
            if matches!(status, WaitStatus::PtraceSyscall(_)) && is_counted(thread) {
                left -= 1;
                if left == 0 {
                    let _ = kill(self.pid, Signal::SIGKILL);
                    return true;
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

/// Whether a thread that stopped at a system call is about to make one that counts.
fn is_counted(thread: Pid) -> bool {
    let Ok(registers) = ptrace::getregs(thread) else { return false };
    let is_entry = registers.rax.cast_signed() == -i64::from(libc::ENOSYS);
    is_entry && CALLS.contains(&registers.orig_rax.cast_signed())
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
