//! What processes and the kernel cost, read from `/proc` (`proc(5)`).
//!
//! Only looks. What one may look at depends on who one is: of a process that holds secrets, as hub and
//! control plane do (`PR_SET_DUMPABLE`), only root reads the memory, and everybody the processor time.
//! So each part is read by itself, and one that cannot be read is unknown and never nothing.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// There is no such process, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no process {0}")]
pub struct Gone(pub u32);

/// What a process has used up to a moment; `None`: that part cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Proportional set size, in KiB: what is shared counts in parts.
    pub pss_kib: Option<u64>,
    /// Time on a processor, all threads.
    pub cpu: Option<Duration>,
    /// What it had written to disks, in KiB: pages that it made dirty count, whenever they leave.
    pub written_kib: Option<u64>,
}

impl Usage {
    /// What nobody has used.
    pub const NOTHING: Self =
        Self { pss_kib: Some(0), cpu: Some(Duration::ZERO), written_kib: Some(0) };

    /// Both together: known where both are.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let both = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        Self {
            pss_kib: both(self.pss_kib, other.pss_kib),
            cpu: self.cpu.zip(other.cpu).map(|(one, other)| one + other),
            written_kib: both(self.written_kib, other.written_kib),
        }
    }
}

/// Looks at a process and those that it has started, such as a PostgreSQL's. What ended among
/// them counts in the processor time.
///
/// # Errors
/// [`Gone`], when there is no such process itself.
pub fn family(pid: u32) -> Result<Usage, Gone> {
    let mut sum = look(pid, true)?;
    for child in children(pid) {
        // It may have ended since.
        let Ok(usage) = family(child) else { continue };
        sum = sum.plus(usage);
    }
    Ok(sum)
}

/// Looks at one process alone.
///
/// # Errors
/// [`Gone`].
pub fn alone(pid: u32) -> Result<Usage, Gone> {
    look(pid, false)
}

fn look(pid: u32, with_ended: bool) -> Result<Usage, Gone> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let pss_kib = match read("smaps_rollup") {
        Ok(text) => pss(&text),
        // It has ended, and nobody has asked for its outcome yet.
        Err(error) if has_ended(&error) => Some(0),
        Err(_) => None,
    };
    // Kernels without accounting of I/O have no such file.
    let written_kib = read("io").ok().and_then(|text| written(&text));
    // Everybody may read this one, so that it says whether there is a process. It comes last: what ends
    // meanwhile is gone, and not unknown.
    let [own, ended] = match read("stat") {
        Ok(text) => ticks(&text).map_or([None; 2], |[own, ended]| [Some(own), Some(ended)]),
        Err(error) if error.kind() == io::ErrorKind::NotFound || has_ended(&error) => {
            return Err(Gone(pid));
        }
        Err(_) => [None; 2],
    };
    // Hundredths of a second say little of a process that pings a thousand sessions in them.
    let own = on_processor(pid).or_else(|| own.map(of_ticks));
    let ended = if with_ended { ended.map(of_ticks) } else { Some(Duration::ZERO) };
    let cpu = own.zip(ended).map(|(own, ended)| own + ended);
    Ok(Usage { pss_kib, cpu, written_kib })
}

/// The clock of a process: what all of its threads, also those that have ended, were on a processor, in
/// nanoseconds (`clock_getcpuclockid(3)`). Everybody may read it.
fn on_processor(pid: u32) -> Option<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    Some(clock.now().ok()?.into())
}

fn has_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ESRCH as i32)
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / ticks_per_sec())
}

/// The `write_bytes` line of `io`, in KiB.
fn written(text: &str) -> Option<u64> {
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
    Some(bytes.trim().parse::<u64>().ok()? / 1024)
}

fn ticks_per_sec() -> u64 {
    let per_sec = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    per_sec.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100).max(1)
}

/// The processes that its threads have started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
    let lists = threads.flatten().filter_map(|thread| of_thread(thread).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The `Pss` line of `smaps_rollup`.
fn pss(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Of `stat`: `utime` with `stime`, and the same of children that were waited for. The name before
/// them may hold anything, even parentheses.
fn ticks(text: &str) -> Option<[u64; 2]> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some([next()? + next()?, next()? + next()?])
}

/// What the kernel holds for TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Buffers of all TCP sockets of the machine, in KiB.
    pub socket_kib: u64,
    /// TCP sockets that are in use.
    pub sockets: u64,
    /// Those that only wait for late packets.
    pub time_wait: u64,
    /// Objects of the kernel (`Slab` of `/proc/meminfo`), in KiB: the structures of sockets are among
    /// them, and everything else that it keeps for the whole machine.
    #[serde(default)]
    pub slab_kib: u64,
}

/// Looks at the kernel; all zero when it does not tell.
pub fn kernel() -> Kernel {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = sockets(&read("/proc/net/sockstat"), page / 1024).unwrap_or_default();
    Kernel { slab_kib: slab(&read("/proc/meminfo")).unwrap_or(0), ..kernel }
}

/// The `Slab` line of `meminfo`.
fn slab(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The `TCP` line of `sockstat`; `mem` counts pages.
fn sockets(text: &str, page_kib: u64) -> Option<Kernel> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| {
        let pair = words.chunks_exact(2).find(|pair| pair[0] == name)?;
        pair[1].parse::<u64>().ok()
    };
    Some(Kernel {
        socket_kib: value("mem")? * page_kib,
        sockets: value("inuse")?,
        time_wait: value("tw")?,
        slab_kib: 0,
    })
}

/// The load of the machine: processes that run or want to, averaged over a minute.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// The time for which this machine's processors wanted to run and another machine's did, since it was
/// started (`steal` of `/proc/stat`); `None`: the kernel does not tell.
pub fn stolen() -> Option<Duration> {
    steal(&fs::read_to_string("/proc/stat").ok()?).map(of_ticks)
}

/// The eighth number of the first line, which is that of all processors.
fn steal(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    words.nth(7)?.parse().ok()
}

/// Whole milliseconds that were stolen from then to now.
pub fn stolen_ms(then: Option<Duration>, now: Option<Duration>) -> Option<u64> {
    u64::try_from(now?.saturating_sub(then?).as_millis()).ok()
}

/// The kernel's version.
pub fn kernel_version() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Processors of the machine.
pub fn processors() -> u64 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| u64::try_from(count).ok()).unwrap_or(1)
}
