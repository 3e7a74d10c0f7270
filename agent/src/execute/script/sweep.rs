//! Ends whoever is left of a script, also those that left its group and session, and those that fork faster than they
//! are looked for.
//!
//! Whoever loses its parent becomes a child of the supervisor (prctl(2), `PR_SET_CHILD_SUBREAPER`), so what is left are
//! its descendants. They are stopped before they are killed: what is stopped forks nothing, and still counts
//! against what its account may have (`RLIMIT_NPROC`), so that nobody takes its place. Source: `proc_pid_stat(5)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How often is looked for whoever is left.
const ROUND: Duration = Duration::from_millis(20);
/// Rounds in which whoever still runs is stopped.
const STOPS: u32 = 50;
/// Rounds in which whoever is left, and what it forks, is killed.
const ROUNDS: u32 = 250;

/// Children that are asked how they ended in one round: whoever forks for ever has always one more.
const REAPED: u32 = 4096;

/// One process, as it was when it was looked at.
#[derive(Debug, Clone, Copy)]
struct Process {
    parent: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Stopped,
    /// It has ended, and its parent has not asked how.
    Ended,
}

/// Kills whoever is left. How many; `None` when nobody could look, or some stay.
pub(super) fn sweep() -> Option<u32> {
    for _ in 0..STOPS {
        let running = descendants(|state| state == State::Running).unwrap_or_default();
        if running.is_empty() {
            break;
        }
        signal(&running, Signal::SIGSTOP);
    }
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS {
        let found = descendants(|state| state != State::Ended);
        killed.extend(found.iter().flat_map(|pids| signal(pids, Signal::SIGKILL)));
        for _ in 0..REAPED {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return found.and(u32::try_from(killed.len()).ok()),
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(_) => {}
            }
        }
        found?;
        thread::sleep(ROUND);
    }
    None
}

/// Whether processes can be seen: a folder that is nobody's `/proc` does not even show this one.
pub(super) fn can_look() -> bool {
    Path::new("/proc/self/stat").exists()
}

/// Those that were there to hear it.
fn signal(pids: &[i32], signal: Signal) -> Vec<i32> {
    let heard = |pid: &i32| kill(Pid::from_raw(*pid), signal).is_ok();
    pids.iter().copied().filter(heard).collect()
}

/// Descendants of this process in such a state; `None` where there is no `/proc`.
fn descendants(is_such: impl Fn(State) -> bool) -> Option<Vec<i32>> {
    let all = processes()?;
    let own = std::process::id();
    let descends = |process: &Process| {
        let mut parent = process.parent;
        // No further than there are processes: what was read while they changed may lead in a circle.
        for _ in 0..all.len() {
            if parent == own {
                return true;
            }
            let Some(next) = all.get(&parent) else { return false };
            parent = next.parent;
        }
        false
    };
    let found = all.iter().filter(|(_, process)| is_such(process.state) && descends(process));
    Some(found.filter_map(|(pid, _)| i32::try_from(*pid).ok()).collect())
}

fn processes() -> Option<BTreeMap<u32, Process>> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all = pids.filter_map(|pid: u32| Some((pid, process(pid)?))).collect();
    can_look().then_some(all)
}

/// A name may hold anything, also what ends it.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = match fields.next()? {
        "Z" | "X" => State::Ended,
        "T" | "t" => State::Stopped,
        _ => State::Running,
    };
    Some(Process { parent: fields.next()?.parse().ok()?, state })
}
